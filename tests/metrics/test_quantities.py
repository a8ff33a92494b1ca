"""Scores by task and by depth kind."""

import numpy as np
import pytest

from vlm.metrics import depth, quantities


def test_tasks_count_the_same_however_many_questions_they_have():
  got = quantities.by_task(
    [1.0, 2.0, 9.0, np.nan], [1.0, 2.0, 3.0, 4.0], ['a', 'a', 'a', 'b']
  )
  assert list(got) == ['a', 'b', 'mean']
  assert got['a']['delta1'] == pytest.approx(2 / 3)
  assert got['b']['delta1'] == 0.0
  assert got['b']['parse_failures'] == 1
  assert got['mean'] == {'delta1': pytest.approx(1 / 3), 'count': 4}


def test_kinds_differ_in_rmse_alone():
  rng = np.random.default_rng(0)
  z = rng.uniform(1, 9, 50)
  ray = rng.uniform(1.0, 1.4, 50)
  predicted = z * ray * rng.uniform(0.7, 1.4, 50)
  predicted[3] = np.nan
  got = quantities.by_kind(predicted, z * ray, z)
  for name in ('delta1', 'delta2', 'abs_rel', 'log10', 'silog'):
    assert got['range'][name] == pytest.approx(got['z'][name])
  assert got['range']['rmse'] > 1.02 * got['z']['rmse']
  assert got['z']['parse_failures'] == 1
  want = depth.scores(predicted / ray, z)
  assert got['z']['rmse'] == pytest.approx(want['rmse'])


def test_a_model_that_answers_z_is_converted_first():
  z, ray = np.array([2.0, 4.0]), np.array([1.0, 1.4])
  as_z = quantities.by_kind(z, z * ray, z, answered='z')
  assert as_z['range']['delta1'] == as_z['z']['delta1'] == 1.0
  as_range = quantities.by_kind(z, z * ray, z)
  assert as_range['range']['delta1'] == 0.5
  with pytest.raises(ValueError, match='answered'):
    quantities.by_kind(z, z, z, answered='depth')
