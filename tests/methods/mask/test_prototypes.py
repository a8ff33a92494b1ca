"""Moments in chunks equal one pass; the bank follows the batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.methods.mask import mack, prototypes
from vlm.methods.mask.prototypes import Moments
from vlm.sharding.mesh import BATCH_AXES, make_mesh

WORDS, WIDTH = 9, 5


def stream(seed=0, rows=400, pairs=700):
  """(codes, regions, words): far from 0, a word never, a word once."""
  rng = np.random.default_rng(seed)
  codes = (1000 + rng.normal(size=(rows, WIDTH))).astype(np.float32)
  regions = rng.integers(0, rows, pairs)
  words = rng.choice([0, 1, 2, 4, 5, 6, 7], pairs)
  words[17] = 8
  return codes, regions, words


def at_once(codes, regions, words):
  """(counts, means, variances) by numpy in float64, word by word."""
  counts, means, variances = np.zeros(WORDS, int), [], []
  for word in range(WORDS):
    rows = codes[regions[words == word]].astype(float)
    counts[word] = len(rows)
    means.append(rows.mean(0) if len(rows) else np.zeros(WIDTH))
    variances.append(rows.var(0) if len(rows) else np.zeros(WIDTH))
  return counts, np.array(means), np.array(variances)


def check(moments, given, **bounds):
  counts, means, variances = at_once(*given)
  np.testing.assert_array_equal(moments.counts, counts)
  np.testing.assert_allclose(moments.means, means, **bounds)
  found = moments.squares / np.maximum(counts, 1)[:, None]
  np.testing.assert_allclose(found, variances, **bounds)


@pytest.mark.parametrize('columns', [2, 128])
def test_chunks_equal_one_pass_in_float64(columns, monkeypatch):
  monkeypatch.setattr(prototypes, 'COLUMNS', columns)
  given = codes, regions, words = stream()
  moments = Moments(WORDS, WIDTH)
  for part in np.array_split(np.arange(len(words)), 5):
    moments.add(codes, regions[part], words[part])
  check(moments, given, rtol=1e-12, atol=1e-11)
  assert moments.prototypes().dtype == moments.variance().dtype == np.float32
  np.testing.assert_allclose(moments.variance(), at_once(*given)[2], rtol=1e-6)
  assert not moments.prototypes()[3].any()


def test_parts_of_several_hosts_are_put_together():
  given = codes, regions, words = stream()
  first, second = Moments(WORDS, WIDTH), Moments(WORDS, WIDTH)
  first.add(codes, regions[:100], words[:100])
  second.add(codes, regions[100:], words[100:])
  first.merge(second)
  check(first, given, rtol=1e-12, atol=1e-11)
  with pytest.raises(ValueError, match=r'moments of \(9, 6\)'):
    first.merge(Moments(WORDS, 6))


def test_regions_that_are_not_finite_are_counted_and_left_out():
  codes, regions, words = stream()
  codes[4, 2], codes[9, 0] = np.nan, np.inf
  bad = np.isin(regions, [4, 9])
  moments = Moments(WORDS, WIDTH)
  moments.add(codes, regions, words)
  check(moments, (codes, regions[~bad], words[~bad]), rtol=1e-12, atol=1e-11)
  assert moments.skipped == bad.sum() > 0


def test_what_does_not_exist_is_named():
  codes, regions, words = stream()
  moments = Moments(WORDS, WIDTH)
  with pytest.raises(ValueError, match='word numbers 0 to 9, expected 0 to 8'):
    moments.add(codes, regions, np.where(words == 8, 9, words))
  with pytest.raises(ValueError, match='region numbers -1 to'):
    moments.add(codes, np.r_[-1, regions[1:]], words)
  with pytest.raises(ValueError, match='codes of 4 numbers, expected 5'):
    moments.add(codes[:, :4], regions, words)
  moments.add(codes, regions[:0], words[:0])
  assert not moments.counts.any()


def test_sums_of_eight_devices():
  codes, regions, words = stream(rows=400, pairs=704)
  mesh = make_mesh({'fsdp': 8})
  rows = jax.NamedSharding(mesh, jax.P(BATCH_AXES))
  run = jax.jit(prototypes.sharded_groups)
  moments, alone = Moments(WORDS, WIDTH), Moments(WORDS, WIDTH)
  for first in range(0, 704, 352):
    part = slice(first, first + 352)
    numbers, slots = np.unique(words[part], return_inverse=True)
    numbers = np.r_[numbers, np.full(WORDS - len(numbers), -1)]
    own = regions[part].copy()
    own[:3] = -1  # padding
    given = codes, own, slots
    moments.add_groups(run(*(jax.device_put(x, rows) for x in given), numbers))
    alone.add_groups(run(*map(jnp.asarray, (*given, numbers))))
  kept = np.delete(np.arange(704), [0, 1, 2, 352, 353, 354])
  given = codes, regions[kept], words[kept]
  # float32 within a chunk: 1000 is known to 6e-5.
  check(moments, given, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(moments.means, alone.means, rtol=1e-7)


def test_the_bank_moves_towards_each_batch():
  bank = prototypes.empty_bank(4, 2)
  codes = jnp.asarray([[1.0, 0], [3, 2], [9, 9], [5, 5]])
  words = jnp.asarray([2, 2, -1, 0])
  follow = jax.jit(prototypes.followed, static_argnames='decay')
  bank = follow(bank, codes, words, decay=0.9)
  np.testing.assert_array_equal(bank.seen, [True, False, True, False])
  np.testing.assert_allclose(bank.vectors, [[5, 5], [0, 0], [2, 1], [0, 0]])
  bank = follow(bank, codes + 10, jnp.asarray([2, 1, -1, -1]), decay=0.9)
  np.testing.assert_allclose(
    bank.vectors, [[5, 5], [13, 12], [2.9, 1.9], [0, 0]], rtol=1e-6
  )
  cost = lambda x: prototypes.followed(bank, x, words).vectors.sum()
  assert not np.any(jax.grad(cost)(codes))


def test_the_bank_is_refreshed_from_a_pass():
  codes, regions, words = stream()
  moments = Moments(WORDS, WIDTH)
  moments.add(codes, regions, words)
  bank = prototypes.refreshed(moments)
  np.testing.assert_array_equal(bank.vectors, moments.prototypes())
  assert np.asarray(bank.seen).tolist() == [word != 3 for word in range(WORDS)]


def test_means_within_a_batch_have_a_gradient():
  codes = jnp.asarray([[1.0, 0], [3, 2], [np.nan, 9]])
  words = jnp.asarray([2, 2, -1])
  got = prototypes.batch_means(codes, words, 5)
  np.testing.assert_allclose(got, [[2, 1], [2, 1], [0, 0]])
  slope = jax.grad(lambda x: prototypes.batch_means(x, words, 5)[0, 0])(codes)
  np.testing.assert_allclose(slope, [[0.5, 0], [0.5, 0], [0, 0]])


class TestMack:
  def test_its_knowledge_is_the_mean_of_raw_features(self):
    given = codes, regions, words = stream()
    pairs = np.stack([regions, words], 1)
    check(mack.knowledge(WORDS, codes, pairs), given, rtol=1e-12, atol=1e-11)

  def test_adjectives_are_added_to_their_nouns(self):
    vectors = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    captions = [[(1, -1), (2, 0)], [], [(2, 0)]]
    got = mack.caption_vectors(captions, vectors, adjective=0.5)
    said = [[got.table[i] for i in row if i >= 0] for row in got.ids]
    mixed = vectors[2] + 0.5 * vectors[0]
    np.testing.assert_allclose(said[0], [vectors[1], mixed], rtol=1e-6)
    np.testing.assert_array_equal(said[1], [[1, 0, 0, 0]])
    np.testing.assert_allclose(said[2], [mixed], rtol=1e-6)
    assert len(got.table) == 3

  def test_a_word_without_a_prototype_is_named(self):
    with pytest.raises(ValueError, match='noun 7 and adjective -1'):
      mack.caption_vectors([[(7, -1)]], np.ones((5, 4), np.float32))
