"""Depth scores against hand computations; the bootstrap against theory."""

import numpy as np
import pytest

from vlm.metrics import bootstrap, depth


class TestScores:
  def test_by_hand(self):
    truth = [1.0, 2.0, 4.0, 10.0]
    got = depth.scores([1.2, 2.6, 4.0, 20.0], truth)
    assert got['delta1'] == 0.5  # 1.2 and 1.0; 1.3 and 2.0 are out
    assert got['delta2'] == 0.75  # 1.3 < 1.5625
    assert got['delta3'] == 0.75  # 2.0 > 1.953125
    np.testing.assert_allclose(got['abs_rel'], (0.2 + 0.3 + 0 + 1) / 4)
    np.testing.assert_allclose(
      got['rmse'], np.sqrt((0.04 + 0.36 + 0 + 100) / 4)
    )
    np.testing.assert_allclose(
      got['log10'], (np.log10(1.2) + np.log10(1.3) + np.log10(2)) / 4
    )
    e = np.log([1.2, 1.3, 1.0, 2.0])
    np.testing.assert_allclose(got['silog'], 100 * np.std(e))
    assert got['count'] == 4 and got['parse_failures'] == 0

  def test_thresholds_are_strict_both_ways(self):
    truth = np.array([4.0, 5.0])
    assert not depth.within([5.0, 4.0], truth).any()
    assert depth.within([4.999, 4.001], truth).all()
    assert not depth.within([1.5625, 1.0], np.array([1.0, 1.5625]), 2).any()

  def test_failures_are_wrong_but_do_not_touch_the_error_means(self):
    truth = [2.0, 2.0, 2.0, 2.0]
    got = depth.scores(depth.as_array([2.0, None, None, 2.2]), truth)
    assert got['delta1'] == 0.5 and got['delta3'] == 0.5
    assert got['parse_failures'] == 2 and got['count'] == 4
    np.testing.assert_allclose(got['abs_rel'], 0.05)

  def test_negative_zero_and_infinite_predictions_are_failures(self):
    got = depth.scores([-2.0, 0.0, np.inf], [2.0, 2.0, 2.0])
    assert got['delta1'] == 0 and got['parse_failures'] == 3
    assert np.isnan(got['abs_rel']) and np.isnan(got['silog'])

  def test_silog_is_per_image_and_blind_to_scale(self):
    truth = np.array([1.0, 2.0, 3.0, 4.0])
    images = [0, 0, 1, 1]
    scaled = truth * [2, 2, 0.5, 0.5]
    assert depth.scores(scaled, truth, images)['silog'] < 1e-6
    assert depth.scores(scaled, truth)['silog'] > 60
    got = depth.scores([1, 4, 3, 4], truth, images)['silog']
    np.testing.assert_allclose(got, 100 * (np.log(2) / 2 + 0) / 2)

  def test_bad_labels_and_shapes_are_errors(self):
    with pytest.raises(ValueError, match='positive metres'):
      depth.scores([1.0], [0.0])
    with pytest.raises(ValueError, match='shapes'):
      depth.scores([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match='shapes'):
      depth.scores([], [])


class TestPriors:
  def test_constant_is_the_median(self):
    assert depth.constant_prior([1, 2, 100]) == 2.0

  def test_location_prior_and_hard_subset(self):
    pixels = [[0, 0]] * 3 + [[50, 0]] * 3
    train = [1.0, 2.0, 3.0, 10.0, 11.0, 12.0]
    answers = depth.location_prior(pixels, train, [[1, 0], [49, 0]], nearest=3)
    np.testing.assert_array_equal(answers, [2.0, 11.0])
    np.testing.assert_array_equal(
      depth.hard_subset(answers, [2.1, 20.0]), [False, True]
    )
    # A prior on its own hard subset scores nothing.
    row = depth.table_row(answers, [2.1, 20.0], answers)
    assert row['delta1_hard'] == 0 and row['hard_share'] == 0.5
    row = depth.table_row([2.1, 19.0], [2.1, 20.0], answers)
    assert row['delta1_hard'] == 1.0 and row['delta1'] == 1.0


class TestBootstrap:
  def test_independent_queries_match_the_normal_interval(self):
    rng = np.random.default_rng(0)
    values = rng.random(2000) < 0.3
    got = bootstrap.interval(values, np.arange(2000), draws=1000)
    error = 1.96 * np.sqrt(values.mean() * (1 - values.mean()) / 2000)
    np.testing.assert_allclose(got.mean, values.mean())
    np.testing.assert_allclose(got.low, values.mean() - error, atol=3e-3)
    np.testing.assert_allclose(got.high, values.mean() + error, atol=3e-3)

  def test_queries_of_one_image_count_once(self):
    """100 images with 10 equal queries are 100 observations, not 1000."""
    rng = np.random.default_rng(1)
    image = rng.random(100) < 0.5
    wide = bootstrap.interval(
      np.repeat(image, 10), np.repeat(np.arange(100), 10)
    )
    plain = bootstrap.interval(image, np.arange(100))
    np.testing.assert_allclose(wide, plain, atol=1e-12)
    assert wide.high - wide.low > 0.15

  def test_unequal_images_are_weighted_by_their_queries(self):
    got = bootstrap.interval([1, 1, 1, 0], ['a', 'a', 'a', 'b'])
    assert got == (0.75, 0.0, 1.0)
    # Half of all draws hold one of each; their mean is 0.75, not 0.5.
    narrow = bootstrap.interval([1, 1, 1, 0], ['a', 'a', 'a', 'b'], 0.4)
    assert narrow == (0.75, 0.75, 0.75)

  def test_coverage_of_the_truth(self):
    hits = 0
    for seed in range(100):
      rng = np.random.default_rng(seed)
      level = rng.normal(0, 1, 60)
      values = (level[:, None] + rng.normal(0, 0.5, (60, 4))).ravel()
      got = bootstrap.interval(
        values, np.repeat(np.arange(60), 4), draws=200, seed=seed
      )
      hits += got.low <= 0 <= got.high
    assert 86 <= hits <= 100

  def test_pairs_cancel_what_they_share(self):
    rng = np.random.default_rng(2)
    shared = rng.normal(0, 5, 300)
    got = bootstrap.paired_difference(
      shared + 0.1, shared + rng.normal(0, 0.01, 300), np.arange(300)
    )
    assert 0.09 < got.low < got.high < 0.11

  def test_mismatches_are_errors(self):
    with pytest.raises(ValueError, match='clusters'):
      bootstrap.interval([1.0], [1, 2])
    with pytest.raises(ValueError, match='same queries'):
      bootstrap.paired_difference([1.0], [1.0, 2.0], [0])
