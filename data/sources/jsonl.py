"""JSON lines, read at random without holding the file in memory."""

import json
import threading
from typing import Any

import numpy as np
from etils import epath

from data import records


def require_file(path: epath.PathLike) -> epath.Path:
  """Returns the path of an existing file.

  Raises:
    FileNotFoundError: naming the setting that chooses it.
  """
  path = epath.Path(path)
  if not path.exists():
    raise FileNotFoundError(f'{path} does not exist; set --config.data.path')
  return path


def parse_row(text: bytes | str) -> dict[str, Any]:
  """Parses one row.

  Raises:
    BadRecord: 'malformed json' or, when it is no object, 'wrong type'.
  """
  try:
    row = json.loads(text)
  except ValueError as error:
    raise records.BadRecord('malformed json', str(error)) from error
  if not isinstance(row, dict):
    raise records.BadRecord(
      'wrong type', f'the row is {type(row).__name__}, expected an object'
    )
  return row


class JsonlSource:
  """Rows of a jsonl file; only the offsets of its lines are kept.

  Blank lines are not rows. Reading is safe from several threads; worker
  processes open the file for themselves.

  Args:
    path: local or gs:// path.
  """

  def __init__(self, path: epath.PathLike):
    self.name = str(require_file(path))
    self._spans = _line_spans(epath.Path(path))
    self._lock, self._file = threading.Lock(), None

  def __len__(self) -> int:
    return len(self._spans)

  def __getitem__(self, index: int) -> dict[str, Any]:
    start, end = self._spans[index]
    with self._lock:
      if self._file is None:
        self._file = epath.Path(self.name).open('rb')
      self._file.seek(int(start))
      line = self._file.read(int(end - start))
    return parse_row(line)

  def __getstate__(self) -> dict[str, Any]:
    return {'name': self.name, '_spans': self._spans}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._lock, self._file = threading.Lock(), None


def _line_spans(path: epath.Path) -> np.ndarray:
  """Byte ranges of the lines that are not blank, int64 [rows, 2]."""
  spans, start, position = [], 0, 0
  with path.open('rb') as file:
    for line in file:
      position += len(line)
      if line.strip():
        spans.append((start, position))
      start = position
  return np.array(spans, np.int64).reshape(-1, 2)


class JsonSource:
  """Rows of a file that is one JSON list, held in memory.

  Raises:
    ValueError: when the file is no JSON list.
  """

  def __init__(self, path: epath.PathLike):
    self.name = str(require_file(path))
    try:
      self._rows = json.loads(epath.Path(path).read_bytes())
    except ValueError as error:
      raise ValueError(
        f'{path} is not JSON: {error}; a file with one row per line must be '
        'named .jsonl; set --config.data.path'
      ) from error
    if not isinstance(self._rows, list):
      raise ValueError(
        f'{path} holds a {type(self._rows).__name__}, expected a list of rows; '
        'set --config.data.path'
      )

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    row = self._rows[index]
    if not isinstance(row, dict):
      raise records.BadRecord(
        'wrong type', f'the row is {type(row).__name__}, expected an object'
      )
    return row
