"""Received attention: numpy loops -> blocks of queries -> the TPU kernel."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vlm.models import received as module
from vlm.models.received import received, received_tpu


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


@pytest.fixture
def interpreted(monkeypatch):
  def using(mode):
    kernel = functools.partial(received_tpu, interpret=mode)
    monkeypatch.setattr(module, 'received_tpu', kernel)
    monkeypatch.setattr(module, 'KERNEL_MIN_LENGTH', 1)

  return using


# One tile that is not full, two of 384 that are one short, and five of 256.
@pytest.mark.parametrize(
  'length,dtype', [(169, 'float32'), (767, 'float32'), (1271, 'bfloat16')]
)
def test_kernel_equals_blocks(interpreted, length, dtype):
  interpreted(True)
  q, k = (x.astype(dtype) for x in draw(2, length, 4, 2, 16))
  valid = jnp.asarray(holes(2, length))
  want = received(q, k, valid)
  got = received(q, k, valid, impl='splash')
  # Weights are 1 / length on average.
  np.testing.assert_allclose(length * got, length * want, atol=1e-4)


def test_kernel_with_the_semantics_of_a_tpu(interpreted, capsys):
  """No race and no access out of bounds, in tiles that are not full."""
  interpreted(pltpu.InterpretParams(detect_races=True))
  q, k = draw(1, 300, 2, 1, 8)
  got = received(q, k, impl='splash')
  np.testing.assert_allclose(got, loops(q, k), atol=1e-6)
  assert 'RACE' not in capsys.readouterr().out


def test_kernel_on_a_mesh_equals_one_device(interpreted, devices):
  """Rows over data and fsdp, heads over tensor."""
  interpreted(True)
  mesh = jax.make_mesh(
    (2, 2, 2), ('data', 'fsdp', 'tensor'), axis_types=(AxisType.Auto,) * 3
  )
  q, k = draw(4, 130, 4, 2, 8)
  valid = jnp.asarray(holes(4, 130))
  want = received(q, k, valid)
  with jax.set_mesh(mesh):
    rows = NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
    args = [jax.device_put(x, rows) for x in (q, k, valid)]
    got = jax.jit(functools.partial(received, impl='splash'))(*args)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_auto_is_the_kernel_on_tpu_only(monkeypatch):
  called = []
  kernel = lambda q, k, valid: called.append(1) or valid.astype(jnp.float32)
  monkeypatch.setattr(module, 'received_tpu', kernel)
  q = jax.ShapeDtypeStruct((1, 300, 2, 64), jnp.float32)
  run = lambda: jax.eval_shape(functools.partial(received, impl='auto'), q, q)
  run()
  assert not called
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  run()
  assert called


def test_no_gradient_flows_through_it(interpreted):
  interpreted(True)
  q, k = draw(1, 20, 2, 2, 8)
  for impl in ('xla', 'splash'):
    loss = lambda q, k, impl=impl: q.sum() * received(q, k, impl=impl)[0, 3]
    grads = jax.jit(jax.grad(loss, (0, 1)))(q, k)
    share = received(q, k)[0, 3]
    np.testing.assert_allclose(grads[0], jnp.full_like(q, share), rtol=1e-4)
    assert not np.any(grads[1])
