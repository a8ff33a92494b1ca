"""Opinions as levels, soft labels and DeQA-Score's loss (spec 2.3)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.methods.rali import level_loss, levels, soft_labels

X = (5, 4, 3, 2, 1)


def _fixed(density, mean):
  """Spec 2.3 word by word."""
  total = sum(density)
  moment = sum(x * p for x, p in zip(X, density))
  alpha = (mean - 3) / (moment - 3 * total + 1e-9)
  beta = (1 - alpha * total) / 5
  return [max(alpha * p + beta, 0) for p in density]


def _cdf(x, mean, std):
  return 0.5 * (1 + math.erf((x - mean) / (std * math.sqrt(2))))


@pytest.mark.parametrize('density', ['pdf', 'cdf'])
@pytest.mark.parametrize('mean, std', [(3.6, 0.8), (1.4, 0.5), (4.9, 0.9)])
def test_labels_are_the_moved_density(density, mean, std):
  if density == 'pdf':
    scale = std * math.sqrt(2 * math.pi)
    raw = [math.exp(-0.5 * ((x - mean) / std) ** 2) / scale for x in X]
  else:
    raw = [_cdf(x + 0.5, mean, std) - _cdf(x - 0.5, mean, std) for x in X]
  found = soft_labels.soft_label(mean, std, density)
  np.testing.assert_allclose(found.density, raw, atol=1e-12)
  want = _fixed(raw, mean)
  gap = abs(sum(x * p for x, p in zip(X, want)) - mean)
  assert found.linear == (gap > 0.1)
  if not found.linear:
    np.testing.assert_allclose(found.probs, want, atol=1e-9)
  assert found.probs @ np.array(X) == pytest.approx(mean, abs=0.1)


def test_small_deviations_and_none_are_linear():
  for std in (0.0, 0.1, 0.199):
    found = soft_labels.soft_label(3.25, std, 'pdf')
    assert found.linear
    np.testing.assert_allclose(found.probs, [0, 0.25, 0.75, 0, 0])
  assert soft_labels.soft_label(3.5, 0.199, 'pdf').linear
  assert not soft_labels.soft_label(3.5, 0.2, 'pdf').linear


def test_ends_and_whole_levels():
  np.testing.assert_array_equal(soft_labels.linear_label(5), [1, 0, 0, 0, 0])
  np.testing.assert_array_equal(soft_labels.linear_label(1), [0, 0, 0, 0, 1])
  np.testing.assert_array_equal(soft_labels.linear_label(2), [0, 0, 0, 1, 0])


def test_a_mean_of_exactly_three_is_uniform_as_published():
  found = soft_labels.soft_label(3.0, 0.8, 'pdf')
  np.testing.assert_allclose(found.probs, 0.2)


def test_unclipped_labels_sum_to_one_with_the_right_mean():
  for mean in (2.6, 3.3, 3.5):
    probs = soft_labels.soft_label(mean, 1.1, 'pdf').probs
    assert (probs > 0).all()
    assert probs.sum() == pytest.approx(1, abs=1e-6)
    assert probs @ np.array(X) == pytest.approx(mean, abs=1e-6)


def test_bad_opinions_are_errors():
  with pytest.raises(ValueError, match='opinion 5.2'):
    soft_labels.soft_label(5.2, 0.4, 'pdf')
  with pytest.raises(ValueError, match='-0.1'):
    soft_labels.soft_label(3.0, -0.1, 'pdf')
  with pytest.raises(ValueError, match="density='beta'"):
    soft_labels.soft_label(3.1, 0.4, 'beta')
  with pytest.raises(ValueError, match='opinion 101'):
    soft_labels.normalise(101, 3, 0, 100)
  with pytest.raises(ValueError, match='in \\[4, 4\\]'):
    soft_labels.normalise(4, 3, 4, 4)
  assert soft_labels.normalise(75, 10, 0, 100) == (4.0, 0.4)


@pytest.mark.parametrize(
  'mos, want',
  [
    (0, 'bad'),
    (20, 'bad'),  # a border is of the lower level
    (20.1, 'poor'),
    (40, 'poor'),
    (50, 'fair'),
    (60.5, 'good'),
    (80, 'good'),
    (100, 'excellent'),
  ],
)
def test_levels_are_equal_fifths(mos, want):
  assert levels.level_of(mos, 0, 100) == want
  assert levels.level_of(mos / 25 + 1, 1, 5) == want
  assert levels.level_score(f'It is {want}.') == 5 - levels.LEVELS.index(want)


def test_opinions_outside_of_the_range_have_no_level():
  with pytest.raises(ValueError, match='opinion 6'):
    levels.level_of(6, 1, 5)
  with pytest.raises(ValueError, match='opinion 2'):
    levels.level_of(2, 2, 2)


def test_the_expected_score():
  logits = jnp.log(jnp.array([[0.1, 0.2, 0.4, 0.2, 0.1], [1, 0, 0, 0, 0]]))
  found = levels.expected_score(logits + 7.0)
  np.testing.assert_allclose(found, [3.0, 5.0], atol=1e-6)


def test_the_divergence_charges_mass_on_other_tokens():
  logits = np.random.default_rng(0).normal(size=(2, 9)).astype(np.float32)
  probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  label = np.array([[0.5, 0.5, 0, 0, 0], [0.1, 0.2, 0.3, 0.2, 0.2]])
  want = [
    sum(t * math.log(t / p) for t, p in zip(row, found) if t)
    for row, found in zip(label, probs[:, 2:7])
  ]
  logprobs = jax.nn.log_softmax(jnp.array(logits))[:, 2:7]
  found = level_loss.level_divergence(logprobs, jnp.array(label, jnp.float32))
  np.testing.assert_allclose(found, want, atol=1e-5)


def test_pair_fidelity():
  phi = lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2)))
  predicted, mean, std = (4.0, 3.0), (3.5, 2.0), (0.5, 0.7)
  model = phi(1 / math.sqrt(2))
  truth = phi(1.5 / math.sqrt(0.25 + 0.49))
  want = 1 - math.sqrt(model * truth) - math.sqrt((1 - model) * (1 - truth))
  pair = lambda values: tuple(jnp.array([float(v)]) for v in values)
  given = pair(predicted), pair(mean), pair(std)
  np.testing.assert_allclose(level_loss.pair_fidelity(*given), want, atol=1e-5)
  same = level_loss.pair_fidelity(pair((2, 2)), pair((3, 3)), pair((0, 0)))
  np.testing.assert_allclose(same, 0, atol=1e-6)


def test_the_whole_loss_and_its_gradient_are_finite_without_deviations():
  rng = np.random.default_rng(3)
  logits = [jnp.array(rng.normal(size=(4, 5)), jnp.float32) for _ in range(2)]
  label = [jnp.eye(5)[jnp.array([0, 1, 2, 4])], jnp.full((4, 5), 0.2)]
  mean = jnp.array([5.0, 4, 3, 1]), jnp.full(4, 3.0)
  std = jnp.zeros(4), jnp.zeros(4)

  def loss(a, b):
    logprobs = jax.nn.log_softmax(a) - 0.1, jax.nn.log_softmax(b) - 0.1
    given = (a, b), logprobs, tuple(label), mean, std
    return level_loss.deqa_loss(*given, jnp.full(4, 2.0)).mean()

  value, found = jax.value_and_grad(loss, argnums=(0, 1))(*logits)
  assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in found)
  parts = [
    level_loss.level_divergence(jax.nn.log_softmax(x) - 0.1, y).mean()
    for x, y in zip(logits, label)
  ]
  scores = tuple(levels.expected_score(x) for x in logits)
  parts.append(level_loss.pair_fidelity(scores, mean, std).mean())
  assert float(value) == pytest.approx(float(sum(parts)) + 0.05 * 2, abs=1e-5)
