"""Evaluations of image quality from flags: a tiny checkpoint, score files."""

import csv
import json
import pathlib

import numpy as np
import pytest
from absl import app
from absl.testing import flagsaver

from experiments.asking.ask import Draws
from experiments.rali import scored_files
from experiments.rali.ask import Ratings
from launch.benchmarks import iqa
from tests import command_flags, iqa_files, tiny_checkpoint
from vlm.metrics import correlation

pytestmark = pytest.mark.parity


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  pytest.importorskip('torch')
  return tiny_checkpoint.write(tmp_path_factory.mktemp('qwen'))


@pytest.fixture(scope='module', autouse=True)
def defined():
  with command_flags.of_benchmarks():
    yield


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """KonIQ, one of whose pictures is gone, and a set of three of one's own."""
  root = iqa_files.write_koniq(tmp_path_factory.mktemp('data'))
  (root / 'KONIQ/images/8.png').unlink()
  records = []
  for number, score in enumerate((1.5, 3.0, 4.0)):
    iqa_files.picture(root / 'own' / f'{number}.png', number)
    records.append({'image': f'{number}.png', 'gt_score_norm': score})
  records.append({'image': '9.png', 'gt_score_norm': 88})
  iqa_files.write_json(root / 'own' / 'own.json', records)
  wording = {'system': '', 'score': 'how good?'}
  iqa_files.write_json(root / 'wording.json', wording)
  return root


def run(output, **given):
  usual = dict(batch_size=3, max_new_tokens=4, output=str(output))
  with flagsaver.flagsaver(benchmark='iqa', **(usual | given)):
    iqa.run_from_flags()
  return pathlib.Path(output)


def lines_of(output):
  text = (output / 'predictions.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def scores_of(output):
  return json.loads((output / 'scores.json').read_text())


def asked(folder, root, **given):
  wording = str(root / 'wording.json')
  paths = dict(model=str(folder), data=str(root), sets=['koniq'])
  return paths | dict(wording=wording, draws=2, think=False) | given


@pytest.fixture(scope='module')
def whole(folder, root, tmp_path_factory):
  output = tmp_path_factory.mktemp('whole')
  return run(output, **asked(folder, root))


def test_every_picture_is_asked_about_and_draws_are_averaged(whole, capsys):
  records = lines_of(whole)
  assert [r['id'][0] for r in records] == list('024681')
  problems = [bool(r['problem']) for r in records]
  assert problems == [False] * 4 + [True, False]
  gone = records[4]
  assert 'drawn' not in gone and gone['score'] is None
  assert 'missing image' in gone['problem'] and '8.png' in gone['image']
  for record in records:
    if not record['problem']:
      assert len(record['drawn']) == len(record['drawn_scores']) == 2
      assert record['prediction'] != record['drawn'][0]
      assert record['drawn'][0] != record['drawn'][1]
  report = scores_of(whole)
  counts = report['scores']['counts']['koniq']
  assert counts['images'] == 6 and counts['problems'] == {'missing image': 1}
  # A random model rates nothing: a constant has no correlation.
  assert counts['unread'] == {'no score': 5}
  assert (counts['drawn'], counts['drawn_unread']) == (10, 10)
  for way in ('greedy', 'mean_of_drawn'):
    found = report['scores'][way]['sets']['koniq']
    assert found['plcc'] is None and found['count'] == 5
    assert report['scores'][way]['in_domain']['undefined']['srcc'] == ['koniq']
  assert report['settings']['draws']['count'] == 2
  iqa.show(report)
  said = capsys.readouterr().out
  assert 'greedy answer, no score' in said and 'not shown: 8.png' in said


def test_a_run_continues_with_the_same_draws_or_refuses(
  folder, root, whole, tmp_path
):
  first = (whole / 'predictions.jsonl').read_text()
  kept = ''.join(first.splitlines(keepends=True)[:4])  # a batch and a third
  (tmp_path / 'predictions.jsonl').write_text(kept)
  (tmp_path / 'settings.json').write_text((whole / 'settings.json').read_text())
  run(tmp_path, **asked(folder, root))
  assert (tmp_path / 'predictions.jsonl').read_text() == first
  with pytest.raises(SystemExit, match='think: False there, True now'):
    run(tmp_path, **asked(folder, root, think=True))


def test_ratings_in_answers_are_scored(
  folder, root, whole, tmp_path, monkeypatch
):
  """What the model would say, put in its mouth: the opinion, turned round."""
  record = Ratings.record

  def honest(self, question, said, problem, grid, drawn=None):
    mos = question['gt_score_norm']
    say = '<answer>{{"rating": {:.3f}}}</answer>'.format
    said = said and say(mos)
    drawn = drawn and [say(6 - mos), 'no']
    return record(self, question, said, problem, grid, drawn)

  monkeypatch.setattr(Ratings, 'record', honest)
  report = scores_of(run(tmp_path, **asked(folder, root, in_domain=[])))
  found = report['scores']
  assert found['greedy']['sets']['koniq']['srcc'] == pytest.approx(1)
  # (6 - mos + mos) / 2 is the same for all.
  mean = found['mean_of_drawn']['sets']['koniq']
  assert mean['mae'] == pytest.approx(
    np.mean([abs(r['mos'] - 3) for r in lines_of(tmp_path) if not r['problem']])
  )
  assert 'in_domain' not in found['greedy']
  assert found['greedy']['out_of_domain']['sets'] == ['koniq']


def test_draws_depend_on_the_place_of_a_question_alone():
  seeds = Draws(2, seed=3).seeds(range(10))
  assert (seeds[4:7] == Draws(2, seed=3).seeds([4, 5, 6])).all()
  assert len(set(seeds.tolist())) == 10 and seeds.dtype == np.uint32
  assert (seeds != Draws(2, seed=4).seeds(range(10))).any()


class TestPredictions:
  def write(self, path, pairs):
    with path.open('w', newline='') as file:
      writer = csv.writer(file)
      writer.writerows(
        [('image', 'score', 'other'), *(p + ('',) for p in pairs)]
      )
    return str(path)

  def test_scores_of_anything_on_several_sets(self, root, tmp_path):
    mos = {f'{n}.png': 1 + 4 * n / 9 for n in (0, 2, 4, 6, 8, 1)}
    pairs = [(f'KONIQ/images/{name}', -(m**2)) for name, m in mos.items()]
    path = self.write(tmp_path / 'a.csv', pairs)
    given = dict(predictions=path, data=str(root), sets=['koniq'])
    report = scores_of(run(tmp_path / 'out', **given))
    found = report['scores']['greedy']['sets']['koniq']
    want = correlation.scores([-(m**2) for m in mos.values()], [*mos.values()])
    assert found['srcc'] == pytest.approx(-1)
    for name, value in want.items():
      assert found[name] == (None if np.isnan(value) else pytest.approx(value))
    run(tmp_path / 'out', **given)  # nothing has changed
    self.write(tmp_path / 'a.csv', [(i, s + 1) for i, s in pairs])
    with pytest.raises(SystemExit, match='under other settings'):
      run(tmp_path / 'out', **given)

  def test_files_of_your_own_with_a_bad_row(self, root, tmp_path, capsys):
    lines = [{'image': f'{n}.png', 'score': n} for n in range(3)]
    path = tmp_path / 'a.jsonl'
    path.write_text('\n'.join(map(json.dumps, lines)))
    data = str(root / 'own' / 'own.json')
    report = scores_of(
      run(tmp_path / 'out', predictions=str(path), data=data, in_domain=['own'])
    )
    found = report['scores']['greedy']
    assert found['in_domain']['sets'] == ['own']
    assert found['sets']['own']['srcc'] == 1
    (bad,) = report['bad_rows']
    assert 'bad score' in bad['problem'] and bad['id'].endswith('own.json[3]')
    assert 'expected 1 to 5' in capsys.readouterr().out.replace('\n', ' ')

  @pytest.mark.parametrize(
    'text, message',
    [
      ('image,score\n0.png,1\n', '2 of 3 images have no score'),
      ('image,score\n0.png,high\n', "0.png has the score 'high'"),
      ('image,score\n0.png,nan\n', "0.png has the score 'nan'"),
      ('image,quality\n0.png,1\n', "expected 'image' and 'score'"),
      ('image,score\n0.png,1\n0.png,2\n', 'a second score of 0.png'),
      ('image,score\n', 'holds no score'),
      ('image,score\na/0.png,1\nb/0.png,2\n', 'may be a/0.png or b/0.png'),
    ],
  )
  def test_files_that_cannot_be_used(self, root, tmp_path, text, message):
    path = tmp_path / 'a.csv'
    path.write_text(text)
    data = str(root / 'own' / 'own.json')
    with pytest.raises(SystemExit, match=message):
      run(tmp_path / 'out', predictions=str(path), data=data)

  def test_images_are_found_by_the_ends_of_their_paths(self):
    find = scored_files.Lookup({'a/0.png': 1.0, 'b/0.png': 2.0, '7.png': 3.0})
    path = pathlib.Path
    assert find.find(path('/data/b/0.png')) == 2.0
    assert find.find(path('/elsewhere/7.png')) == 3.0
    assert find.find(path('/data/8.png')) is None
    whole_paths = scored_files.Lookup({'/x/y/0.png': 4.0})
    assert whole_paths.find(path('y/0.png')) == 4.0
    with pytest.raises(ValueError, match='may be'):
      find.find(path('/data/c/0.png'))


@pytest.mark.parametrize(
  'given, error, message',
  [
    (dict(data='x'), app.UsageError, 'either --model or --predictions'),
    (dict(model='m', predictions='p'), app.UsageError, 'either'),
    (dict(model='m'), app.UsageError, 'needs --data'),
    (dict(model='m', data='x', split='y'), app.UsageError, '--split'),
    (dict(model='m', data='/none'), SystemExit, 'name --sets of'),
    (dict(model='m', data='/none', sets=['live']), SystemExit, "set 'live'"),
    (dict(model='m', data='/none', sets=['koniq']), SystemExit, 'holds none'),
    (dict(model='m', data='/none.json'), SystemExit, 'does not exist'),
    (dict(model='m', data='a.json', sets=['koniq']), SystemExit, 'of a root'),
  ],
)
def test_flags_that_make_no_sense(tmp_path, given, error, message):
  with pytest.raises(error, match=message):
    run(tmp_path, **given)


def test_wording_files(root, tmp_path):
  assert iqa.wording_of('').system
  assert iqa.wording_of(str(root / 'wording.json')).system == ''
  path = iqa_files.write_json(tmp_path / 'w.json', {'sytem': 'x'})
  with pytest.raises(ValueError, match='expected an object with'):
    iqa.wording_of(str(path))
  with pytest.raises(FileNotFoundError, match='none.json'):
    iqa.wording_of('none.json')
