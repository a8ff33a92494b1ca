"""FlashVID's budgets, its prune, and what it refuses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.methods.flashvid import FlashVID, budget
from vlm.methods.flashvid.segments import Segments


@pytest.mark.parametrize(
  'n, retention, want',
  [
    (196, 0.1, (25, 18, 7)),
    (196, 0.15, (37, 26, 11)),
    (196, 0.2, (49, 35, 14)),
    (196, 0.25, (62, 44, 18)),
    (169, 0.1, (22, 16, 6)),
    (169, 0.15, (32, 23, 9)),
    (169, 0.2, (43, 31, 12)),
    (169, 0.25, (53, 38, 15)),
    (1, 0.1, (1, 1, 0)),
    (0, 0.1, (0, 0, 0)),
  ],
)
def test_published_budgets(n, retention, want):
  table = FlashVID(retention).budget(200)
  assert tuple(int(x[n]) for x in table) == want
  assert FlashVID(retention).room(32, n) == 32 * want[0]
  assert FlashVID(retention, mode='official').room(32, n) == 32 * want[0] + 32


def test_the_prune_makes_retention_the_mean_over_layers():
  for depth, layer, share in ((28, 20, 0.3), (36, 28, 0.1), (36, 24, 0.4)):
    prune = FlashVID(0.1, layer=layer).prune(depth)
    assert prune.layer == layer and math.isclose(prune.share, share)
    mean = (layer + prune.share * (depth - layer)) * 1.25 / depth
    assert math.isclose(mean, 1)
  assert FlashVID(0.1).prune(28).layer == 20
  assert FlashVID(0.1).prune(24).layer == 17
  assert FlashVID(0.1, expansion=1.0).prune(28) is None
  for depth, layer in ((28, 23), (28, 28), (28, 40), (1, None)):
    with pytest.raises(ValueError, match='flashvid.layer'):
      FlashVID(0.1, layer=layer).prune(depth)


@pytest.mark.parametrize(
  'field, value',
  [
    ('retention', 0.0),
    ('retention', 1.1),
    ('retention', -0.1),
    ('retention', math.nan),
    ('retention', 0.8),
    ('expansion', 0.9),
    ('expansion', math.inf),
    ('alpha', 1.1),
    ('alpha', -0.1),
    ('tau', 1.0),
    ('tau', -1.0),
    ('tau', math.nan),
    ('segment_threshold', math.nan),
    ('min_segments', 0),
    ('layer', 0),
    ('selection', 'attention'),
    ('relevance', 'frame'),
    ('mode', 'code'),
    ('aggregation', 'sum'),
    ('parents', 'any'),
    ('kernels', 'triton'),
  ],
)
def test_a_wrong_setting_is_named(field, value):
  with pytest.raises(ValueError, match=f'flashvid.{field}='):
    FlashVID(**({'retention': 0.1} | {field: value}))


def test_missing_attention_is_named():
  x = jnp.ones((1, 2, 5, 4))
  with pytest.raises(ValueError, match='flashvid.selection'):
    FlashVID(0.1).reduce(x)
  assert not FlashVID(0.1, selection='div').needs_attention
  reduce = jax.jit(FlashVID(0.1, selection='div').reduce)
  assert reduce(x).valid.all()


def _one_segment(frames):
  return Segments(jnp.arange(frames) > 0, jnp.ones((frames, frames), bool))


def test_exact_counts_by_hand():
  counts = lambda n, wanted: budget.exact_counts(
    jnp.array(n), jnp.full(len(n), wanted), _one_segment(len(n))
  ).tolist()
  # One each; 18 more among 177, 2, 1: 17.7, 0.2, 0.1.
  assert counts([178, 3, 2], 21) == [19, 1, 1]
  assert counts([5, 5, 5], 7) == [3, 2, 2]
  assert counts([0, 4, 0], 3) == [0, 3, 0]
  assert counts([2, 1], 3) == [2, 1]
  assert counts([4, 4], 0) == [0, 0]


def test_released_counts_are_the_ceilings_of_doubles():
  rng = np.random.default_rng(0)
  run = jax.jit(budget.released_counts)
  exceeded = 0
  for _ in range(400):
    # Equal frames, as in a segment without links, give whole quotients.
    n = np.full(3, rng.integers(1, 300))
    if rng.random() < 0.5:
      n[rng.integers(3)] = rng.integers(0, 300)
    wanted = 3 * int(rng.integers(1, 60))
    if wanted >= n.sum():
      continue
    want = [math.ceil(x * (wanted / int(n.sum()))) for x in n.tolist()]
    got = run(jnp.array(n), jnp.full(3, wanted), _one_segment(3))
    assert got.tolist() == want
    exceeded += sum(w > -(-x * wanted // n.sum()) for w, x in zip(want, n))
  assert exceeded > 10
