"""Parquet, read at random by row group."""

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from absl import logging
from etils import epath

from data.sources.jsonl import require_file

LARGE_GROUP = 1 << 28


class ParquetSource:
  """Rows of a parquet file as dicts of Python values.

  A row is read with its whole row group; the last few groups stay in memory.
  Shuffled reading therefore wants small groups: rewrite a file whose groups
  are large with `pyarrow.parquet.write_table(..., row_group_size=64)`.

  Args:
    path: local or gs:// path.
    groups_kept: row groups that stay in memory.

  Raises:
    ValueError: when the file is no parquet file.
  """

  def __init__(self, path: epath.PathLike, groups_kept: int = 4):
    self.name = str(require_file(path))
    self._groups_kept = groups_kept
    self._close()
    try:
      meta = self._open().metadata
    except pyarrow.ArrowInvalid as error:
      raise ValueError(
        f'{path} is not a parquet file: {error}; set --config.data.path'
      ) from error
    groups = [meta.row_group(g) for g in range(meta.num_row_groups)]
    self._ends = np.cumsum([group.num_rows for group in groups])
    largest = max((group.total_byte_size for group in groups), default=0)
    if largest > LARGE_GROUP:
      logging.warning(
        '%s has row groups of up to %d MB, each read whole for one row; '
        'rewrite it with a small row_group_size to shuffle fast.',
        self.name,
        largest >> 20,
      )

  def __len__(self) -> int:
    return int(self._ends[-1]) if len(self._ends) else 0

  def __getitem__(self, index: int) -> dict[str, Any]:
    group = int(np.searchsorted(self._ends, index, side='right'))
    start = int(self._ends[group - 1]) if group else 0
    with self._lock:
      table = self._read_group(group)
    return table.slice(index - start, 1).to_pylist()[0]

  def _read_group(self, group: int) -> pyarrow.Table:
    if group in self._kept:
      self._kept.move_to_end(group)
      return self._kept[group]
    table = self._kept[group] = self._open().read_row_group(group)
    if len(self._kept) > self._groups_kept:
      self._kept.popitem(last=False)
    return table

  def _open(self) -> pyarrow.parquet.ParquetFile:
    if self._file is None:
      handle = epath.Path(self.name).open('rb')
      self._file = pyarrow.parquet.ParquetFile(handle)
    return self._file

  def _close(self) -> None:
    self._lock, self._file, self._kept = threading.Lock(), None, OrderedDict()

  def __getstate__(self) -> dict[str, Any]:
    hidden = ('_lock', '_file', '_kept')
    return {k: v for k, v in self.__dict__.items() if k not in hidden}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._close()
