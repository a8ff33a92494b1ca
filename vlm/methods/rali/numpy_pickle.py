"""Numpy's own names in pickles: dtypes, scalars, arrays; numbers only."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlm.methods.rali.inert_pickle import UnsafePickle

KINDS = 'biuf'  # booleans, integers, floats


class DType:
  """A dtype in the making; its state says the byte order."""

  __slots__ = ('dtype',)

  def __init__(self, code: Any, *unused: Any):
    if not isinstance(code, str):
      raise UnsafePickle(f'a dtype of {code!r}, expected a plain number')
    self.dtype = np.dtype(code)
    if self.dtype.kind not in KINDS or self.dtype.shape:
      raise UnsafePickle(f'dtype {code!r}, expected a plain number')

  def build(self, state: Any) -> 'DType':
    """Takes (version, byte order, ...); the rest is None for numbers."""
    order, subtype, names, fields = state[1:5]
    if order not in '<>|=' or (subtype, names, fields) != (None,) * 3:
      raise UnsafePickle('a dtype of parts, expected a plain number')
    self.dtype = self.dtype.newbyteorder(order if order in '<>' else '=')
    return self


class _Array:
  """An array whose values come as its state."""

  __slots__ = ()

  def build(self, state: Any) -> np.ndarray:
    """Takes (version, shape, dtype, is Fortran's order, bytes)."""
    _, shape, dtype, fortran, values = state
    if not isinstance(dtype, DType) or not isinstance(values, bytes):
      raise UnsafePickle('an array of objects')
    flat = np.frombuffer(values, dtype.dtype)
    return flat.reshape(shape, order='F' if fortran else 'C').copy()


def _scalar(dtype: Any, value: Any) -> Any:
  if not isinstance(dtype, DType) or not isinstance(value, bytes):
    raise UnsafePickle('a scalar that is no number')
  return np.frombuffer(value, dtype.dtype, 1)[0]


NAMES: Mapping[str, Any] = {'numpy.ndarray': None, 'numpy.dtype': DType}
for _module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
  NAMES |= {
    f'{_module}.scalar': _scalar,
    f'{_module}._reconstruct': lambda *unused: _Array(),
  }
