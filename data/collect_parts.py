"""A pass over images that survives a kill, and that processes share.

Each process of a job keeps its own file in the folder of the result, which all
of them see: what it has read so far, from time to time, and at last all of it.
"""

import itertools
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from data.collect import Collector

SAVE_EVERY_S = 300.0
PARTS = 'partial-*-of-*.npz'


class Parts:
  """The states of a pass's collectors on disk.

  Args:
    folder: of them; local or gs://.
    settings: plain JSON values that the moments depend on.
    index: of this process.
    count: of the processes.
    every_s: seconds between two savings.
  """

  def __init__(
    self,
    folder: epath.PathLike,
    settings: dict[str, Any],
    *,
    index: int | None = None,
    count: int | None = None,
    every_s: float = SAVE_EVERY_S,
  ):
    self._folder = epath.Path(folder)
    self._index = jax.process_index() if index is None else index
    self._count = jax.process_count() if count is None else count
    self._settings = json.dumps(settings, sort_keys=True)
    self._every_s, self._last = every_s, time.monotonic()

  def images(self, every: Iterable[Any]) -> Iterator[Any]:
    """Those that this process reads."""
    return itertools.islice(every, self._index, None, self._count)

  def length(self, total: int) -> int:
    """How many of `total` images this process reads."""
    return len(range(self._index, total, self._count))

  def restore(self, collector: Collector) -> bool:
    """Lets the collector go on where another stopped; False: from the start.

    Raises:
      ValueError: the folder holds a state under other settings, or of another
        number of processes.
    """
    ending = f'-of-{self._count}.npz'
    for path in self._folder.glob(PARTS):
      if not path.name.endswith(ending):
        raise ValueError(
          f'--output={self._folder} holds {path.name} of another number of '
          f'processes than {self._count}; start as many, or give another '
          '--output'
        )
    path = self._path(self._index)
    if not path.exists():
      return False
    collector.restore(self._read(path))
    return True

  def __call__(self, collector: Collector, *, done: bool = False) -> None:
    """Writes the state where it is time, or all is done."""
    if not done and time.monotonic() - self._last < self._every_s:
      return
    state, path = collector.state(), self._path(self._index)
    self._folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.new')
    with partial.open('wb') as file:
      facts = json.dumps(state['facts'])
      np.savez(file, settings=self._settings, facts=facts, **state['arrays'])
    partial.replace(path)
    self._last = time.monotonic()

  def gather(self, collector: Collector) -> None:
    """Adds what all other processes have read, when they are done."""
    for index in range(self._count):
      if index != self._index:
        collector.merge(self._read(self._path(index)))

  def remove(self) -> None:
    """The result is written: no part is needed any more."""
    for index in range(self._count):
      self._path(index).unlink(missing_ok=True)

  def _path(self, index: int) -> epath.Path:
    return self._folder / f'partial-{index}-of-{self._count}.npz'

  def _read(self, path: epath.Path) -> dict[str, Any]:
    with path.open('rb') as file, np.load(file, allow_pickle=False) as found:
      arrays = {name: found[name] for name in found.files}
    settings, facts = (str(arrays.pop(n)) for n in ('settings', 'facts'))
    if settings != self._settings:
      raise ValueError(
        f'--output={self._folder} holds a pass under other settings: '
        f'{settings} there, {self._settings} now; give the same flags, or '
        'another --output'
      )
    return {'facts': json.loads(facts), 'arrays': arrays}
