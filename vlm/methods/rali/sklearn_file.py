"""A fitted PCA of scikit-learn as joblib stores it, read as data.

joblib writes a pickle in which every array is a record of class
`NumpyArrayWrapper`, followed at once by the array's bytes, maybe padded to an
alignment; the whole may be compressed by zlib.
"""

import io
import math
import zlib
from typing import Any

import numpy as np
from etils import epath

from vlm.methods.rali.inert_pickle import Record, UnsafePickle, read
from vlm.methods.rali.numpy_pickle import NAMES as NUMPY
from vlm.methods.rali.numpy_pickle import DType

CLASSES = (
  'sklearn.decomposition._pca.PCA',
  'sklearn.decomposition._incremental_pca.IncrementalPCA',
  'sklearn.decomposition.pca.PCA',
  'sklearn.decomposition.incremental_pca.IncrementalPCA',
)
# A PCA of CLIP's embeddings takes a few megabytes.
LARGEST = 1 << 30
_COMPRESSED = {
  b'\x1f\x8b': 'gzip',
  b'BZh': 'bz2',
  b'\xfd7zXZ': 'xz',
  b']\x00\x00': 'lzma',
  b'\x04"M\x18': 'lz4',
}


def read_pca(path: epath.PathLike) -> dict[str, Any]:
  """The attributes of a fitted PCA or IncrementalPCA.

  Args:
    path: local or gs://.

  Raises:
    UnsafePickle: the file holds something else, by name, or is corrupt.
  """
  path = epath.Path(path)
  file = io.BytesIO(_expanded(path.read_bytes(), str(path)))
  names = NUMPY | {
    # As the default argument, the name of this very class.
    **{name: lambda name=name: Record(name) for name in CLASSES},
    'joblib.numpy_pickle.NumpyArrayWrapper': lambda: _Wrapper(file),
  }
  found = read(file, names, str(path))
  if not isinstance(found, Record):
    raise UnsafePickle(
      f'{path}: holds a {type(found).__name__}, expected a PCA of scikit-learn'
    )
  return found.state


def _expanded(encoded: bytes, what: str) -> bytes:
  for magic, kind in _COMPRESSED.items():
    if encoded.startswith(magic):
      raise UnsafePickle(
        f'{what}: compressed by {kind}; only zlib is read: store it again by '
        'joblib.dump(..., compress=False) where you trust it'
      )
  if not encoded.startswith(b'\x78'):
    return encoded
  inflate = zlib.decompressobj()
  try:
    out = inflate.decompress(encoded, LARGEST)
  except zlib.error as error:
    raise UnsafePickle(f'{what}: corrupt ({error})') from error
  if not inflate.eof:
    raise UnsafePickle(
      f'{what}: cut short, or more than {LARGEST:,} bytes when expanded'
    )
  return out


class _Wrapper:
  """joblib's record of an array; taking its state reads the bytes behind."""

  __slots__ = ('_file',)

  def __init__(self, file: io.BytesIO):
    self._file = file

  def build(self, state: Any) -> np.ndarray:
    """The array, in the machine's byte order."""
    dtype, shape, order = (state[k] for k in ('dtype', 'shape', 'order'))
    if not isinstance(dtype, DType):
      raise UnsafePickle('an array of objects')
    if state.get('numpy_array_alignment_bytes') is not None:
      padding = self._file.read(1)
      self._file.read(padding[0])
    count = math.prod(shape)
    values = self._file.read(count * dtype.dtype.itemsize)
    flat = np.frombuffer(values, dtype.dtype, count)
    array = flat.reshape(shape, order='F' if order == 'F' else 'C')
    return array.astype(dtype.dtype.newbyteorder('='))
