"""The iterator over batches, and its state: a place in the sample stream."""

import atexit
import math
import time
import weakref
from collections import deque
from typing import Any

import grain
import numpy as np
from absl import flags

from data import assemble, records

# Samples read ahead, over all workers: enough to hide a slow one.
AHEAD = 64

_ALIVE = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
  # Later, at interpreter shutdown, grain finds its modules already gone.
  for batches in list(_ALIVE):
    batches.close()


class Batches(grain.DatasetIterator):
  """Iterator over batches whose state is its place in the sample stream.

  The state holds how many samples were read, the places of those read but not
  yet in a batch that was handed out (re-read on resumption), and the counts.
  It is plain JSON and does not depend on the number of workers; being a grain
  iterator it can be saved with Orbax. `wait` is the time spent in `next`.
  """

  def __init__(
    self,
    dataset,
    rows,
    batch_size,
    workers,
    counts,
    number,
    settings,
    check,
    observe=None,
  ):
    super().__init__()
    self._dataset, self._rows, self._batch_size = dataset, rows, batch_size
    self._workers, self._counts = workers, counts
    self._number, self._settings = number, settings
    self._check, self._observe = check, observe
    self._samples = None
    self._reset()
    _ALIVE.add(self)

  def _reset(self) -> None:
    self._stop_reading()
    self._next = 0
    self._pending: set[int] = set()
    self._ready = deque()
    self._assembler = self._rows.start(self._batch_size)
    self._delivered = 0
    self._ended = False
    self._filled: dict[str, list[int]] = {}  # array: used, in all
    self.wait = 0.0

  def __next__(self) -> dict[str, Any]:
    began = time.perf_counter()
    try:
      while not self._ready and not self._ended:
        self._read()
    except Exception:
      self._stop_reading()
      raise
    if not self._ready:
      batch = self._filler()
    else:
      batch = self._ready.popleft()
      self._pending.difference_update(_flat(batch.pop('_place')))
    if self._check is not None:
      self._check(batch)
      self._check = None
    if self._observe is not None:
      self._observe(self._delivered, batch)
    self._delivered += 1
    self._count_padding(batch)
    self.wait += time.perf_counter() - began
    return batch

  def _count_padding(self, batch: dict[str, Any]) -> None:
    plan = batch.get('plan', {})
    for name, used in (
      ('padding_share', batch.get('segment_ids')),
      ('visual_padding_share', plan.get('valid')),
      ('patch_padding_share', plan.get('frame')),
    ):
      if used is not None:
        filled = self._filled.setdefault(name, [0, 0])
        filled[0] += int(np.count_nonzero(used))
        filled[1] += used.size

  def _filler(self) -> dict[str, Any]:
    """An empty batch where bad rows left this process short of others."""
    if self._number is None or self._delivered >= self._number:
      self._stop_reading()
      raise StopIteration
    for place in range(len(self._dataset)):
      row = self._dataset[place]
      if isinstance(row, dict):
        shape = assemble.collate([row], self._batch_size)
        return _emptied(shape)
    raise RuntimeError(
      'this process has no usable row to shape an empty batch like; use fewer '
      'processes or a smaller --config.batch_size'
    )

  def _read(self) -> None:
    """Takes one sample from the stream to the assembler."""
    if self._samples is None:
      self._samples = self._stream()
    try:
      sample = next(self._samples)
    except StopIteration:
      self._ended = True
      self._ready.extend(self._assembler.flush())
      self._counts.finish()
      return
    place, self._next = self._next, self._next + 1
    if isinstance(sample, records.BadRecord):
      self._counts.report(sample)
      return
    self._counts.good()
    self._push(place, _owned(sample) if self._workers else sample)

  def _push(self, place: int, sample: dict[str, Any]) -> None:
    self._pending.add(place)
    self._ready.extend(self._assembler.push({**sample, '_place': place}))

  def _stream(self) -> Any:
    """Reads ahead from the current place, in worker processes or threads."""
    if self._next >= len(self._dataset):
      return iter(())
    rest = self._dataset[self._next :]
    ahead = min(2 * self._batch_size, AHEAD)
    if not self._workers:
      return iter(
        rest.to_iter_dataset(
          grain.ReadOptions(num_threads=2, prefetch_buffer_size=ahead)
        )
      )
    # Workers inherit absl flags, which only an absl app has parsed.
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    ahead = math.ceil(ahead / self._workers)
    return iter(
      rest.to_iter_dataset(
        grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
      ).mp_prefetch(
        grain.multiprocessing.MultiprocessingOptions(
          num_workers=self._workers, per_worker_buffer_size=ahead
        )
      )
    )

  def _stop_reading(self) -> None:
    if self._samples is not None and hasattr(self._samples, 'close'):
      self._samples.close()
    self._samples = None

  def close(self) -> None:
    """Stops the workers."""
    self._closed = True
    self._stop_reading()

  def get_state(self) -> dict[str, Any]:
    """Returns the place in the stream after the last batch handed out."""
    return {
      'next': self._next,
      'pending': sorted(self._pending),
      'delivered': self._delivered,
      'filled': {name: list(pair) for name, pair in self._filled.items()},
      'counts': self._counts.get_state(),
      'settings': self._settings,
    }

  def set_state(self, state: dict[str, Any]) -> None:
    """Continues where `state` was taken, with any number of workers.

    Raises:
      ValueError: when the state comes from a pipeline with other settings.
    """
    for name, value in self._settings.items():
      if state['settings'].get(name) != value:
        raise ValueError(
          f'the saved data state has {name}={state["settings"].get(name)!r}, '
          f'this run has {name}={value!r}; resume with the same data settings '
          'or start in a new workdir'
        )
    self._reset()
    self._next, self._delivered = state['next'], state['delivered']
    self._filled = {k: list(pair) for k, pair in state['filled'].items()}
    self._counts.set_state(state['counts'])
    for place in state['pending']:
      self._push(place, self._dataset[place])

  def stats(self) -> dict[str, Any]:
    """Returns rows seen, bad rows by reason, padding shares and seconds waited.

    Rows are counted when read, up to one batch ahead of the batches returned.
    """
    return {
      **self._counts.get_state(),
      'batches': self._delivered,
      **{name: 1 - used / of for name, (used, of) in self._filled.items()},
      'wait_seconds': self.wait,
    }


def _flat(places: list[Any]) -> list[int]:
  return [
    p for place in places for p in (place if type(place) is list else [place])
  ]


def _owned(sample: dict[str, Any]) -> dict[str, Any]:
  """Copies arrays out of shared memory, which outlives nobody."""
  owned = {}
  for key, value in sample.items():
    if isinstance(value, dict):
      owned[key] = _owned(value)
    else:
      owned[key] = np.array(value) if isinstance(value, np.ndarray) else value
  return owned


def _emptied(batch: dict[str, Any]) -> dict[str, Any]:
  empty = {}
  for key, value in batch.items():
    if isinstance(value, dict):
      empty[key] = _emptied(value)
    else:
      empty[key] = [] if key.startswith('_') else np.zeros_like(value)
  return empty
