"""RALI's first stage: what is frozen, what is held out, how it is chosen."""

import json

import numpy as np
import pytest

from experiments.rali import align, align_task
from launch import job
from launch.objectives import pairs
from vlm.sharding import rules


def files(tmp_path, number=60):
  rows = [
    {
      'image': f'KONIQ/images/{i}.jpg',
      'gt_score_norm': 1 + 4 * i / number,
      'descriptions': [f'text {i}', f'other {i}'],
    }
    for i in range(number)
  ]
  path = tmp_path / 'train.json'
  path.write_text(json.dumps(rows))
  config = align.get_config()
  config.data.path, config.data.held_out = str(path), 0.25
  return align_task.Task(config), rows


def test_the_defaults_are_the_specs():
  config = align.get_config()
  assert config.batch_size == 256 and config.contrastive.texts == 3
  assert config.steps == 247 and config.optimizer.warmup == 12
  assert config.eval.every == 25 and config.optimizer.lr == 1e-5
  model = pairs.model_of(config)
  width = model.abstract_params['vision_projection']['kernel'].shape
  assert width == (1024, 768) and model.config.text.context == 77
  assert config.slices[0][1] == {'accumulate': 1}
  large = align.get_config('full,batch=16384')
  assert large.slices[0][1] == {'accumulate': 8}
  with pytest.raises(ValueError, match='text=.*frozen'):
    align.get_config('full,text=thawed')


def test_the_text_tower_is_frozen_and_its_projection_is_not():
  config = align.get_config('smoke')
  model = pairs.model_of(config)
  paths = [path for path, _ in rules.flatten(model.abstract_params)]
  frozen = job.optimizer_of(config, model).frozen
  assert frozen == {path for path in paths if path.startswith('text/')}
  assert 10 < len(frozen) < len(paths) - 10
  thawed = align.get_config('smoke,text=train')
  assert not job.optimizer_of(thawed, model).frozen


def test_rows_are_held_out_by_their_names(tmp_path):
  task, rows = files(tmp_path)
  (train_part,), _ = task.train_rows()
  held = task.eval_sets()['validation']
  names = lambda part: {part[i]['image'] for i in range(len(part))}
  assert not names(train_part) & names(held)
  assert len(train_part) + len(held) == len(rows) and 8 <= len(held) <= 22
  first = train_part.where(0)
  assert rows[int(first[first.index('[') + 1 : -1])] == train_part[0]
  # Texts do not decide.
  for row in rows:
    row['descriptions'] = ['new']
  (tmp_path / 'train.json').write_text(json.dumps(rows))
  assert names(task.eval_sets()['validation']) == names(held)


def test_the_probe_reads_quality_where_it_is(tmp_path):
  task, _ = files(tmp_path)
  rng = np.random.default_rng(0)
  quality = rng.uniform(1, 5, 80)
  rows = [{'gt_score_norm': q} for q in quality]
  noise = rng.normal(size=(80, 20))
  seen = noise + np.outer(quality, rng.normal(size=20))
  assert task.probe(rows, seen)['ridge_srcc'] > 0.9
  assert abs(task.probe(rows, noise)['ridge_srcc']) < 0.4
  assert task.probe(rows, np.ones((80, 20)))['ridge_srcc'] == 0
  assert task.probe(rows[:1], noise[:1]) == {'ridge_srcc': 0.0}


def test_the_ridge_equals_the_normal_equations():
  rng = np.random.default_rng(1)
  x, y = rng.normal(size=(15, 4)), rng.normal(size=15)
  got = align_task.cross_fitted(x, y)
  folds = np.arange(15) % align_task.FOLDS
  for fold in range(align_task.FOLDS):
    seen, asked = folds != fold, folds == fold
    mean, level = x[seen].mean(0), y[seen].mean()
    centred = x[seen] - mean
    penalty = align_task.PENALTY * np.sum(centred**2) / 4
    weights = np.linalg.solve(
      centred.T @ centred + penalty * np.eye(4), centred.T @ (y[seen] - level)
    )
    np.testing.assert_allclose(got[asked], (x[asked] - mean) @ weights + level)
