"""RACT: from completions to descriptions to a tower that learns alone."""

import json
import types

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import task as tasks
from experiments.rali import answers, q_insight, ract
from launch import describe, job
from tests import command_flags
from vlm.methods.rali import descriptions
from vlm.sharding.rules import flatten


def said(thought, answer='{"rating": 3.2}'):
  return f'<think>\n{thought}\n</think>\n<answer>\n{answer}\n</answer>'


def row(name, **more):
  fields = {'dataset': 'koniq', 'gt_score_norm': 3.5, 'id': name}
  return {'image': f'/data/KONIQ/{name}', 'task': 'score'} | fields | more


class TestDescriptions:
  @pytest.mark.parametrize(
    'text,want',
    [
      (said(' sharp,\n  but dark '), ('sharp, but dark', '')),
      ('<think>fine</think>', ('fine', '')),
      ('sharp', ('', 'no think span')),
      ('<think>never closed <answer>3</answer>', ('', 'no think span')),
      (said(' \n '), ('', 'empty')),
      (said('a <answer> b'), ('', 'a tag inside')),
      (said('a') + said('b'), ('', 'several think spans')),
    ],
  )
  def test_what_a_completion_says(self, text, want):
    assert descriptions.thought_of(text) == want

  def test_records_keep_opinions_and_no_number_of_the_teacher(self):
    rows = [row('a.jpg', std=0.4), row('b.jpg'), row('c.jpg')]
    found = descriptions.describe(
      rows,
      [[said('x'), said('y'), said('x')], ['nothing', said('')], [said('z')]],
      root='/data',
    )
    first, last = found.records
    assert first == {
      'image': 'KONIQ/a.jpg', 'id': 'a.jpg', 'dataset': 'koniq', 'std': 0.4,
      'gt_score_norm': 3.5, 'description': 'x', 'descriptions': ['x', 'y'],
    }  # fmt: skip
    assert last['image'] == 'KONIQ/c.jpg' and found.silent == 1
    assert found.dropped == {'no think span': 1, 'empty': 1}
    assert '3.2' not in json.dumps(found.records)
    each = descriptions.one_by_one(found.records)
    assert [r['description'] for r in each] == ['x', 'y', 'z']
    assert len({r['id'] for r in each}) == 3
    assert not any('descriptions' in r for r in each)
    with pytest.raises(ValueError, match='3 rows, but completions of 1'):
      descriptions.describe(rows, [[]])


class TestRact:
  def test_one_set_keeps_its_scores(self, tmp_path):
    for name in ('koniq', 'spaq'):
      records = descriptions.describe([row('a.jpg')], [[said('dark')]]).records
      (tmp_path / f'{name}.json').write_text(json.dumps(records))
    config = ract.get_config('full')
    config.sets.train = tuple(
      str(tmp_path / f'{n}.json') for n in ('koniq', 'spaq')
    )
    # The chat is the checkpoint's, which is not needed here.
    koniq, spaq = tasks.load(config).train_rows()[0]
    assert answers.answer_of(koniq[0], config) == said(
      'dark', '{"rating": 3.50}'
    )
    assert answers.answer_of(spaq[0], config) == '<think>\ndark\n</think>'

  def test_the_decoder_is_frozen_and_nothing_else_is(self):
    config = ract.get_config('smoke')
    made = job.prepare(config)
    paths = {path for path, _ in flatten(made.model.abstract_params)}
    frozen = job.optimizer_of(config, made.model).frozen
    assert frozen == {path for path in paths if path.startswith('decoder/')}
    assert {path.split('/')[0] for path in paths - frozen} >= {'vision'}
    batches = job.training_batches(made)
    batch = next(iter(batches))
    batches.close()
    assert batch['tokens'].shape[0] == config.batch_size
    assert batch['loss_mask'].any(axis=1).all()

  @pytest.mark.parametrize('size', ['full', 'tiny', 'smoke'])
  def test_every_size_trains_on_four_sets_with_the_scores_of_one(self, size):
    config = ract.get_config(size)
    assert len(config.sets.train) == 4 and len(config.sets.scored) == 1
    assert config.objective == 'sft' and config.sets.degradations == ()


@pytest.fixture(scope='module', autouse=True)
def defined():
  with command_flags.defined(
    describe.define_flags, ('checkpoint', 'set', 'output')
  ):
    yield


@pytest.fixture
def teacher(monkeypatch):
  """Runs launch.describe on eleven images with a teacher of the test's own."""
  config = q_insight.get_config('smoke,arm=base')
  config.photos.train, config.eval.batch_size = 11, 8
  asked = []

  def speak(model, weights, prompts, settings, *, samples, seeds, detokenize):
    assert prompts['tokens'].shape[0] == len(seeds) == 8
    assert settings.temperature == 1 and settings.top_p == 1
    if teacher.killed_at == len(asked):
      raise KeyboardInterrupt
    asked.append(seeds)
    # Of each image one sample says nothing that can be used.
    texts = [
      [said(f'{seed} {number}') for number in range(samples - 1)] + ['nothing']
      for seed in seeds
    ]
    return types.SimpleNamespace(texts=texts)

  monkeypatch.setattr(describe, 'sample', speak)
  monkeypatch.setattr(describe, 'prepare', lambda model, params: None)
  monkeypatch.setattr(
    describe.evaluate,
    'load_checkpoint',
    lambda made, path, mesh: (None, path),
  )
  monkeypatch.setattr(flags.FLAGS['config'], '_value', config)

  def run(path, **given):
    usual = dict(checkpoint='teacher', set='A', output=str(path), samples=3)
    with flagsaver.flagsaver(**usual | given):
      describe._run()
    return json.loads(path.read_text())

  teacher = types.SimpleNamespace(
    run=run, asked=asked, killed_at=None, config=config
  )
  return teacher


def test_a_teacher_describes_a_set(teacher, tmp_path, capsys):
  records = teacher.run(tmp_path / 'image.json')
  each = teacher.run(tmp_path / 'described.json', rows='described')
  assert len(records) == 11 and len(each) == 22
  # Every image has a seed of its own, the same in every run.
  asked = teacher.asked
  thoughts = [record['description'] for record in records]
  assert len(set(thoughts)) == 11
  np.testing.assert_array_equal(np.stack(asked[:2]), np.stack(asked[2:]))
  assert thoughts[8] == f'{asked[1][0]} 0'
  assert all(1 <= record['gt_score_norm'] <= 5 for record in records)
  output = ' '.join(capsys.readouterr().out.split())
  assert 'samples left out: 11: no think span' in output


def test_a_teacher_that_was_killed_is_asked_nothing_twice(teacher, tmp_path):
  whole = teacher.run(tmp_path / 'whole.json')
  teacher.asked.clear()
  teacher.killed_at = 1
  path = tmp_path / 'descriptions' / 'a.json'
  with pytest.raises(KeyboardInterrupt):
    teacher.run(path)
  assert len(teacher.asked) == 1 and not path.exists()
  teacher.killed_at = None
  assert teacher.run(path) == whole and len(teacher.asked) == 2
  assert (tmp_path / 'whole.json').read_bytes() == path.read_bytes()
  # Nothing is asked for another form of the same file.
  assert len(teacher.run(path, rows='described')) == 22
  assert len(teacher.asked) == 2
  with pytest.raises(ValueError, match='samples: 3 there, 2 now'):
    teacher.run(path, samples=2)
  lines = path.with_name('a.json.asked') / 'predictions.jsonl'
  lines.write_text(lines.read_text().replace('"A/3"', '"A/77"'))
  with pytest.raises(ValueError, match="describes 'A/77' where .* 'A/3'"):
    teacher.run(path)
