"""RALI's student in miniature: words, descriptions, scorers, numbers."""

import json

import jax
import numpy as np
import pytest

from data.pairs import TextEncoder
from experiments import task as tasks
from experiments.rali import q_insight
from experiments.rali.answers import answer_of
from experiments.rali.miniature import (
  described,
  describing,
  raters,
  towers,
  vocabulary,
)
from launch import evaluate, train
from launch.objectives import regression
from vlm.methods.rali.descriptions import describe
from vlm.metrics import correlation
from vlm.sharding.mesh import make_mesh

KINDS = {'blur', 'noise', 'jpeg', 'contrast', 'all'}


def shrunk(config):
  config.photos.train = config.photos.generic = 40
  config.photos.test, config.eval.batch_size, config.measure.timed = 10, 16, 5
  return config


class Teacher:
  """Says the severest degradation; of every fourth picture nothing."""

  def __init__(self):
    self.asked = []

  def said(self, images, draws, start):
    self.asked.append((len(images), start))
    texts = []
    for place in range(len(images)):
      name = f'blur slight, noise {"serious" if place % 2 else "obvious"}'
      said = (
        f'<think>\n{name}\n</think>\n<answer>\n{{"rating": 2.0}}\n</answer>'
      )
      texts.append(['' if place % 4 == 0 else said] * (draws - 1) + [''])
    return texts


@pytest.fixture
def folder(tmp_path):
  config = shrunk(q_insight.get_config('smoke,arm=score'))
  config.workdir, config.measure.describe = str(tmp_path), ('A', 'C')
  teacher = Teacher()
  found = describing.write(config, teacher)
  # 40 photographs of each family, the last batch filled up.
  assert teacher.asked == [(16, 0), (16, 16), (16, 32)] * 2
  facts = {'records': 30, 'silent': 10, 'distinct': 2}
  assert found['A'] == found['C'] == facts | {'dropped': {'no think span': 60}}
  return str(tmp_path)


def test_descriptions_join_the_photographs_they_are_of(folder):
  config = shrunk(towers.get_config('smoke,arm=align'))
  config.described.A = folder
  task = tasks.load(config)
  (rows,), _ = task.train_rows()
  assert len(rows) == 30
  names = [rows[n]['id'] for n in range(30)]
  assert names[:4] == ['A/1', 'A/2', 'A/3', 'A/5']
  row = rows[1]
  assert row['description'] == 'blur slight, noise obvious'
  assert 1 <= row['gt_score_norm'] <= 5 and row['image'].shape == (32, 32, 3)
  # Not of the test photographs, nor of a family that nobody described.
  assert 'descriptions' not in task.eval_sets()['A'][0]
  config.sets.train, config.described.D = ('D',), folder
  with pytest.raises(FileNotFoundError, match='measure.describe'):
    task.train_rows()
  silent = [{'image': 'x', 'id': 'none', 'descriptions': ['a']}]
  described.path_of(folder, 'D').write_text(json.dumps(silent))
  with pytest.raises(ValueError, match="no photograph of family 'D'"):
    task.train_rows()


def test_a_language_model_learns_them_instead_of_captions(folder):
  config = shrunk(q_insight.get_config('smoke,arm=sft_description'))
  config.described.C, config.sets.train = folder, ('A', 'C')
  config.sets.scored = ('A',)
  captioned, told = tasks.load(config).train_rows()[0]
  said = answer_of(told[0], config)
  assert said == '<think>\nblur slight, noise serious\n</think>'
  assert '"rating"' in answer_of(captioned[0], config)


def test_the_text_tower_reads_the_teachers_words():
  config = towers.get_config('smoke,arm=captions')
  task = tasks.load(config)
  text = TextEncoder(task.tokenizer_json(), 12)
  ids, cut = text('blur slight, noise serious')
  chat = tasks.load(q_insight.get_config('smoke')).chat()
  assert chat.decode(ids[:7].tolist()) == 'blur slight, noise serious'
  assert ids[7] == text.end and not cut and not ids[8:].any()
  row = task.train_rows()[0][0][3]
  picture, said = task.pair(row, np.random.default_rng(0))
  assert picture.shape == (24, 24, 3) and text(said)[0].any()


@pytest.fixture(scope='module')
def aligned(tmp_path_factory):
  """A tower after a few steps, evaluated as launch.arms does."""
  config = shrunk(towers.get_config('smoke,arm=captions'))
  config.steps = 4
  config.workdir = str(tmp_path_factory.mktemp('clip'))
  made, state = train.run(config)
  mesh = make_mesh(config.mesh)
  params = state['params']
  return made, params, evaluate.evaluate_job(made, params, mesh)


def test_a_tower_without_opinions_is_tested_through_a_scorer(aligned):
  made, params, sets = aligned
  assert set(sets) == {'A', 'C'}
  records = sets['C']['records']
  assert len(records) == 10 and 'severities' not in records[0]
  scores = sets['C']['scores']
  said = [record['prediction'] for record in records]
  opinions = [record['gt_score_norm'] for record in records]
  srcc = correlation.srcc(said, opinions)
  assert scores['srcc'][0] == pytest.approx(srcc) and scores['unread'] == 0
  found = json.loads(json.dumps(made.task.measure(made, params)))
  cases = found['rali']['cases']
  assert set(cases) == {'full', 'no PCA', 'no bins', 'no fit'}
  assert cases['full']['C']['srcc'] == pytest.approx(srcc)
  assert found['rali']['epochs']['no fit'] == 0
  assert cases['no fit']['A'] != cases['no PCA']['A']
  assert set(found['photographs']) == KINDS
  # The mean of what never changes is what was said.
  assert found['drawn']['C']['srcc'] == pytest.approx(srcc, abs=1e-6)
  tower = raters.count({k: params[k] for k in ('vision', 'vision_projection')})
  scorer = 16 + 16 + 8 * 16 + 12 * 8 + 12 + 1
  assert found['cost']['parameters'] == tower + scorer
  assert found['cost']['seconds'] > 0


@pytest.mark.parametrize('of', ['prompt', 'picture'])
def test_a_number_is_learnt_and_rated(of, aligned, tmp_path):
  if of == 'prompt':
    config = shrunk(q_insight.get_config('smoke,arm=sft_regression'))
  else:
    config = shrunk(towers.get_config('smoke,arm=mse'))
    config.init_from = aligned[0].config.workdir
  config.workdir, config.steps, config.batch_size = str(tmp_path), 3, 8
  config.optimizer.warmup = 0
  made, state = train.run(config)
  mesh = make_mesh(config.mesh)
  result = evaluate.evaluate_job(made, state['params'], mesh)['A']
  assert len(result['records']) == 10 and result['scores']['unread'] == 0
  params = jax.device_get(state['params'])
  rater = raters.rater_of(made, params, config)
  rows = made.task.eval_sets()['A']
  rated = rater.rate([rows[n]['image'] for n in range(10)], draws=4)
  want = [record['prediction'] for record in result['records']]
  np.testing.assert_allclose(rated[:, 0], want, atol=1e-5)
  assert rated.shape == (10, 1)
  if of == 'picture':
    before = aligned[1]
    moved = lambda name: any(
      not np.array_equal(a, b)
      for a, b in zip(
        jax.tree.leaves(params[name]), jax.tree.leaves(before[name])
      )
    )
    assert moved('vision') and moved('vision_projection')
    assert not moved('text') and not moved('text_projection')


def test_full_size_reads_a_token_that_is_never_written():
  config = q_insight.get_config('full,arm=sft_regression')
  model = regression.model(config)
  shapes = regression.shapes(config, model)
  assert shapes['target'].shape == (config.batch_size,)
  assert 'loss_mask' not in shapes
  out = jax.eval_shape(
    regression.read_of(config, model), model.abstract_params, shapes
  )
  assert out.shape == (config.batch_size,)
  config.regression.of = 'text'
  with pytest.raises(ValueError, match="regression.of='text'"):
    regression.prepare(config)


def test_unknown_arms_are_errors():
  with pytest.raises(ValueError, match="arm='linear'"):
    towers.get_config('smoke,arm=linear')


def test_what_no_student_can_read_is_dropped():
  rows = [{'id': 'A/1', 'image': np.zeros((8, 8, 3), np.uint8)}]
  said = ['<think>\nblur serious\n</think>', '<think>\nblur serious, </think>']
  made = describe(rows, [said], readable=vocabulary.readable)
  assert made.records[0]['descriptions'] == ['blur serious']
  assert made.dropped == {'unreadable': 1} and made.silent == 0
  tokenizer = vocabulary.chat().tokenizer
  assert tokenizer.encode('blur serious, noise slight').ids
  with pytest.raises(Exception, match='UNK'):
    tokenizer.encode('blur serious,')
