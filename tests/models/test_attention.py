"""The attention door: numpy loops -> XLA -> the TPU kernel, interpreted."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vlm.models import attention as door
from vlm.models.attention import attention, last_row


def draw(batch, queries, keys, heads, kv_heads, width, seed=0):
  rng = np.random.default_rng(seed)
  shapes = (
    (batch, queries, heads, width),
    (batch, keys, kv_heads, width),
    (batch, keys, kv_heads, width),
  )
  return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]


def loops(q, k, v, segment_ids=None, causal=False, q_offset=0):
  """The definition, one query and one head at a time."""
  q, k, v = np.asarray(q), np.asarray(k), np.asarray(v)
  out = np.zeros(q.shape)
  group = q.shape[2] // k.shape[2]
  for b, t, n in np.ndindex(*q.shape[:3]):
    seen = [
      s
      for s in range(k.shape[1])
      if (segment_ids is None or segment_ids[0][b, t] == segment_ids[1][b, s])
      and (not causal or s <= q_offset + t)
    ]
    scores = np.array([
      q[b, t, n].astype(float) @ k[b, s, n // group] for s in seen
    ]) / math.sqrt(q.shape[-1])  # fmt: skip
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    out[b, t, n] = sum(w * v[b, s, n // group] for w, s in zip(weights, seen))
  return out


def segments(batch, length, seed):
  """Packed samples of random lengths, then padding."""
  rng = np.random.default_rng(seed)
  ids = np.zeros((batch, length), np.int32)
  for row in ids:
    cuts = np.sort(rng.choice(np.arange(1, length), 3, replace=False))
    row[: cuts[2]] = np.searchsorted(cuts[:2], np.arange(cuts[2]), 'right') + 1
  return jnp.asarray(ids)


@pytest.mark.parametrize('heads,kv_heads', [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('packed', [False, True])
def test_xla_equals_loops(heads, kv_heads, causal, packed):
  q, k, v = draw(2, 9, 9, heads, kv_heads, 8)
  ids = (segments(2, 9, 1),) * 2 if packed else None
  got = attention(q, k, v, segment_ids=ids, causal=causal)
  np.testing.assert_allclose(got, loops(q, k, v, ids, causal), atol=1e-5)


@pytest.mark.parametrize('offset', [0, 3])
@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('packed', [False, True])
def test_blocks_of_queries_equal_loops(monkeypatch, offset, causal, packed):
  """Nine queries in blocks of 4, 4 and 1; slots past the last one are new."""
  monkeypatch.setattr(door, 'QUERY_BLOCK', 4)
  q, k, v = draw(2, 9, 13, 4, 2, 8, seed=9)
  kv_ids = segments(2, 13, 1)
  ids = (kv_ids[:, offset : offset + 9], kv_ids) if packed else None
  got = attention(q, k, v, segment_ids=ids, causal=causal, q_offset=offset)
  want = loops(q, k, v, ids, causal, offset)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_decoding_with_a_cache_equals_loops():
  """Three new queries at slot 4; slots 7.. are not yet written."""
  q, k, v = draw(2, 3, 10, 4, 2, 8, seed=2)
  kv_ids = np.zeros((2, 10), np.int32)
  kv_ids[0, :7] = 1
  kv_ids[1, 2:7] = 1  # padded on the left
  ids = (np.ones((2, 3), np.int32), kv_ids)
  run = jax.jit(functools.partial(attention, causal=True))
  got = run(q, k, v, segment_ids=ids, q_offset=jnp.int32(4))
  np.testing.assert_allclose(got, loops(q, k, v, ids, True, 4), atol=1e-5)


def test_the_last_row_equals_loops():
  q, k, _ = draw(2, 7, 7, 6, 2, 8, seed=3)
  ids = jnp.array([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 2, 2, 2]])
  onehot = np.tile(np.eye(7, 8)[None, :, None], (2, 1, 2, 1))
  weights = loops(q, k, onehot, (ids, ids), causal=True)[..., :7]
  got = last_row(q[:, -1:], k, ids)
  np.testing.assert_allclose(got, weights[:, -1], atol=1e-6)
  assert not np.any(got[:, :, :2])


@pytest.fixture
def interpreted(monkeypatch):
  kernel = functools.partial(door.splash_for, interpret=True)
  monkeypatch.setattr(door, 'splash_for', kernel)
  monkeypatch.setattr(door, 'SPLASH_MIN_LENGTH', 128)


# 200 is padded to a whole block, 512 is one.
@pytest.mark.parametrize('length,causal', [(200, True), (512, False)])
def test_splash_equals_xla_and_its_gradients(interpreted, length, causal):
  inputs = draw(1, length, length, 4, 2, 64, seed=4)
  ids = (segments(1, length, 5),) * 2
  real = ids[0][..., None, None] > 0

  def loss(inputs, impl):
    out = attention(*inputs, segment_ids=ids, causal=causal, impl=impl)
    out = jnp.where(real, out, 0)
    return (out * jnp.sin(jnp.arange(64.0))).sum(), out

  run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
  (_, got), got_grads = run(inputs, 'splash')
  (_, want), want_grads = run(inputs, 'xla')
  np.testing.assert_allclose(got, want, atol=2e-5)
  for name, a, b in zip('qkv', got_grads, want_grads):
    np.testing.assert_allclose(a, b, atol=2e-4, err_msg=name)
    assert np.abs(b).max() > 0.1


def test_splash_on_a_mesh_equals_one_device(interpreted, devices):
  """Rows over data and fsdp, kv-heads over tensor, no collective needed."""
  mesh = jax.make_mesh(
    (2, 2, 2), ('data', 'fsdp', 'tensor'), axis_types=(AxisType.Auto,) * 3
  )
  q, k, v = draw(4, 128, 128, 4, 2, 64, seed=6)
  ids = segments(4, 128, 7)
  want = attention(q, k, v, segment_ids=(ids, ids), causal=True)
  with jax.set_mesh(mesh):
    rows = NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
    place = lambda x: jax.device_put(x, rows)
    run = jax.jit(functools.partial(attention, causal=True, impl='splash'))
    got = run(place(q), place(k), place(v), segment_ids=(place(ids),) * 2)
  real = ids > 0
  np.testing.assert_allclose(
    np.asarray(got)[real], np.asarray(want)[real], atol=2e-5
  )


def test_auto_is_the_kernel_on_tpu_only(monkeypatch):
  called = []
  monkeypatch.setattr(
    door, '_splash', lambda q, *rest: called.append('splash') or q
  )
  q = jax.ShapeDtypeStruct((1, 2048, 2, 64), jnp.float32)
  run = lambda: jax.eval_shape(
    functools.partial(attention, impl='auto'), q, q, q
  )
  run()
  assert not called
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  run()
  assert called == ['splash']
