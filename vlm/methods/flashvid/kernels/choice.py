"""Where FlashVID computes with its kernels."""

import functools
import logging

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

log = logging.getLogger(__name__)
DTYPES = ('bfloat16', 'float32')


def use_kernels(kernels: str, dtype: DTypeLike) -> bool:
  """Whether `links` and `max_min` are Pallas kernels or plain jax.numpy.

  Why they are not, though 'auto' would have them, is logged once.

  Args:
    kernels: 'auto' (where this process computes on a TPU), 'jnp', or 'pallas'
      (always: what compiles for a TPU that is elsewhere names it).
    dtype: of the features.

  Raises:
    ValueError: 'pallas' and a dtype that the kernels do not have.
  """
  dtype, backend = jnp.dtype(dtype).name, jax.default_backend()
  if kernels == 'pallas' and dtype not in DTYPES:
    raise ValueError(
      f"flashvid.kernels='pallas' with features in {dtype}, expected one of "
      f'{DTYPES}; set runtime.dtype, or --flashvid.kernels=jnp'
    )
  if kernels != 'auto':
    return kernels == 'pallas'
  if backend != 'tpu':
    _log_once(f'this process computes on {backend}, not on a TPU')
    return False
  if dtype not in DTYPES:
    _log_once(f'the features are {dtype}, not one of {DTYPES}')
    return False
  return True


@functools.cache
def _log_once(reason: str):
  log.info('FlashVID computes without its TPU kernels: %s', reason)
