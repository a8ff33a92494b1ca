"""Re-ranking equals loops over queries; adapting lowers its loss."""

import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.methods.mask import rerank as module
from vlm.methods.mask.adapt import AdaptSettings, adapt, unpaired_loss
from vlm.methods.mask.rerank import rerank


def scores(seed=0, shape=(12, 30)):
  base = np.random.default_rng(seed).normal(size=shape).round(1)  # ties
  other = np.random.default_rng(seed + 100).normal(size=shape).round(1)
  return base, other


def z(values):
  spread = statistics.pstdev(values)
  mean = statistics.fmean(values)
  return [(v - mean) / spread if spread else 0.0 for v in values]


def order(base, other, k, alpha, mode):
  """Groups of equal candidates of one query, best first."""
  by_base = sorted(range(len(base)), key=lambda m: (-base[m], m))
  top, rest = by_base[:k], by_base[k:]
  a, b = [base[m] for m in top], [other[m] for m in top]
  if mode == 'zscore':
    a, b = z(a), z(b)
  elif mode == 'softmax':
    a, b = ([math.exp(v) / sum(map(math.exp, x)) for v in x] for x in (a, b))
  new = {m: x + alpha * y for m, x, y in zip(top, a, b)}
  groups = []
  for part, worth in ((top, new), (rest, base)):
    part = sorted(part, key=lambda m: -worth[m])
    for i, m in enumerate(part):
      if i and math.isclose(worth[m], worth[part[i - 1]], abs_tol=1e-12):
        groups[-1].add(m)
      else:
        groups.append({m})
  return groups


@pytest.mark.parametrize('mode', module.MODES)
@pytest.mark.parametrize('k', [1, 7, 99])
def test_it_equals_loops(mode, k):
  base, other = scores()
  got = rerank(base, other, k=k, alpha=0.37, mode=mode)
  for query in range(len(base)):
    want = order(base[query], other[query], k, 0.37, mode)
    values = sorted(set(got[query]), reverse=True)
    found = [set(np.flatnonzero(got[query] == v).tolist()) for v in values]
    assert found == want


def test_knowledge_that_says_the_same_of_all_changes_nothing():
  base, _ = scores()
  base += 1e-3 * np.random.default_rng(1).random(base.shape)
  for constant in (0.1, -np.inf):
    got = rerank(base, np.full(base.shape, constant), alpha=5.0)
    np.testing.assert_array_equal(
      np.argsort(-got, axis=1, kind='stable'),
      np.argsort(-base, axis=1, kind='stable'),
    )
  assert not module.z_score(np.full((2, 15), 0.1)).any()


def test_a_candidate_without_knowledge_counts_as_the_mean():
  base = np.array([[3.0, 2.0, 1.0, 0.0]])
  other = np.array([[-1.0, -np.inf, 1.0, 9.0]])
  same = np.array([[-1.0, 0.0, 1.0, 9.0]])
  for mode in module.MODES:
    np.testing.assert_array_equal(
      rerank(base, other, k=3, mode=mode), rerank(base, same, k=3, mode=mode)
    )


def test_no_match_stays_none():
  base = np.array([[1.0, -np.inf, 2.0], [-np.inf] * 3])
  got = rerank(base, np.ones((2, 3)), k=3)
  np.testing.assert_array_equal(np.isneginf(got), np.isneginf(base))
  assert got[0, 2] > got[0, 0]


def test_what_is_out_of_range_is_named():
  base, other = scores()
  for given, message in (
    (dict(k=0), 'rerank.k=0'),
    (dict(mode='sum'), "rerank.mode='sum', expected one of"),
  ):
    with pytest.raises(ValueError, match=message):
      rerank(base, other, **given)
  other[3, 5] = np.nan
  with pytest.raises(ValueError, match='the other score of query 3 and cand'):
    rerank(base, other)


class TestAdapt:
  def drawn(self, *shape):
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)

  def test_the_loss_equals_loops(self):
    matrix, mu, u = self.drawn(4, 4), self.drawn(3, 4), self.drawn(5, 4)
    softmax = lambda x: [math.exp(v) / sum(map(math.exp, x)) for v in x]
    words, regions = u.astype(float) @ matrix, mu.astype(float) @ matrix

    def side(asking, asked):
      made = [
        sum(p * row for p, row in zip(softmax([a @ b for b in asked]), asked))
        for a in asking
      ]
      return -sum(
        math.log(softmax([a @ m for m in made])[i])
        for i, a in enumerate(asking)
      )

    want = side(words, regions) + side(regions, words)
    got = unpaired_loss(*map(jnp.asarray, (matrix, mu, u)))
    assert float(got) == pytest.approx(want, rel=1e-5)

  def test_adapting_lowers_the_loss_from_the_identity(self):
    unit = lambda x: jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))
    regions, words = unit(self.drawn(40, 6)), unit(self.drawn(30, 6))
    matrix, losses = adapt(regions, words, AdaptSettings(60, 16, 1e-2))
    assert losses.shape == (60,)
    before = unpaired_loss(jnp.eye(6), regions, words)
    after = unpaired_loss(matrix, regions, words)
    assert float(after) < 0.9 * float(before)
    again, _ = adapt(regions, words, AdaptSettings(60, 16, 1e-2))
    np.testing.assert_array_equal(matrix, again)
    still, _ = adapt(regions, words, AdaptSettings(0))
    np.testing.assert_array_equal(still, jnp.eye(6))
    assert jax.tree.leaves(still)[0].dtype == jnp.float32
