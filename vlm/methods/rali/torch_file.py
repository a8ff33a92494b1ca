"""Checkpoints of torch.save, read without torch and without running them.

The file is a zip: a pickle that describes tensors, and one stored entry of raw
bytes for each storage. The description is read by `inert_pickle`; bytes are
read for the tensors that somebody wants.
"""

import dataclasses
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from vlm.methods.rali.inert_pickle import Name, UnsafePickle, read
from vlm.methods.rali.numpy_pickle import NAMES as NUMPY

_STORAGES = {
  'torch.FloatStorage': '<f4',
  'torch.DoubleStorage': '<f8',
  'torch.HalfStorage': '<f2',
  'torch.BFloat16Storage': ml_dtypes.bfloat16,
  'torch.LongStorage': '<i8',
  'torch.IntStorage': '<i4',
  'torch.ShortStorage': '<i2',
  'torch.CharStorage': 'i1',
  'torch.ByteStorage': 'u1',
  'torch.BoolStorage': '?',
}


@dataclasses.dataclass(frozen=True)
class _Storage:
  key: str
  dtype: np.dtype
  count: int


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor of the file, not read yet.

  Attributes:
    storage: which bytes, how many and of what kind.
    offset: of the first element, in elements.
    shape: its shape.
    strides: in elements.
  """

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class TorchFile:
  """A checkpoint: `tree` with a `Tensor` in the place of each tensor.

  Args:
    path: local or gs://.

  Raises:
    UnsafePickle: anything in it but tensors, numbers, texts and containers, or
      a file that is corrupt or of a format before torch 1.6.
  """

  def __init__(self, path: epath.PathLike):
    self.path = epath.Path(path)
    self._file = self.path.open('rb')
    try:
      self._zip = zipfile.ZipFile(self._file)
      self._root = self._find_root()
      with self._zip.open(f'{self._root}data.pkl') as pickled:
        self.tree = read(pickled, _NAMES, str(path), _persistent)
    except zipfile.BadZipFile as error:
      self._file.close()
      raise UnsafePickle(
        f'{path}: no zip file of torch.save ({error}); if it is older than '
        'torch 1.6, load and save it again where you trust it'
      ) from error
    except BaseException:
      self._file.close()
      raise

  def __enter__(self) -> 'TorchFile':
    return self

  def __exit__(self, *unused) -> None:
    self._file.close()

  def read(self, tensor: Tensor) -> np.ndarray:
    """The values of a tensor of the tree, a copy.

    Raises:
      UnsafePickle: the bytes are not what the description says.
    """
    storage, name = tensor.storage, f'{self._root}data/{tensor.storage.key}'
    try:
      entry = self._zip.getinfo(name)
    except KeyError:
      raise UnsafePickle(f'{self.path}: {name} is missing') from None
    wanted = storage.count * storage.dtype.itemsize
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != wanted:
      raise UnsafePickle(
        f'{self.path}: {name} should hold {wanted} bytes as they are, it says '
        f'{entry.file_size}'
      )
    try:
      # A view that reaches beyond its bytes is an error of numpy.
      view = np.ndarray(
        tensor.shape,
        storage.dtype,
        self._zip.read(entry),
        tensor.offset * storage.dtype.itemsize,
        [step * storage.dtype.itemsize for step in tensor.strides],
      )
    except (ValueError, TypeError, zipfile.BadZipFile) as error:
      raise UnsafePickle(f'{self.path}: {name}: {error}') from error
    return view.copy()

  def _find_root(self) -> str:
    names = self._zip.namelist()
    roots = [n[: -len('data.pkl')] for n in names if n.endswith('/data.pkl')]
    if len(roots) != 1:
      raise UnsafePickle(f'{self.path}: a zip file, but not of torch.save')
    order = f'{roots[0]}byteorder'
    if order in names and self._zip.read(order) != b'little':
      raise UnsafePickle(f'{self.path}: written by a big-endian machine')
    return roots[0]


def _persistent(found: Any) -> _Storage:
  kind, storage, key, _, count = found
  if kind != 'storage' or not isinstance(storage, Name):
    raise UnsafePickle(f'it refers to {kind!r} outside the pickle')
  if not isinstance(key, str) or '/' in key or type(count) is not int:
    raise UnsafePickle(f'corrupt pickle (storage {key!r})')
  return _Storage(key, storage.value.dtype, count)


def _tensor(storage, offset, shape, strides, *unused) -> Tensor:
  """torch._utils._rebuild_tensor_v2, without torch."""
  sizes = (offset, *shape, *strides)
  if not isinstance(storage, _Storage) or len(shape) != len(strides):
    raise UnsafePickle('corrupt pickle (a tensor without a storage)')
  if any(type(size) is not int or size < 0 for size in sizes):
    raise UnsafePickle('corrupt pickle (sizes of a tensor)')
  # One value repeated over a large shape would fill the memory.
  if np.prod(shape, dtype=object) > storage.count:
    raise UnsafePickle(
      f'a tensor of shape {shape} over {storage.count} numbers'
    )
  return Tensor(storage, offset, tuple(shape), tuple(strides))


@dataclasses.dataclass(frozen=True)
class _Kind:
  """The dtype of a storage; in a class of ours, so that nothing calls it."""

  dtype: np.dtype


def _ordered(*pairs: Any) -> dict:
  if pairs:
    raise UnsafePickle('corrupt pickle (an OrderedDict of arguments)')
  return {}


_NAMES: Mapping[str, Any] = NUMPY | {
  'collections.OrderedDict': _ordered,
  'torch._utils._rebuild_tensor_v2': _tensor,
  **{name: _Kind(np.dtype(dtype)) for name, dtype in _STORAGES.items()},
}
