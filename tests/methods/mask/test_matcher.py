"""Pooling equals loops over images, captions, words and regions."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlm.methods.mask import matcher
from vlm.methods.mask.matcher import Matcher
from vlm.metrics import retrieval
from vlm.sharding.mesh import make_mesh

IMAGES, REGIONS, WIDTH, WORDS, CAPTIONS, SLOTS = 21, 5, 7, 12, 34, 6
BARE, SILENT, UNKNOWN = 4, 9, 3  # an image, a caption, a word


def problem(seed=0):
  """(codes, valid, table, ids), with everything that may be missing."""
  rng = np.random.default_rng(seed)
  codes = rng.normal(size=(IMAGES, REGIONS, WIDTH)).astype(np.float32)
  valid = rng.random((IMAGES, REGIONS)) > 0.3
  valid[:, 0] = True
  valid[BARE] = False
  codes[~valid] = np.nan  # padding may hold anything
  codes[2, 0] = 0
  table = rng.normal(size=(WORDS, WIDTH)).astype(np.float32)
  table[UNKNOWN] = 0
  ids = rng.integers(-1, WORDS, (CAPTIONS, SLOTS)).astype(np.int32)
  ids[SILENT] = -1
  ids[SILENT + 1] = UNKNOWN
  ids[SILENT + 2] = [5, 5, -1, 5, 2, UNKNOWN]
  ids[20] = ids[30]
  return codes, valid, table, ids


def cosine(a, b):
  a, b = a.astype(float), b.astype(float)
  return sum(x * y for x, y in zip(a, b)) / np.sqrt((a @ a) * (b @ b))


def by_loops(codes, valid, table, ids, pooling):
  """Eq. 10 in float64."""
  out = np.full((len(codes), len(ids)), -np.inf)
  for n in range(len(codes)):
    regions = [r for r, ok in zip(codes[n], valid[n]) if ok and r.any()]
    for c in range(len(ids)):
      words = [table[w] for w in ids[c] if w >= 0 and table[w].any()]
      if not regions or not words:
        continue
      s = np.array([[cosine(r, w) for w in words] for r in regions])
      out[n, c] = {
        't2i': s.max(0).mean(),
        'i2t': s.max(1).mean(),
        'sum': s.max(0).mean() + s.max(1).mean(),
        'mean': s.mean(),
      }[pooling]
  return out


def everything(matched):
  return matched.score(np.arange(IMAGES), np.arange(CAPTIONS))


@pytest.mark.parametrize('pooling', matcher.POOLINGS)
def test_pooling_equals_loops_in_any_tiles_and_parts(pooling):
  given = problem()
  want = by_loops(*given, pooling)
  assert np.isneginf(want[BARE]).all()
  assert np.isneginf(want[:, [SILENT, SILENT + 1]]).all()
  assert np.isfinite(want).sum() == (IMAGES - 1) * (CAPTIONS - 2)
  for tile, block in ((8, 64), (4, 8)):
    matched = Matcher(
      *given, pooling=pooling, image_tile=tile, caption_block=block
    )
    np.testing.assert_allclose(everything(matched), want, atol=3e-7)
  rows, columns = np.array([7, 2, 4]), np.array([30, 9, 11, 0, 20])
  part = matched.score(rows, columns)
  np.testing.assert_allclose(part, want[np.ix_(rows, columns)], atol=3e-7)
  assert part.dtype == np.float32
  np.testing.assert_array_equal(part[:, 0], part[:, 4])  # equal captions
  assert matched.bare.nonzero()[0].tolist() == [BARE]
  assert (matched.lengths == 0).nonzero()[0].tolist() == [SILENT, SILENT + 1]


@pytest.mark.parametrize('pooling', matcher.POOLINGS)
def test_eight_devices_equal_one(pooling):
  given = problem()
  mesh = make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  sizes = dict(pooling=pooling, image_tile=2, caption_block=4)
  one, eight = Matcher(*given, **sizes), Matcher(*given, mesh=mesh, **sizes)
  np.testing.assert_allclose(everything(eight), everything(one), atol=1e-7)


def test_ranks_are_those_of_the_whole_matrix_and_directions_may_differ():
  codes, valid, table, ids = problem()
  owners = np.arange(CAPTIONS) % IMAGES
  found = {}
  for pooling in ('t2i', 'i2t'):
    matched = Matcher(codes, valid, table, ids, pooling=pooling)
    whole = everything(matched)
    found[pooling] = retrieval.ranks(matched.score, owners, block=8)
    want = retrieval.ranks(lambda r, c: whole[np.ix_(r, c)], owners)  # noqa: B023
    for ours, theirs in zip(found[pooling], want):
      np.testing.assert_array_equal(ours, theirs)
  scores = [
    Matcher(codes, valid, table, ids, pooling=pooling).score
    for pooling in ('t2i', 'i2t')
  ]
  both = matcher.matched_ranks(*scores, owners)
  np.testing.assert_array_equal(both.images, found['t2i'].images)
  np.testing.assert_array_equal(both.texts, found['i2t'].texts)
  np.testing.assert_array_equal(both.precision, found['i2t'].precision)
  assert both.images[SILENT] == IMAGES and both.texts[BARE] == CAPTIONS
  assert (found['t2i'].images != found['i2t'].images).any()


def test_equal_images_tie_so_that_neither_is_found_first():
  codes, valid, table, ids = problem()
  codes[:], valid[:] = codes[0], valid[0]
  for pooling in matcher.POOLINGS:
    scores = everything(Matcher(codes, valid, table, ids, pooling=pooling))
    assert (scores == scores[:1]).all(), pooling


def test_lengths_of_codes_and_prototypes_do_not_count():
  codes, valid, table, ids = problem()
  scale = np.random.default_rng(1).uniform(0.1, 9, (WORDS, 1))
  again = Matcher(jnp.asarray(3 * codes), valid, table * scale, ids)
  before = Matcher(codes, valid, table, ids)
  np.testing.assert_allclose(everything(again), everything(before), atol=3e-7)


@pytest.mark.parametrize('pooling', matcher.POOLINGS)
def test_captions_without_words_and_no_captions_at_all(pooling):
  codes, valid, table, _ = problem()
  none = np.full((3, 0), -1, np.int32)
  matched = Matcher(codes, valid, table, none, pooling=pooling)
  assert np.isneginf(matched.score(np.arange(5), np.arange(3))).all()
  assert matched.score(np.arange(5), np.arange(0)).shape == (5, 0)


def test_what_cannot_be_matched_is_named():
  codes, valid, table, ids = problem()

  def refused(message, *, pooling='t2i', **changed):
    given = dict(codes=codes, valid=valid, table=table, ids=ids) | changed
    with pytest.raises(ValueError, match=message):
      Matcher(**given, pooling=pooling)

  bad = np.where(np.isnan(codes), 0, codes)
  bad[6, 0, 1] = np.nan
  refused(r'region 0 of image 6 holds NaN or infinity \(1 ', codes=bad)
  broken = table.copy()
  broken[8, 0] = np.inf
  refused('prototype of word 8 holds NaN', table=broken)
  refused(r'0 to 12, expected -1 to 11', ids=np.array([[0, 12]]))
  refused(r'expected \[n, I, Z\]', table=table[:, :-1])
  refused(r"pooling='max', expected one of", pooling='max')
