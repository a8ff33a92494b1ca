"""The kernels: numpy loops -> interpreted -> with the semantics of a TPU."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vlm.methods.flashvid.kernels import choice
from vlm.methods.flashvid.kernels import max_min as selection
from vlm.methods.flashvid.kernels.links import links
from vlm.methods.flashvid.kernels.max_min import max_min
from vlm.models import partition

# Copies happen when waited for; reads out of bounds raise, races are printed.
ON_TPU = pltpu.InterpretParams(detect_races=True)


def video(frames, tokens, width, dtype='float32', seed=0):
  """Integer features, whose products are exact in any order.

  Every token has a twin in its frame and in the next frame, so ties abound; the
  third of the first frame counts as zeros.
  """
  rng = np.random.default_rng(seed)
  half = rng.integers(-3, 4, (1, -(-tokens // 2), width))
  features = np.concatenate([half, half[:, ::-1]], 1)[:, :tokens]
  features = np.repeat(features, frames, 0)
  features[1::2, ::3] += rng.integers(-1, 2, features[1::2, ::3].shape)
  # A power of two keeps cosines exact too; they need not lie within 1.
  scale = np.full((frames, tokens), 2.0**-4)
  scale[0, 2] = 0
  features = features.astype(np.float32)
  features[0, 2] = np.nan
  return jnp.asarray(features, dtype), jnp.asarray(scale, jnp.float32)


def flags(frames, tokens, share, seed=1):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.random((frames, tokens)) < share)


def cosines(a, a_scale, b, b_scale):
  """[len(a), len(b)] in double."""
  a, b = (np.asarray(x, np.float64) for x in (a, b))
  a_scale, b_scale = (np.asarray(x, np.float64)[:, None] for x in (
    a_scale, b_scale))  # fmt: skip
  unit = lambda x, scale: np.where(scale > 0, x * scale, 0)
  return unit(a, a_scale) @ unit(b, b_scale).T


def links_by_loops(features, scale, free, follows):
  free, follows = np.asarray(free), np.asarray(follows)
  frames, tokens = free.shape
  best = np.full((frames, tokens), -1.0)
  where = np.zeros((frames, tokens), int)
  for f in range(1, frames):
    cosine = cosines(features[f], scale[f], features[f - 1], scale[f - 1])
    for i in np.flatnonzero(free[f] & follows[f]):
      for j in np.flatnonzero(free[f - 1]):
        if cosine[i, j] > best[f, i]:
          best[f, i], where[f, i] = cosine[i, j], j
  return best, where


def max_min_by_loops(features, scale, weight, valid, steps, again):
  """Greedy, from the definition; 0 where nothing is left to pick."""
  picks = np.zeros((len(valid), steps), int)
  for f, there in enumerate(np.asarray(valid)):
    distance = 1 - cosines(features[f], scale[f], features[f], scale[f])
    distance = np.asarray(weight[f], float)[:, None] * distance
    tokens, chosen = np.flatnonzero(there), []
    for step in range(steps):
      scores = {}
      for i in tokens:
        if step == 0:
          # Released: the least of all but one is that to another token.
          to = [distance[i, j] for j in tokens if again or j != i]
          scores[i] = sorted(to)[again] if len(to) > again else weight[f, i]
        elif again or i not in chosen:
          scores[i] = min(distance[i, j] for j in chosen)
      if scores:
        top = max(scores.values())
        chosen.append(min(i for i in scores if scores[i] == top))
    picks[f, : len(chosen)] = chosen
  return picks


# One tile that is not full, several tiles, a width of several tiles.
@pytest.mark.parametrize(
  'frames,tokens,width,dtype',
  [
    (4, 169, 24, 'float32'),
    (3, 196, 1152, 'bfloat16'),
    (2, 240, 128, 'float32'),
    (2, 1271, 16, 'bfloat16'),
  ],
)
def test_links_equal_loops(frames, tokens, width, dtype):
  features, scale = video(frames, tokens, width, dtype)
  free = flags(frames, tokens, 0.6)
  follows = jnp.arange(frames) % 3 > 0
  got = links(features, scale, free, follows, interpret=True)
  want = links_by_loops(features, scale, free, follows)
  np.testing.assert_array_equal(got[0], want[0])
  np.testing.assert_array_equal(got[1], want[1])
  assert (want[0] > -1).any() and (want[0][1:] == -1).any()


@pytest.mark.parametrize(
  'tokens,width,dtype,in_vmem,again',
  [
    (169, 24, 'float32', True, False),
    (169, 24, 'float32', True, True),
    (169, 24, 'bfloat16', False, False),
    (240, 128, 'float32', False, True),
    (196, 1152, 'bfloat16', True, False),
  ],
)
def test_max_min_equals_loops(
  monkeypatch, tokens, width, dtype, in_vmem, again
):
  if not in_vmem:
    monkeypatch.setattr(selection, 'VMEM_TOKENS', 1)
  features, scale = video(4, tokens, width, dtype)
  # Weights of either sign; integers, so that products stay exact.
  rng = np.random.default_rng(2)
  weight = jnp.asarray(rng.integers(-2, 5, (4, tokens)), jnp.float32)
  # A frame with few tokens, one with one, one with none.
  valid = np.array(flags(4, tokens, 0.6))
  valid[1] = np.arange(tokens) % 50 == 7
  valid[2] = np.arange(tokens) == 9
  valid[3] = False
  args = features, scale, weight, jnp.asarray(valid), 9, again
  got = max_min(*args, interpret=True)
  np.testing.assert_array_equal(got, max_min_by_loops(*args))


@pytest.mark.parametrize('in_vmem', [False, True])
def test_semantics_of_a_tpu(monkeypatch, capsys, in_vmem):
  """No race and no access out of bounds, in VMEM and with rows from HBM."""
  monkeypatch.setattr(selection, 'VMEM_TOKENS', 2048 if in_vmem else 1)
  features, scale = video(2, 150, 256)
  free = flags(2, 150, 0.6)
  weight = jnp.ones((2, 150))
  args = features, scale, weight, free, 3, False
  got = max_min(*args, interpret=ON_TPU)
  np.testing.assert_array_equal(got, max_min_by_loops(*args))
  if in_vmem:
    args = features, scale, free, jnp.array([False, True])
    for got, want in zip(links(*args, interpret=ON_TPU), links_by_loops(*args)):
      np.testing.assert_array_equal(got, want)
  assert 'RACE' not in capsys.readouterr().out


def test_videos_on_a_mesh_equal_one_by_one(devices):
  """Four videos over four shards, no gradient asked of the kernels."""
  many = [video(2, 30, 8, seed=seed) for seed in range(4)]
  features, scale = (jnp.stack(x) for x in zip(*many))
  features = jnp.nan_to_num(features)
  free = jnp.stack([flags(2, 30, 0.6, seed) for seed in range(4)])
  follows = jnp.array([False, True])

  def one(features, scale, free):
    best, where = links(features, scale, free, follows, interpret=True)
    weight = jnp.ones(free.shape)
    picks = max_min(features, scale, weight, free, 4, interpret=True)
    kept = jnp.take_along_axis(features, picks[..., None], axis=1)
    return (kept * kept).sum() + best.sum(), (best, where, picks)

  def run(features, scale, free):
    shards = lambda *x: partition.over_batch(jax.vmap(one), *x)
    total, found = shards(features, scale, free)
    return total.sum(), found

  alone = jax.jit(jax.grad(one, has_aux=True))
  want_grad, want = zip(*[alone(*x) for x in zip(features, scale, free)])
  mesh = jax.make_mesh(
    (2, 2), ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2
  )
  with jax.set_mesh(mesh):
    rows = NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
    args = [jax.device_put(x, rows) for x in (features, scale, free)]
    grad, got = jax.jit(jax.grad(run, has_aux=True))(*args)
  for a, b in zip(got, zip(*want)):
    np.testing.assert_array_equal(a, jnp.stack(b))
  np.testing.assert_array_equal(grad, jnp.stack(want_grad))
  assert np.abs(grad).max() > 1


def test_where_kernels_are_used_is_logged_once(monkeypatch, caplog):
  choice._log_once.cache_clear()
  caplog.set_level(logging.INFO)
  use = functools.partial(choice.use_kernels, 'auto')
  assert not use(jnp.bfloat16) and not use(jnp.float32)
  assert [x.getMessage() for x in caplog.records] == [
    'FlashVID computes without its TPU kernels: this process computes on cpu, '
    'not on a TPU'
  ]
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert use(jnp.bfloat16) and use(jnp.float32)
  assert len(caplog.records) == 1
  assert not use(jnp.float16)
  assert 'float16' in caplog.records[1].getMessage()
  assert not choice.use_kernels('jnp', jnp.float32)
  assert choice.use_kernels('pallas', jnp.float32)
  with pytest.raises(ValueError, match=r"kernels='pallas'.*float16"):
    choice.use_kernels('pallas', jnp.float16)
