"""From a stream of samples to batches: stack, bucket or pack.

Each recipe starts an assembler: `push(sample)` returns the batches that became
complete, `flush()` the rest, filled up with empty rows (segment_ids 0). What an
assembler holds depends only on the samples pushed since the last complete
batch, in their order; the pipeline's resumption relies on that.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from data import pack

Batch = dict[str, Any]


class Assembler(Protocol):
  """Collects samples until a batch is complete."""

  def push(self, sample: pack.Sample) -> list[Batch]: ...

  def flush(self) -> list[Batch]: ...


class Rows(Protocol):
  """A recipe for assembling batches."""

  def check(self, sample: pack.Sample) -> None:
    """Raises `BadRecord` for a sample that fits no row."""

  def start(self, batch_size: int) -> Assembler:
    """Returns an empty assembler for batches of `batch_size` rows."""


def collate(rows: Sequence[dict[str, Any]], batch_size: int) -> Batch:
  """Stacks rows and fills up with zeros to `batch_size`.

  Keys that start with '_' become lists, of the real rows only.

  Raises:
    ValueError: when the rows of one key differ in shape.
  """
  batch = {}
  for key in rows[0]:
    values = [row[key] for row in rows]
    if key.startswith('_'):
      batch[key] = values
    elif isinstance(values[0], dict):
      batch[key] = collate(values, batch_size)
    else:
      batch[key] = _stack(key, values, batch_size)
  return batch


def _stack(key: str, values: list[Any], batch_size: int) -> np.ndarray:
  shapes = {np.shape(value) for value in values}
  if len(shapes) > 1:
    raise ValueError(
      f'rows of {key!r} have shapes {sorted(shapes)}; rows of a batch need one '
      'static shape: end the transforms with Pad(spec), or pass rows=Packing '
      'or rows=Buckets'
    )
  stacked = np.stack(values)
  if len(values) == batch_size:
    return stacked
  filler = np.zeros((batch_size - len(values), *stacked.shape[1:]))
  return np.concatenate([stacked, filler.astype(stacked.dtype)])


@dataclasses.dataclass(frozen=True)
class Pad:
  """The last transform of a pipeline with one sample per row."""

  spec: pack.RowSpec

  def __call__(self, sample: pack.Sample) -> pack.Sample:
    return pack.pad_sample(sample, self.spec)


@dataclasses.dataclass(frozen=True)
class Stacked:
  """Samples are rows already, all of one shape."""

  def check(self, sample: pack.Sample) -> None:
    """Accepts every sample."""

  def start(self, batch_size: int) -> Assembler:
    """Returns an empty assembler."""
    return _Bucketing(batch_size, lambda sample: (0, sample))


@dataclasses.dataclass(frozen=True)
class Buckets:
  """One sample per row, in the first of a few static shapes that it fits.

  Attributes:
    specs: row shapes from small to large; as many compilations.
  """

  specs: tuple[pack.RowSpec, ...]

  def check(self, sample: pack.Sample) -> None:
    """Raises 'too long' when the largest bucket does not hold the sample."""
    pack.check_sample(sample, self.specs[-1])

  def start(self, batch_size: int) -> Assembler:
    """Returns an empty assembler."""
    return _Bucketing(batch_size, self._row)

  def _row(self, sample: pack.Sample) -> tuple[int, pack.Sample]:
    size = pack.sample_size(sample)
    for bucket, spec in enumerate(self.specs):
      if all(s <= limit for s, limit in zip(size, pack.row_size(spec))):
        return bucket, pack.pad_sample(sample, spec)
    raise ValueError(f'a sample of {size} fits no bucket: call check first')


class _Bucketing:
  def __init__(self, batch_size: int, row):
    self._batch_size, self._row = batch_size, row
    self._open: dict[int, list[pack.Sample]] = {}

  def push(self, sample: pack.Sample) -> list[Batch]:
    bucket, row = self._row(sample)
    rows = self._open.setdefault(bucket, [])
    rows.append(row)
    if len(rows) < self._batch_size:
      return []
    return [collate(self._open.pop(bucket), self._batch_size)]

  def flush(self) -> list[Batch]:
    rest = [self._open[bucket] for bucket in sorted(self._open)]
    self._open = {}
    return [collate(rows, self._batch_size) for rows in rest]


@dataclasses.dataclass(frozen=True)
class Packing:
  """Several samples per row, first fit over all rows of a batch.

  Attributes:
    spec: the row's shape.
    lookahead: a batch is closed when this many samples wait that fit into none
      of its rows; more wastes less padding and moves samples further.
  """

  spec: pack.RowSpec
  lookahead: int = 8

  def check(self, sample: pack.Sample) -> None:
    """Raises `BadRecord` for a sample that fits no row or cannot be merged."""
    pack.check_sample(sample, self.spec)
    odd = [k for k in sample if k not in pack.KNOWN and k[0] != '_']
    if odd:
      raise ValueError(
        f'samples with {odd} cannot be packed: only {pack.KNOWN} and host keys '
        "that start with '_' can be merged; use Pad or Buckets"
      )

  def start(self, batch_size: int) -> Assembler:
    """Returns an empty assembler."""
    return _Packing(self, batch_size)


class _Packing:
  def __init__(self, recipe: Packing, batch_size: int):
    self._recipe, self._batch_size = recipe, batch_size
    self._rows: list[list[pack.Sample]] = []
    self._sizes: list[np.ndarray] = []
    self._waiting: list[pack.Sample] = []
    self._limit = np.array(pack.row_size(recipe.spec))

  def push(self, sample: pack.Sample) -> list[Batch]:
    if not self._place(sample):
      self._waiting.append(sample)
    batches = []
    while len(self._waiting) > self._recipe.lookahead:
      batches.append(self._close())
    return batches

  def flush(self) -> list[Batch]:
    batches = []
    while self._rows:
      batches.append(self._close())
    return batches

  def _place(self, sample: pack.Sample) -> bool:
    size = np.array(pack.sample_size(sample))
    for row, used in enumerate(self._sizes):
      if np.all(used + size <= self._limit):
        self._rows[row].append(sample)
        self._sizes[row] = used + size
        return True
    if len(self._rows) == self._batch_size:
      return False
    self._rows.append([sample])
    self._sizes.append(size)
    return True

  def _close(self) -> Batch:
    """Emits the rows; samples that waited open the next batch, in order."""
    rows = [self._merge(row) for row in self._rows]
    batch = collate(rows, self._batch_size)
    waiting, self._waiting = self._waiting, []
    self._rows, self._sizes = [], []
    for sample in waiting:
      if not self._place(sample):
        self._waiting.append(sample)
    return batch

  def _merge(self, samples: list[pack.Sample]) -> pack.Sample:
    row = pack.merge_samples(samples, self._recipe.spec)
    for key in {k for sample in samples for k in sample if k[0] == '_'}:
      row[key] = [sample.get(key) for sample in samples]
    return row
