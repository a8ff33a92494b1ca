"""Received attention: numpy loops -> blocks of queries -> the TPU kernel."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from vlm.models import received as module
from vlm.models.received import received


def draw(batch, length, heads, kv_heads, width, seed=0):
  """Queries and keys, spread so that weights are far from equal."""
  rng = np.random.default_rng(seed)
  q = 2 * rng.normal(size=(batch, length, heads, width))
  k = rng.normal(size=(batch, length, kv_heads, width))
  return jnp.asarray(q, jnp.float32), jnp.asarray(k, jnp.float32)


def loops(q, k, valid=None):
  """The definition, one query and one head at a time, in double."""
  batch, length, heads, width = q.shape
  q, k = np.asarray(q, float), np.asarray(k, float)
  group = heads // k.shape[2]
  out = np.zeros((batch, length))
  for b in range(batch):
    there = np.arange(length) if valid is None else np.flatnonzero(valid[b])
    for t in there:
      for n in range(heads):
        scores = k[b, there, n // group] @ q[b, t, n] / math.sqrt(width)
        weights = np.exp(scores - scores.max())
        out[b, there] += weights / weights.sum() / (len(there) * heads)
  return out


def holes(batch, length):
  """Valid flags with gaps, and a last row that has one token."""
  valid = np.random.default_rng(1).random((batch, length)) < 0.7
  valid[-1] = np.arange(length) == 2
  return valid


@pytest.mark.parametrize('heads,kv_heads', [(4, 4), (6, 2)])
@pytest.mark.parametrize('block', [4, 192])
def test_blocks_equal_loops(monkeypatch, heads, kv_heads, block):
  monkeypatch.setattr(module, 'QUERY_BLOCK', block)
  monkeypatch.setattr(module, 'BLOCK_SCORES', 1 << 12)
  q, k = draw(3, 21, heads, kv_heads, 8)
  got = received(q, k)
  np.testing.assert_allclose(got, loops(q, k), atol=1e-6)
  np.testing.assert_allclose(got.sum(1), 1, atol=1e-6)
  valid = holes(3, 21)
  got = received(q, k, jnp.asarray(valid))
  np.testing.assert_allclose(got, loops(q, k, valid), atol=1e-6)
  assert not np.asarray(got)[~valid].any()
