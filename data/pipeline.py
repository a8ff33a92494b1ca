"""From sources to batches: shard, shuffle, mix, transform, assemble, resume.

A batch is a dict of numpy arrays. This table is its only documentation.

    tokens       int32 [B, T]     ids; one placeholder id per visual token
    segment_ids  int32 [B, T]     0 is padding, 1.. number the packed samples
    positions    int32 [B, T]     position inside its sample; with M-RoPE
                                  [B, T, 3] (time, row, column)
    loss_mask    float32 [B, T]   1 where this token is a supervised target; the
                                  loss shifts by one itself
    plan/valid   bool [B, M]      the valid visual tokens fill the row's
                                  placeholders in order
    plan/grid    int32 [B, M, 3]  (t, h, w) of each visual token

Where something leaves video tokens out (data/videos.py):

    plan/frames    int32 [B, V, F, N]  the visual token n of frame f of video v,
                                  -1 where a video is smaller
    plan/prunable  bool [B, M]    tokens of videos, newlines of frames included

Towers that see tiles (data/tiles.py):

    pixels       uint8 or float32 [B, I, S, S, 3]   tiles or frames, zeros where
                                  unused; uint8 is normalised on device
    plan/index   int32 [B, M, K]  entries of the row's bank: its tiles' tower
                                  tokens [I * P], then the newline at I * P
    plan/weight  float32 [B, M, K]  visual token m is the sum over k of
                                  weight[m, k] * bank[index[m, k]]

Towers that see patches of images at their own size (data/patches.py):

    pixels         uint8 or float32 [B, S, V]   patches in their slots
    plan/position  int32 [B, S, 2]   row and column of the patch in its image
    plan/frame     int32 [B, S]      number of its frame, 0 in an empty slot
    plan/token     int32 [B, M]      the block of patches a visual token is

Pairs of a picture and a text (data/pairs.py) have no others than these:

    pixels    uint8 [B, S, S, 3]  one picture, of the tower's size
    tokens    int32 [B, T]        ids up to the end token, then zeros
    text_ids  int32 [B]           equal where texts are, above 0; 0 is padding
    cut       float32 [B]         1 where the text was longer than T

Sets of region features (launch/objectives/prototypes.py) have these alone:

    regions   float32 [B, I, M]   zeros where unused
    valid     bool [B, I]
    words     int32 [B, I]        a word of each region, -1 for none
    caption   int32 [B, J]        or the words of a text about them, then -1

B rows, T tokens, I tiles of S pixels with P tower tokens, S patches of V
numbers, M visual tokens, K = 1 (gather) or 4 (bilinear); V videos of F temporal
units of N tokens. Padding is on the
right, and rows without a sample are zeros. Keys that start with '_' are lists
that stay on the host: '_where' names file and row. pixels and plan are absent
without images; other objectives may add arrays of their own with B first.

Workers transform samples; dropping bad rows, packing and batching run after
them in the main process, in the order of the stream, so that batches do not
depend on the number of workers. (Measured with grain's own first-fit packing:
before the prefetch, 1 of 24 rows is the same for 0 and 2 workers; after it, 24
of 24.)
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from data import assemble, records
from data.batches import Batches
from data.pack import RowSpec, row_size

Transform = Callable[[Any], Any] | grain.transforms.RandomMap


def check_batch(batch: dict[str, Any], spec: RowSpec) -> None:
  """Compares a batch with the table above; called when a run starts.

  Raises:
    ValueError: naming the key, what was expected and what was found.
  """
  B = len(batch.get('tokens', ()))
  expected = {
    key: ((B, *shape), dtype) for key, (shape, dtype) in spec.fields().items()
  }
  arrays = {k: v for k, v in batch.items() if k != 'plan'}
  arrays |= {f'plan/{k}': v for k, v in batch.get('plan', {}).items()}
  for key, (shape, dtype) in expected.items():
    if key not in arrays:
      raise ValueError(
        f'the batch has no {key!r}, expected {dtype} {shape}; it has '
        f'{sorted(arrays)}'
      )
    found = (np.shape(arrays[key]), str(arrays[key].dtype))
    if found != (shape, dtype):
      raise ValueError(
        f'batch[{key!r}] is {found[1]} {found[0]}, expected {dtype} {shape}'
      )
  for key, value in arrays.items():
    if key not in expected and not key.startswith('_'):
      _check_extra(key, value, B)
  _check_values(batch, spec)


def _check_extra(key: str, value: Any, rows: int) -> None:
  """What an objective adds: numbers, one row each."""
  if not isinstance(value, np.ndarray) or value.dtype.kind not in 'biuf':
    kind = getattr(value, 'dtype', type(value).__name__)
    raise ValueError(
      f'batch[{key!r}] is {kind}, which has no place on a device; keys that '
      "stay on the host start with '_'"
    )
  if value.ndim < 1 or len(value) != rows:
    raise ValueError(
      f'batch[{key!r}] has shape {value.shape}, expected {rows} rows'
    )


def _check_values(batch: dict[str, Any], spec: RowSpec) -> None:
  padding = batch['segment_ids'] == 0
  if np.any(batch['loss_mask'][padding]) or np.any(batch['tokens'][padding]):
    raise ValueError('tokens and loss_mask must be 0 where segment_ids is 0')
  if 'plan' not in batch:
    return
  valid = batch['plan']['valid']
  spec.check_plan(batch['plan'])
  if spec.placeholders:
    found = np.isin(batch['tokens'], spec.placeholders).sum(1)
    if np.any(found != valid.sum(1)):
      row = int(np.argmax(found != valid.sum(1)))
      raise ValueError(
        f'row {row} has {found[row]} placeholders and {valid[row].sum()} valid '
        'visual tokens'
      )


class _Located:
  """Reads rows as (row, where); an unreadable row is a `BadRecord`."""

  def __init__(self, source: Any):
    self._source = source
    self._name = str(getattr(source, 'name', type(source).__name__))

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> tuple[str, Any]:
    where = f'{self._name}[{index}]'
    if hasattr(self._source, 'where'):
      where = self._source.where(index)
    try:
      return where, self._source[index]
    except records.BadRecord as bad:
      return where, bad.at(where)
    except Exception as error:
      error.add_note(f'while reading {where}')
      raise


class _Chain(grain.transforms.RandomMap):
  """Applies all transforms; a bad row goes through as its exception."""

  def __init__(self, transforms: Sequence[Transform], check: Callable):
    self._transforms, self._check = tuple(transforms), check

  def random_map(self, element, rng: np.random.Generator):
    where, row = element
    if isinstance(row, records.BadRecord):
      return row
    try:
      for transform in self._transforms:
        row = _apply(transform, row, rng)
      if not isinstance(row, dict):
        raise TypeError(f'the last transform returned {type(row).__name__}')
      self._check(row)
    except records.BadRecord as bad:
      return bad.at(where)
    except Exception as error:
      error.add_note(f'while transforming {where}')
      raise
    return {**row, '_where': where}


def _apply(transform: Transform, row: Any, rng: np.random.Generator) -> Any:
  if isinstance(transform, grain.transforms.RandomMap):
    return transform.random_map(row, rng)
  if isinstance(transform, grain.transforms.Map):
    return transform.map(row)
  return transform(row)


def build(
  sources: Any,
  transforms: Sequence[Transform],
  *,
  batch_size: int,
  seed: int,
  shuffle: bool = True,
  workers: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  epochs: int | None = None,
  weights: Sequence[float] | None = None,
  rows: assemble.Rows | None = None,
  policy: records.BadRowPolicy | None = None,
  specs: Sequence[RowSpec] = (),
  observe: Callable[[int, dict[str, Any]], None] | None = None,
) -> Batches:
  """Builds the iterator of this process's batches.

  Args:
    sources: one random-access source or a list of them (`len`, `[i]`).
    transforms: applied to each row in order; a plain callable takes the row, a
      `grain.transforms.RandomMap` also a generator that depends only on `seed`
      and the row's place in the stream. Must be picklable with workers.
    batch_size: rows of a global batch, over all processes.
    seed: of shuffling and of random transforms.
    shuffle: reshuffles every epoch when true.
    workers: processes that transform; 0 uses threads of this one. Batches are
      the same for any number.
    process_index, process_count: this process's share of the global batch.
    epochs: passes over the data; None repeats for ever. The last batch is
      filled with empty rows and every process gets the same number of batches.
    weights: share of each source in the stream; None concatenates them.
    rows: None when transforms give rows of one shape (end with `Pad(spec)`),
      else `Packing(spec)` or `Buckets(specs)`.
    policy: what to do with bad rows; raises at the first one by default.
    specs: shapes of the rows, to check the first batch against.
    observe: called with the number of every batch that is handed out, and it.

  Raises:
    ValueError: for settings that contradict each other, naming them.
  """
  sources = list(sources) if isinstance(sources, list | tuple) else [sources]
  rows = rows or assemble.Stacked()
  _check_split(batch_size, process_index, process_count, rows, epochs)
  dataset = _mixed(sources, weights, epochs, seed if shuffle else None)
  dataset = dataset.random_map(
    _Chain(transforms, rows.check), seed=_seed(seed, len(sources))
  )
  number = None
  if epochs is not None and isinstance(rows, assemble.Stacked):
    number = math.ceil(len(dataset) / batch_size)
  settings = dict(
    batch_size=batch_size,
    seed=seed,
    shuffle=shuffle,
    process_index=process_index,
    process_count=process_count,
    epochs=epochs,
    weights=None if weights is None else [float(w) for w in weights],
    rows=str(rows),
    source_lengths=[len(source) for source in sources],
  )
  return Batches(
    dataset[process_index::process_count],
    rows,
    batch_size // process_count,
    workers,
    records.BadRowCounts(policy or records.BadRowPolicy()),
    number,
    settings,
    functools.partial(_check_first, specs=tuple(specs)) if specs else None,
    observe,
  )


def _check_split(
  batch_size: int,
  process_index: int,
  process_count: int,
  rows: assemble.Rows,
  epochs: int | None,
) -> None:
  """Every process must get as many rows, and as many batches, as the others."""
  if batch_size % process_count:
    raise ValueError(
      f'batch_size={batch_size} does not divide among {process_count} '
      'processes; set --config.batch_size to a multiple'
    )
  if not 0 <= process_index < process_count:
    raise ValueError(f'process_index={process_index} of {process_count}')
  if process_count > 1 and isinstance(rows, assemble.Buckets):
    raise ValueError(
      'buckets on several processes: each would come to a shape of its own and '
      'wait for the others for ever; use one shape (--config.data.packing '
      'wastes little of it), or a single process'
    )
  stacked = isinstance(rows, assemble.Stacked)
  if epochs is not None and process_count > 1 and not stacked:
    raise ValueError(
      'packing and buckets give each process its own number of batches in '
      'finite data; use epochs=None or one sample per row (Pad)'
    )


def _check_first(batch: dict[str, Any], specs: tuple[RowSpec, ...]) -> None:
  """`check_batch` against the spec of the batch's size."""
  shown = np.shape(batch.get('pixels', np.zeros((0, 0))))[1]
  size = np.shape(batch['tokens'])[1], shown
  fitting = [spec for spec in specs if row_size(spec)[:2] == size]
  check_batch(batch, fitting[0] if fitting else specs[-1])


def _seed(seed: int, stream: int) -> int:
  return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])


def _mixed(sources, weights, epochs, seed) -> grain.MapDataset:
  """Shuffles and repeats the sources and joins them into one stream."""
  for number, source in enumerate(sources):
    if not len(source):
      raise ValueError(
        f'source {number} ({getattr(source, "name", source)}) has no rows; '
        'set --config.data.path'
      )
  if weights is not None and (
    len(weights) != len(sources) or min(weights) <= 0
  ):
    raise ValueError(
      f'weights={tuple(weights)} for {len(sources)} sources: expected one '
      'positive weight per source; set --config.data.weights'
    )
  if weights is not None and len(sources) > 1 and epochs is not None:
    raise ValueError(
      f'weights with epochs={epochs}: sources of different length end at '
      'different times; use epochs=None, or weights=None to concatenate'
    )
  parts = [grain.MapDataset.source(_Located(source)) for source in sources]
  if weights is None and len(parts) > 1:
    parts = [grain.MapDataset.concatenate(parts)]
  if seed is not None:
    parts = [p.shuffle(seed=_seed(seed, i)) for i, p in enumerate(parts)]
  parts = [part.repeat(epochs) for part in parts]
  if len(parts) == 1:
    return parts[0]
  return grain.MapDataset.mix(parts, weights)
