"""The kernels: numpy loops -> interpreted -> with the semantics of a TPU."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vlm.methods.flashvid.kernels import choice, max_min as selection
from vlm.methods.flashvid.kernels.links import links
from vlm.methods.flashvid.kernels.max_min import max_min
from vlm.models import partition

# Eager copies and every out-of-bounds access and race between them are seen.
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


@pytest.mark.parametrize('again', [False, True])
@pytest.mark.parametrize('in_vmem', [False, True])
@pytest.mark.parametrize(
  'tokens,width,dtype',
  [(169, 24, 'float32'), (196, 1152, 'bfloat16'), (240, 128, 'float32')],
)
def test_max_min_equals_loops(
  monkeypatch, again, in_vmem, tokens, width, dtype
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
