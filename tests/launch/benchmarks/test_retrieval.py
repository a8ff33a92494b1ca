"""Retrieval through knowledge by flags, against loops in numpy."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from absl import app
from absl.testing import flagsaver

from data.knowledge import Knowledge
from experiments.mask import retrieve
from launch.benchmarks import retrieval as retrieval_benchmark
from tests import command_flags, mask_files
from vlm.metrics import retrieval

M, IMAGES = 5, 6
KNOWN = ('dog', 'red', 'car', 'man')
SAID = ['a dog', 'the red car', 'a puppy', 'man and dog', 'it is', 'zzz dog']


@pytest.fixture(scope='module', autouse=True)
def defined():
  with command_flags.of_benchmarks():
    yield


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Six images of three regions; one has none, one caption is empty."""
  root = tmp_path_factory.mktemp('retrieval')
  rng = np.random.default_rng(0)
  features = rng.normal(size=(IMAGES, 3, M)).astype(np.float32)
  features[4] = 0
  np.save(root / 'ims.npy', features)
  captions = [SAID[(i + j) % 6] for i in range(IMAGES) for j in range(5)]
  captions[7] = ''
  (root / 'caps.txt').write_text('\n'.join(captions) + '\n')
  values = mask_files.vectors()
  mask_files.write_text(root / 'v.txt', mask_files.WORDS, values)
  mask_files.write_text(
    root / 'other.txt', mask_files.WORDS, mask_files.vectors(seed=5)
  )
  mask_files.write_text(
    root / 'wide.txt', mask_files.WORDS, mask_files.vectors(size=7)
  )
  prototypes = rng.normal(size=(4, M)).astype(np.float32)
  index = [mask_files.WORDS.index(word) for word in KNOWN]
  Knowledge(
    KNOWN, values[index], prototypes, np.ones(4, int), prototypes * 0, 'd', {}
  ).save(root / 'k')
  np.save(root / 'base.npy', rng.normal(size=(IMAGES, 30)).astype(np.float16))
  return root


def run(root, output, **given):
  usual = dict(
    benchmark='retrieval', data=str(root / 'caps.txt'),
    features=str(root / 'ims.npy'), knowledge=str(root / 'k'),
    vectors=str(root / 'v.txt'), output=str(output), pooling=['t2i'],
  )  # fmt: skip
  with flagsaver.flagsaver(**(usual | given)):
    retrieval_benchmark.run_from_flags()
  output = pathlib.Path(output)
  text = (output / 'predictions.jsonl').read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  return json.loads((output / 'scores.json').read_text()), lines


def prototypes(root, ood):
  """{word: its prototype} by hand; 'reconstruct' with all known words."""
  known = Knowledge.load(root / 'k')
  found = dict(zip(known.words, known.prototypes.astype(float)))
  if ood == 'constant':
    found['puppy'] = np.mean([*found.values()], axis=0)
  if ood == 'reconstruct':
    word = mask_files.vectors()[mask_files.WORDS.index('puppy')]
    cosine = known.vectors @ word / np.linalg.norm(word)
    cosine /= np.linalg.norm(known.vectors, axis=1)
    weight = np.exp(cosine / 0.1)
    found['puppy'] = weight / weight.sum() @ known.prototypes
  return found


def oracle(root, ood='reconstruct', pooling='t2i'):
  """Scores [images, captions], pair by pair."""
  features = np.load(root / 'ims.npy').astype(float)
  captions = (root / 'caps.txt').read_text().split('\n')[:-1]
  looks = prototypes(root, ood)
  unit = lambda x: x / np.linalg.norm(x)
  scores = np.full((IMAGES, 30), -np.inf)
  for i, regions in enumerate(features):
    for j, caption in enumerate(captions):
      words = [looks[word] for word in caption.split() if word in looks]
      if words and regions.any():
        cosine = np.array([[unit(w) @ unit(r) for r in regions] for w in words])
        axis = 1 if pooling == 't2i' else 0
        scores[i, j] = cosine.max(axis).mean()
  return scores.astype(np.float32)


OWNERS = np.repeat(np.arange(IMAGES), 5)


def by_hand(images, texts=None):
  """Summary of scores of both directions."""
  score = lambda scores: lambda rows, columns: scores[np.ix_(rows, columns)]
  found = retrieval.ranks(score(images), OWNERS)
  if texts is not None:
    other = retrieval.ranks(score(texts), OWNERS)
    found = other._replace(images=found.images)
  return retrieval.summary(found)


@pytest.mark.parametrize('ood', ['drop', 'constant', 'reconstruct'])
def test_scores_are_those_of_loops(root, tmp_path, ood):
  report, lines = run(root, tmp_path, ood=ood)
  scores = oracle(root, ood)
  found = report['scores']['t2i']
  for name, value in by_hand(scores).items():
    assert found[name] == pytest.approx(value), name
  assert (report['protocol'], report['images'], report['captions']) == (
    'all', 6, 30
  )  # fmt: skip
  assert report['left_out'] == {
    'region of zeros': 3, 'image without a region': 1
  }  # fmt: skip
  assert report['empty_captions'] == 1
  line = next(one for one in lines if one['query'] == 'caption')
  got = [s for s in line['scores'] if s is not None]
  want = np.sort(scores[:, 0])[::-1]
  np.testing.assert_allclose(got, want[np.isfinite(want)], atol=1e-5)
  assert line['rank'] == np.sum(scores[1:, 0] >= scores[0, 0])


def test_words_are_counted_by_status(root, tmp_path):
  report, lines = run(root, tmp_path)
  captions = (root / 'caps.txt').read_text().split('\n')[:-1]
  said = [word for one in captions for word in one.split()]
  counts = report['words']['words']
  assert counts['ood'] == said.count('puppy') == report['words']['ood_words'][
    'puppy'
  ]  # fmt: skip
  assert counts['unknown'] == said.count('zzz')
  assert counts['known'] == sum(said.count(word) for word in KNOWN)
  assert report['words']['unknown_words'] == {'zzz': said.count('zzz')}
  empty = np.mean([not prototypes_in(one) for one in captions])
  assert report['words']['captions_without_a_word_share'] == pytest.approx(
    empty
  )
  ood = report['scores']['t2i']['ood']
  assert ood['with']['captions'] == said.count('puppy')
  assert ood['without']['captions'] == 30 - said.count('puppy')
  hits = [
    100.0 * (one['rank'] < 1) for one in lines
    if one['query'] == 'caption' and one['ood']
  ]  # fmt: skip
  assert ood['with']['t2i_r1'][0] == pytest.approx(np.mean(hits))
  first = next(one for one in lines if one.get('caption') == 1)
  assert first['known'] == ['red', 'car'] and len(lines) == 36


def prototypes_in(caption):
  return [word for word in caption.split() if word in (*KNOWN, 'puppy')]


def test_each_direction_may_pool_in_its_own_way(root, tmp_path):
  pooling = ['t2i', 'matched', 'paper_literal']
  report, _ = run(root, tmp_path, pooling=pooling)
  t2i, i2t = oracle(root), oracle(root, pooling='i2t')
  for name, want in (
    ('matched', by_hand(t2i, i2t)),
    ('paper_literal', by_hand(i2t)),
  ):
    for figure, value in want.items():
      assert report['scores'][name][figure] == pytest.approx(value)
  for name in pooling:
    found = report['scores'][name]
    mean, low, high = found['intervals']['rsum']
    assert mean == pytest.approx(found['rsum']) and low <= mean <= high
    assert found['intervals']['i2t_r5'][0] == pytest.approx(found['i2t_r5'])


def test_another_models_candidates_stand_anew(root, tmp_path):
  base = dict(base=str(root / 'base.npy'))
  report, lines = run(root, tmp_path, rerank_alpha=0.0, **base)
  scores = np.load(root / 'base.npy').astype(np.float32)
  want = by_hand(scores)
  for name in ('base', 'base + t2i'):
    for figure, value in want.items():
      # Behind the candidates, and with no weight, nothing moves.
      assert report['scores'][name][figure] == pytest.approx(value), name
  report, _ = run(
    root, tmp_path, rerank_k=30, rerank_alpha=1e6, rerank='mack', **base
  )
  new = report['scores']['base + t2i']
  assert new['t2i_r1'] != want['t2i_r1']
  assert set(report['scores']) == {'t2i', 'base', 'base + t2i'}
  np.save(tmp_path / 'b.npy', scores.T)
  with pytest.raises(SystemExit, match=r'shape \(30, 6\), expected \(6, 30\)'):
    run(root, tmp_path, base=str(tmp_path / 'b.npy'))


def test_folds_meet_themselves_alone(root, tmp_path, monkeypatch):
  small = retrieval.PROTOCOLS | {'5fold_1k': (3, 2), '1k': (1, 2)}
  monkeypatch.setattr(retrieval, 'PROTOCOLS', small)
  report, lines = run(root, tmp_path, protocol='5fold_1k')
  scores = oracle(root)
  score = lambda rows, columns: scores[np.ix_(rows, columns)]
  want = retrieval.retrieval(score, OWNERS, protocol='5fold_1k')
  for name, value in want.items():
    assert report['scores']['t2i'][name] == pytest.approx(value), name
  assert (report['folds'], report['images']) == (3, 6)
  interval = report['scores']['t2i']['intervals']['rsum']
  assert interval[0] == pytest.approx(want['rsum'])
  last = [one for one in lines if one.get('caption', 0) >= 20]
  assert {image for one in last for image in one['best']} == {'4', '5'}
  report, lines = run(root, tmp_path, protocol='1k')
  assert (report['images'], report['captions'], len(lines)) == (2, 10, 12)
  with pytest.raises(SystemExit, match='protocol=5k needs 5000 images'):
    run(root, tmp_path, protocol='5k')


def test_both_sides_may_be_centred(root, tmp_path):
  known = Knowledge.load(root / 'k')
  counts = np.array([1, 2, 3, 4])
  mean = counts @ known.prototypes / counts.sum()
  weighted = dataclasses.replace(known, counts=counts)
  weighted.save(tmp_path / 'k')
  shifted = dataclasses.replace(weighted, prototypes=known.prototypes - mean)
  shifted.save(tmp_path / 'shifted')
  features = np.load(root / 'ims.npy')
  there = features.any(-1, keepdims=True)
  np.save(tmp_path / 'ims.npy', np.where(there, features - mean, 0))
  given = dict(features=str(tmp_path / 'ims.npy'))
  _, want = run(
    root, tmp_path / 'a', knowledge=str(tmp_path / 'shifted'), **given
  )
  _, got = run(root, tmp_path / 'b', knowledge=str(tmp_path / 'k'), centre=True)
  for left, right in zip(want, got, strict=True):
    pairs = zip(left.pop('scores'), right.pop('scores'), strict=True)
    assert all(a == b or a == pytest.approx(b, abs=1e-5) for a, b in pairs)
    assert left == right


def test_phrases_of_mack(root, tmp_path):
  tag = dict(dog='NN', car='NN', man='NN', puppy='NN', red='JJ')
  captions = (root / 'caps.txt').read_text().split('\n')[:-1]
  tags = [[[w, tag.get(w, 'XX')] for w in one.split()] for one in captions]
  parse = [[['car', 'NN'], 'amod', ['red', 'JJ']]]
  parses = [parse if 'red' in one else [] for one in captions]
  paths = {
    name: str(mask_files.write_json(tmp_path / f'{name}.json', rows))
    for name, rows in (('tags', tags), ('parses', parses))
  }
  report, _ = run(root, tmp_path / 'out', phrases=True, **paths)
  looks = prototypes(root, 'drop')
  features = np.load(root / 'ims.npy').astype(float)
  unit = lambda x: x / np.linalg.norm(x)
  scores = np.full((IMAGES, 30), -np.inf, np.float32)
  for j, caption in enumerate(captions):
    words = [looks[w] for w in caption.split() if tag.get(w) == 'NN'
             and w in looks]  # fmt: skip
    words = [looks['car'] + looks['red']] if 'red' in caption else words
    for i in (0, 1, 2, 3, 5):
      each = [
        max(unit(w) @ unit(r) for r in features[i])
        for w in words or [np.eye(M)[0]]
      ]
      scores[i, j] = np.mean(each)
  for figure, value in by_hand(scores).items():
    assert report['scores']['t2i'][figure] == pytest.approx(value), figure


def test_equal_captions_are_found_last(root, tmp_path):
  (tmp_path / 'same.txt').write_text('a dog\n' * 30)
  report, _ = run(root, tmp_path, data=str(tmp_path / 'same.txt'))
  found = report['scores']['t2i']
  assert found['i2t_r10'] == 0  # 25 others are as good
  assert found['t2i_r1'] == pytest.approx(100 / 6)  # one image of six is best


@pytest.mark.parametrize('caption', ['', 'it is', 'zzz qqq'])
def test_captions_that_say_nothing_find_nothing(root, tmp_path, caption):
  (tmp_path / 'c.txt').write_text((caption + '\n') * 30)
  report, lines = run(root, tmp_path, data=str(tmp_path / 'c.txt'))
  assert report['scores']['t2i']['rsum'] == 0
  assert report['words']['captions_without_a_word_share'] == 1
  assert {score for one in lines for score in one['scores']} == {None}


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    (dict(vectors='other.txt'), 'are others than the knowledge was built'),
    (dict(vectors='wide.txt'), 'have 7 dimensions'),
    (dict(knowledge='none'), 'knowledge.json is missing'),
    (dict(features='nan.npy'), 'image 3 has features that are NaN'),
    (dict(features='thin.npy'), 'have 2 numbers, the knowledge 5'),
    (dict(features='few.npy'), r'shape \(4, 3, 5\)'),
  ],
)
def test_what_does_not_fit_is_named(root, tmp_path, given, message):
  features = np.load(root / 'ims.npy')
  np.save(root / 'thin.npy', features[:, :, :2])
  np.save(root / 'few.npy', features[:4])
  features[3, 1, 2] = np.nan
  np.save(root / 'nan.npy', features)
  given = {name: str(root / value) for name, value in given.items()}
  with pytest.raises(SystemExit, match=message):
    run(root, tmp_path, **given)


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    (dict(data=''), 'needs --data'),
    (dict(embedder='x'), 'either --features or --embedder'),
    (dict(model='x'), 'need --images'),
    (dict(phrases=True), 'needs --tags and --parses'),
    (dict(protocol='sampled'), 'protocol=sampled, expected one of'),
  ],
)
def test_flags_that_do_not_go_together(root, tmp_path, given, message):
  with pytest.raises(app.UsageError, match=message):
    run(root, tmp_path, **given)


def test_best_are_in_order_with_ties_to_the_lower_number(monkeypatch):
  monkeypatch.setattr(retrieve, 'BLOCK', 4)
  scores = np.random.default_rng(0).integers(0, 6, (15, 30)).astype(np.float32)
  arm = retrieve.Arm(*2 * (retrieve.matrix(scores),))
  fold = retrieve.Fold(0, 15, np.arange(30), None)
  texts, images = retrieve.best(arm, fold)
  for found, rows in ((texts, scores), (images, scores.T)):
    want = np.argsort(-rows, axis=1, kind='stable')[:, :10]
    np.testing.assert_array_equal(found.numbers, want)
    np.testing.assert_array_equal(
      found.scores, np.take_along_axis(rows, want, axis=1)
    )
