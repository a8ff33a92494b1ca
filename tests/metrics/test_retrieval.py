"""Ranks equal loops over a whole matrix; ties never help."""

import numpy as np
import pytest

from vlm.metrics import retrieval


def matrix(scores):
  """A score function that reads a matrix, and remembers the blocks."""

  def score(rows, columns):
    score.sizes.append((len(rows), len(columns)))
    return scores[np.ix_(rows, columns)]

  score.sizes = []
  return score


def by_loops(scores, owners):
  """The figures from the whole matrix, with plain sorting in mind."""
  images, texts = scores.shape
  found, precision = [], []
  for i in range(images):
    own = sorted(scores[i, t] for t in range(texts) if owners[t] == i)[::-1]
    other = [scores[i, t] for t in range(texts) if owners[t] != i]
    ahead = [sum(s >= mine for s in other) for mine in own]
    found.append(ahead[0])
    hits = [(n + 1) / (n + 1 + a) for n, a in enumerate(ahead)]
    precision.append(sum(hits) / len(hits))
  back = []
  for t in range(texts):
    mine = scores[owners[t], t]
    others = [scores[i, t] for i in range(images) if i != owners[t]]
    back.append(sum(s >= mine for s in others))
  figures = {}
  for side, ranks in (('i2t', found), ('t2i', back)):
    for k in (1, 5, 10):
      figures[f'{side}_r{k}'] = 100 * sum(r < k for r in ranks) / len(ranks)
    figures[f'{side}_median_rank'] = float(np.median([r + 1 for r in ranks]))
    figures[f'{side}_mean_rank'] = sum(r + 1 for r in ranks) / len(ranks)
  figures['i2t_map'] = 100 * sum(precision) / images
  figures['t2i_map'] = 100 * sum(1 / (r + 1) for r in back) / texts
  figures['rsum'] = sum(v for k, v in figures.items() if '_r' in k[3:5])
  return figures


def test_several_texts_per_image_and_ties_equal_loops():
  rng = np.random.default_rng(0)
  owners = rng.permutation(np.repeat(np.arange(40), rng.integers(1, 6, 40)))
  scores = rng.normal(size=(40, len(owners)))
  scores[owners, np.arange(len(owners))] += 1.5
  scores = np.round(scores, 1)  # many ties
  want = by_loops(scores, owners)
  assert 10 < want['i2t_r1'] < 90 and 10 < want['t2i_r1'] < 90
  for block in (7, 64):
    got = retrieval.retrieval(matrix(scores), owners, block=block)
    assert got.keys() == want.keys()
    for name, value in want.items():
      assert got[name] == pytest.approx(value), name


def test_a_constant_matrix_finds_nothing():
  owners = np.repeat(np.arange(30), 5)
  got = retrieval.retrieval(matrix(np.zeros((30, 150))), owners)
  assert got['rsum'] == 0 and got['t2i_mean_rank'] == 30
  assert got['i2t_mean_rank'] == 146  # behind 145 of others


def test_a_text_that_says_nothing_is_missed():
  owners = np.array([0, 1])
  scores = np.array([[1.0, -np.inf], [0.0, -np.inf]])
  found = retrieval.ranks(matrix(scores), owners)
  assert found.images.tolist() == [0, 2] and found.texts.tolist() == [0, 2]
  got = retrieval.summary(found)
  assert got['t2i_r10'] == 50 and got['i2t_map'] == 50 and got['t2i_map'] == 50


def test_protocols_cut_the_gallery(monkeypatch):
  sizes = {'1k': (1, 1000), '5fold_1k': (5, 1000), '5k': (1, 5000)}
  for name, size in sizes.items():
    assert retrieval.folds_of(name) == size
  small = {name: (folds, n // 50) for name, (folds, n) in sizes.items()}
  monkeypatch.setattr(retrieval, 'PROTOCOLS', small)
  rng = np.random.default_rng(1)
  owners = np.arange(110)
  images = rng.normal(size=(110, 8))
  texts = images + rng.normal(size=(110, 8))
  score = retrieval.cosine(images, texts)
  named = {
    name: retrieval.retrieval(score, owners, protocol=name) for name in small
  }
  folds = [
    retrieval.summary(retrieval.ranks(part, owners[:20]))
    for i in range(0, 100, 20)
    for part in [retrieval.cosine(images[i : i + 20], texts[i : i + 20])]
  ]
  assert named['1k'] == pytest.approx(folds[0])
  mean = np.mean([fold['rsum'] for fold in folds])
  assert named['5fold_1k']['rsum'] == pytest.approx(mean)
  assert named['5k']['rsum'] < named['5fold_1k']['rsum']
  with pytest.raises(ValueError, match="'5k' needs 100 images, there are 40"):
    retrieval.retrieval(score, owners[:40], protocol='5k')
  with pytest.raises(ValueError, match=r'protocol=.2k., expected one of'):
    retrieval.retrieval(score, owners, protocol='2k')


def test_no_more_than_a_block_is_asked_for():
  score = matrix(np.eye(12).repeat(2, axis=1))
  retrieval.retrieval(score, np.repeat(np.arange(12), 2), block=5)
  assert score.sizes == [(5, 24), (5, 24), (2, 24)] * 2


def test_equal_embeddings_tie_wherever_they_stand():
  rng = np.random.default_rng(2)
  texts = np.repeat(rng.normal(size=(37, 64)), 3, axis=0)
  texts = texts[np.argsort(np.tile(np.arange(3), 37), kind='stable')]
  images = rng.normal(size=(111, 64))
  scores = retrieval.cosine(images, texts)(np.arange(111), np.arange(111))
  np.testing.assert_array_equal(scores[:, :37], scores[:, 37:74])
  np.testing.assert_array_equal(scores[:, :37], scores[:, 74:])


def test_what_cannot_be_ranked_is_named():
  vectors = np.ones((4, 3))
  vectors[2, 1] = np.nan
  with pytest.raises(ValueError, match='embedding of image 2'):
    retrieval.cosine(vectors, np.ones((4, 3)))
  with pytest.raises(ValueError, match=r'embedding of text 0 .*4 of 4'):
    retrieval.cosine(np.ones((4, 3)), np.zeros((4, 3)))
  with pytest.raises(ValueError, match='image 1 has no text'):
    retrieval.ranks(matrix(np.eye(3)), np.array([0, 2, 2]))
  with pytest.raises(ValueError, match='image 1 and text 1 is NaN'):
    nan = np.diag([1.0, np.nan, 1.0])
    retrieval.ranks(matrix(nan), np.arange(3), block=1)
  with pytest.raises(ValueError, match='needs some images'):
    retrieval.retrieval(matrix(np.eye(1)), np.zeros(0, int))
