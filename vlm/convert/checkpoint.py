"""A folder of safetensors files: what is inside, and its bytes on request.

The format is eight bytes (little-endian length), a JSON header with the dtype,
shape and byte range of each tensor, then the bytes. Reading ranges ourselves
gives one path for local disks and gs://, never maps a file into memory, and
lets every tensor be checked before the first weight is read.
"""

import dataclasses
import json
import math
from typing import IO, Protocol, runtime_checkable

import ml_dtypes
import numpy as np
from etils import epath

INDEX = 'model.safetensors.index.json'
SINGLE = 'model.safetensors'

# A run of wanted bytes shorter than this is read with what lies between runs:
# below a page a disk reads the page anyway.
_GRANULE = 4096
_MAX_HEADER = 100 << 20  # the format's own bound
_SHOWN = 20  # names listed in one message

DTYPES = {
  'F64': np.dtype(np.float64),
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(ml_dtypes.bfloat16),
}
# Sizes of what we recognise but do not load, to check the file's length.
_OTHER = {
  **dict.fromkeys(('BOOL', 'I8', 'U8', 'F8_E4M3', 'F8_E5M2', 'F8_E8M0'), 1),
  **dict.fromkeys(('I16', 'U16'), 2),
  **dict.fromkeys(('I32', 'U32'), 4),
  **dict.fromkeys(('I64', 'U64', 'C64'), 8),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class CheckpointError(ValueError):
  """A checkpoint that cannot be used; the message names file and tensor."""


def raise_all(problems: list[str], what: str) -> None:
  """Raises one error that lists every problem, or returns if there is none."""
  if not problems:
    return
  shown = problems[:_SHOWN]
  if len(problems) > len(shown):
    shown.append(f'... and {len(problems) - len(shown)} more')
  raise CheckpointError('\n  '.join([what, *shown]))


@dataclasses.dataclass(frozen=True)
class Entry:
  """Where one tensor lies.

  Attributes:
    key: its published name.
    file: name of the file in the folder.
    dtype: safetensors' name of the dtype, e.g. 'BF16'.
    shape: shape on disk.
    begin: offset of the first byte from the start of the file.
    end: offset after the last byte.
  """

  key: str
  file: str
  dtype: str
  shape: tuple[int, ...]
  begin: int
  end: int


@runtime_checkable
class Readable(Protocol):
  """Tensors by published name, from wherever they are.

  Attributes:
    folder: names the place in messages.
    entries: every tensor by published name.
  """

  folder: epath.Path
  entries: dict[str, Entry]

  def read(
    self, entry: Entry, rows: tuple[int, int], columns: tuple[int, int]
  ) -> np.ndarray:
    """Reads a block of a tensor; see `Checkpoint.read`."""


class Checkpoint:
  """Tensors of a folder by name; opening checks every header and length.

  Args:
    folder: local path or gs:// of an HF-style checkpoint.

  Attributes:
    entries: every tensor by published name.
    bytes_read: tensor bytes read so far, for tests and reports.

  Raises:
    CheckpointError: if weights are absent, pickled, truncated or corrupt, or
      the index does not agree with the files.
  """

  def __init__(self, folder: epath.PathLike):
    self.folder = epath.Path(folder)
    self.bytes_read = 0
    self._handles: dict[str, IO[bytes]] = {}
    self.entries: dict[str, Entry] = {}
    index = self._index()
    for file in sorted(set(index.values())) if index else [SINGLE]:
      for entry in _read_header(self.folder / file, file):
        # A name in two files belongs to the one that the index names.
        if index.get(entry.key, file) == file or entry.key not in self.entries:
          self.entries[entry.key] = entry
    self._compare(index)

  def config(self) -> dict:
    """The folder's `config.json`."""
    return _read_json(self.folder / 'config.json')

  def read(
    self, entry: Entry, rows: tuple[int, int], columns: tuple[int, int]
  ) -> np.ndarray:
    """Reads a block of a tensor, in the dtype on disk.

    Args:
      entry: the tensor.
      rows: start and stop on the first axis (ignored for a scalar).
      columns: start and stop on the second axis (ignored for a vector).
    """
    dtype = DTYPES[entry.dtype]
    if not entry.shape:
      return self._fetch(entry, 0, 1, dtype).reshape(())
    row = math.prod(entry.shape[1:])
    shape = (rows[1] - rows[0], *entry.shape[1:])
    if len(entry.shape) == 1:
      return self._fetch(entry, rows[0], shape[0], dtype)
    inner = row // entry.shape[1]
    run = (columns[1] - columns[0]) * inner
    if run == row or run * dtype.itemsize < _GRANULE:
      flat = self._fetch(entry, rows[0] * row, shape[0] * row, dtype)
      return flat.reshape(shape)[:, slice(*columns)]
    out = np.empty((shape[0], columns[1] - columns[0], *shape[2:]), dtype)
    for i in range(shape[0]):
      start = (rows[0] + i) * row + columns[0] * inner
      out[i] = self._fetch(entry, start, run, dtype).reshape(out.shape[1:])
    return out

  def close(self) -> None:
    """Closes the files."""
    for handle in self._handles.values():
      handle.close()
    self._handles.clear()

  def __enter__(self) -> 'Checkpoint':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _fetch(
    self, entry: Entry, start: int, count: int, dtype: np.dtype
  ) -> np.ndarray:
    if entry.file not in self._handles:
      self._handles[entry.file] = (self.folder / entry.file).open('rb')
    handle = self._handles[entry.file]
    wanted = count * dtype.itemsize
    handle.seek(entry.begin + start * dtype.itemsize)
    data = handle.read(wanted)
    if len(data) != wanted:
      raise CheckpointError(
        f'{self.folder / entry.file}: tensor {entry.key!r}: expected {wanted} '
        f'bytes, got {len(data)}; the file changed while it was read'
      )
    self.bytes_read += wanted
    return np.frombuffer(data, dtype)

  def _index(self) -> dict[str, str]:
    """The weight map of a sharded checkpoint; empty for a single file."""
    if (self.folder / SINGLE).exists():
      return {}
    path = self.folder / INDEX
    if not path.exists():
      raise CheckpointError(_nothing_here(self.folder))
    index = _read_json(path).get('weight_map')
    if not isinstance(index, dict) or not index:
      raise CheckpointError(f'{path}: expected a "weight_map" of tensor: file')
    problems = [
      f'{file!r} is absent; it should hold {key!r}'
      for file, key in sorted(
        {file: key for key, file in index.items()}.items()
      )
      if not (self.folder / file).exists()
    ]
    raise_all(problems, f'{path} names files that are not in the folder:')
    return index

  def _compare(self, index: dict[str, str]) -> None:
    problems = []
    for key, file in index.items():
      entry = self.entries.get(key)
      if entry is None or entry.file != file:
        where = 'no file has it' if entry is None else f'it is in {entry.file}'
        problems.append(f'{key!r}: the index says {file}, {where}')
    if index:
      problems += [
        f'{key!r}: in {entry.file}, not in the index'
        for key, entry in self.entries.items()
        if key not in index
      ]
    raise_all(problems, f'{self.folder / INDEX} does not agree with the files:')


def _nothing_here(folder: epath.Path) -> str:
  if not folder.exists():
    return (
      f'{folder}: no such folder; pass a folder that holds config.json and '
      f'{SINGLE} (for a hub model: `hf download NAME --local-dir DIR`)'
    )
  pickled = sorted(path.name for path in folder.glob('pytorch_model*.bin'))
  if pickled:
    return (
      f'{folder}: only pickled weights ({pickled[0]}), which can run code when '
      f'opened and are never loaded; convert them to safetensors with '
      f'transformers: model.save_pretrained(DIR)'
    )
  return f'{folder}: neither {SINGLE} nor {INDEX} is there'


def _read_json(path: epath.Path) -> dict:
  try:
    value = json.loads(path.read_text())
  except FileNotFoundError as error:
    raise CheckpointError(f'{path}: no such file') from error
  except ValueError as error:
    raise CheckpointError(f'{path}: not valid JSON ({error})') from error
  if not isinstance(value, dict):
    raise CheckpointError(f'{path}: expected a JSON object')
  return value


def _read_header(path: epath.Path, file: str) -> list[Entry]:
  """Entries of one file, after checking header and length."""
  if not path.exists():
    raise CheckpointError(f'{path}: no such file')
  size = path.stat().length
  with path.open('rb') as handle:
    length = int.from_bytes(handle.read(8), 'little')
    if size < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER):
      raise CheckpointError(
        f'{path}: corrupt or truncated: a header of {length} bytes in a file '
        f'of {size}; download it again'
      )
    raw = handle.read(length)
  try:
    header = json.loads(raw)
    header.pop('__metadata__', None)
    entries = [
      _entry(key, file, value, 8 + length) for key, value in header.items()
    ]
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise CheckpointError(f'{path}: corrupt header ({error!r})') from error
  _check_layout(path, entries, size, 8 + length)
  return entries


def _entry(key: str, file: str, value: dict, base: int) -> Entry:
  begin, end = value['data_offsets']
  shape = tuple(int(size) for size in value['shape'])
  entry = Entry(key, file, value['dtype'], shape, base + begin, base + end)
  dtype = DTYPES.get(entry.dtype)
  width = dtype.itemsize if dtype is not None else _OTHER.get(entry.dtype)
  if width is not None and end - begin != math.prod(shape) * width:
    raise ValueError(
      f'tensor {key!r}: {entry.dtype} of shape {shape} needs '
      f'{math.prod(shape) * width} bytes, the header gives it {end - begin}'
    )
  return entry


def _check_layout(
  path: epath.Path, entries: list[Entry], size: int, base: int
) -> None:
  """Tensors must follow each other without gap and end where the file does."""
  at = base
  for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
    if entry.begin != at:
      raise CheckpointError(
        f'{path}: corrupt header: tensor {entry.key!r} should begin at byte '
        f'{at}, the header says {entry.begin}'
      )
    at = entry.end
  cut = [
    f'tensor {entry.key!r} should end at byte {entry.end}'
    for entry in entries
    if entry.end > size
  ]
  raise_all(cut, f'{path}: truncated at {size} bytes; download it again:')
  if at < size:
    raise CheckpointError(
      f'{path}: corrupt: the header describes {at} bytes, the file has {size}'
    )
