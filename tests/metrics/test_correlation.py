"""Correlations against sums written out, and the cases that have none."""

import numpy as np
import pytest

from vlm.metrics import bootstrap, correlation


def _pairs(x, y):
  """Concordant minus discordant pairs, and pairs that x and y do not tie."""
  agree, untied_x, untied_y = 0, 0, 0
  for i in range(len(x)):
    for j in range(i):
      sign = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
      agree += sign[0] * sign[1]
      untied_x, untied_y = untied_x + abs(sign[0]), untied_y + abs(sign[1])
  return agree / np.sqrt(untied_x * untied_y)


def _average_ranks(x):
  return [sum(v < u for v in x) + (sum(v == u for v in x) + 1) / 2 for u in x]


def _r(x, y):
  n, mx, my = len(x), sum(x) / len(x), sum(y) / len(y)
  top = sum((x[i] - mx) * (y[i] - my) for i in range(n))
  below = sum((v - mx) ** 2 for v in x) * sum((v - my) ** 2 for v in y)
  return top / below**0.5


@pytest.fixture(scope='module')
def tied():
  rng = np.random.default_rng(0)
  truth = rng.uniform(1, 5, 60).round(1)
  return (truth + rng.normal(0, 0.8, 60)).round(1), truth


def test_correlations_equal_their_sums_with_ties(tied):
  x, y = tied
  assert len(set(x)) < len(x) and len(set(y)) < len(y)
  assert correlation.plcc(x, y) == pytest.approx(_r(x, y), abs=1e-12)
  ranks = _r(_average_ranks(x), _average_ranks(y))
  assert correlation.srcc(x, y) == pytest.approx(ranks, abs=1e-12)
  assert correlation.krcc(x, y) == pytest.approx(_pairs(x, y), abs=1e-12)
  assert correlation.rmse(x, y) == pytest.approx(np.sqrt(np.mean((x - y) ** 2)))
  assert correlation.mae(x, y) == pytest.approx(np.abs(x - y).mean())


def test_average_ranks_are_not_ordinal_ranks():
  # Ordinal ranks 1, 2, 3 of the ties would give 1.
  assert correlation.srcc([1, 1, 2], [1, 2, 3]) == pytest.approx(0.75**0.5)


@pytest.mark.parametrize('scale, shift', [(1, 0), (1000, -5e4), (1e-3, 7)])
def test_four_parameters_undo_a_logistic_scorer(scale, shift):
  rng = np.random.default_rng(1)
  x = rng.uniform(-3, 3, 200)
  y = 4 / (1 + np.exp(-(x - 0.5) / 0.4)) + 1
  found = correlation.scores(scale * x + shift, y)
  assert found['plcc'] < 0.97
  assert found['plcc_logistic4'] == pytest.approx(1, abs=1e-6)
  assert found['rmse_logistic4'] < 1e-3


@pytest.mark.parametrize('sign', [1, -1])
def test_five_parameters_undo_a_tilted_step_either_way(sign):
  x = np.random.default_rng(2).uniform(-3, 3, 200)
  y = 3 * (0.5 - 1 / (1 + np.exp(2 * (x - 0.3)))) + 0.2 * x + 2
  found = correlation.scores(sign * x, y)
  assert found['plcc_logistic5'] == pytest.approx(1, abs=1e-6)
  assert found['srcc'] == pytest.approx(sign)  # a fit cannot turn it round


def test_the_fit_is_least_squares(tied):
  """No neighbour of the fitted curve's parameters is better."""
  x, y = tied
  fitted = correlation.logistic_fit(x, y, 4)
  best = np.mean((fitted - y) ** 2)
  assert best < np.mean((y - y.mean()) ** 2)
  for bend in (1.01, 0.99):
    moved = y.mean() + bend * (fitted - y.mean())
    assert np.mean((moved - y) ** 2) > best
  for shift in (0.02, -0.02):
    assert np.mean((fitted + shift - y) ** 2) > best


def test_constants_and_single_images_give_nan_and_errors_still():
  for x, y in (([3.3] * 9, range(9)), (range(9), [2.5] * 9), ([2.0], [3.0])):
    found = correlation.scores(x, y)
    nan = [name for name, value in found.items() if np.isnan(value)]
    assert nan == [
      *('plcc', 'plcc_logistic4', 'plcc_logistic5', 'srcc', 'krcc'),
      *('rmse_logistic4', 'rmse_logistic5'),
    ]
    assert found['mae'] == pytest.approx(np.abs(np.array(x) - y).mean())
    (low, high) = correlation.intervals(x, y, draws=5)['srcc'][1:]
    assert np.isnan(low) and np.isnan(high)
  few = correlation.scores([1, 2, 4], [1, 3, 2])  # fewer than parameters
  assert np.isnan(few['plcc_logistic4']) and few['srcc'] == pytest.approx(0.5)


def test_tiny_spreads_do_not_vanish():
  x = np.array([0.0, 1, 2, 5])
  assert correlation.plcc(x * 1e-200, x) == pytest.approx(1)
  assert correlation.plcc(1e9 + x * 1e-4, x) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
  'x, y, message',
  [
    ([1, 2], [1, 2, 3], 'two equal'),
    ([], [], 'non-empty'),
    ([1, np.nan], [1, 2], 'prediction 1 is nan'),
    ([1, 2], [np.inf, 2], 'opinion 0 is inf'),
  ],
)
def test_bad_lists_are_named(x, y, message):
  with pytest.raises(ValueError, match=message):
    correlation.scores(x, y)
  with pytest.raises(ValueError, match='parameters=3'):
    correlation.logistic_fit([1, 2], [1, 2], 3)


def test_intervals_resample_whole_clusters(tied):
  x, y = tied
  found = correlation.intervals(x, y, draws=200)
  assert found['plcc'].mean == correlation.plcc(x, y)
  assert found['srcc'].low < found['srcc'].mean < found['srcc'].high
  # Each image ten times over says no more than once.
  many = correlation.intervals(
    np.repeat(x, 10), np.repeat(y, 10), np.repeat(range(60), 10), draws=200
  )
  assert many['plcc'].low == pytest.approx(found['plcc'].low, abs=1e-9)


def test_a_statistic_that_is_a_mean_has_the_mean_interval(tied):
  x, _ = tied
  clusters = np.arange(60) // 3
  mean = bootstrap.statistic_interval(
    lambda v: v.mean(), [x], clusters, draws=300, seed=4
  )
  assert mean == pytest.approx(
    bootstrap.interval(x, clusters, draws=300, seed=4)
  )
