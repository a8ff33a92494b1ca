"""The kernels equal what they stand for, inside a whole compression."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.methods.flashvid import FlashVID
from vlm.methods.flashvid.kernels import links, max_min


@pytest.mark.parametrize(
  'mode,dtype', [('paper', 'float32'), ('official', 'bfloat16')]
)
def test_compression_with_kernels_equals_that_without(monkeypatch, mode, dtype):
  """Two videos, one with fewer frames, one with fewer tokens."""
  for module, name in ((links, 'links'), (max_min, 'max_min')):
    kernel = functools.partial(getattr(module, name), interpret=True)
    monkeypatch.setattr(module, name, kernel)
  rng = np.random.default_rng(0)
  still, drift = (rng.normal(size=(2, f, 40, 64)) for f in (1, 8))
  features = jnp.asarray(still + 0.4 * drift.cumsum(1), dtype)
  attention = jnp.asarray(rng.random((2, 8, 40)), jnp.float32)
  valid = jnp.ones((2, 8, 40), bool).at[1, 6:].set(False)
  valid = valid.at[0, :, 33:].set(False)
  run = lambda kernels: jax.jit(
    FlashVID(
      0.25, mode=mode, kernels=kernels, segment_threshold=0.5, min_segments=3
    ).reduce
  )(features, attention, valid)
  got, want = run('pallas'), run('jnp')
  np.testing.assert_array_equal(got.index, want.index)
  np.testing.assert_array_equal(got.counts, want.counts)
  np.testing.assert_array_equal(
    np.asarray(got.tokens, np.float32), np.asarray(want.tokens, np.float32)
  )
