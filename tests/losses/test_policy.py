"""The policy loss against loops in numpy, one token at a time."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.losses import drift
from vlm.losses.policy import (
  PolicySettings,
  advantages,
  degenerate,
  policy_loss,
)

B, T = 6, 5
LENGTHS = (5, 3, 1, 0, 4, 2)


@pytest.fixture(scope='module')
def tokens():
  rng = np.random.default_rng(2)
  logprobs = -rng.uniform(0.1, 2.0, (B, T)).astype(np.float32)
  noise = lambda scale: scale * rng.normal(size=(B, T)).astype(np.float32)
  mask = np.arange(T) < np.array(LENGTHS)[:, None]
  return {
    'logprobs': logprobs,
    'old': logprobs + noise(0.6),
    'reference': logprobs + noise(0.4),
    'sampler': logprobs + noise(0.2),
    'advantage': rng.normal(size=B).astype(np.float32),
    'mask': mask.astype(np.float32),
  }


def given(tokens, *names):
  return [jnp.asarray(tokens[name]) for name in names]


MAIN = 'logprobs', 'old', 'advantage', 'mask'


def oracle(tokens, settings, weights=None):
  """(numerator, denominator), and sums of clipped tokens, k3 and ratios."""
  per_row, clipped, kl, ratios = [], 0, 0.0, 0.0
  for b in range(B):
    n = LENGTHS[b]
    if n == 0:
      continue
    gaps = [
      float(tokens['logprobs'][b, t]) - float(tokens['old'][b, t])
      for t in range(n)
    ]
    if settings.ratio == 'sequence':
      gaps = [sum(gaps) / n] * n
    losses = []
    for t in range(n):
      a, ratio = float(tokens['advantage'][b]), np.exp(gaps[t])
      inside = min(max(ratio, 1 - settings.clip_low), 1 + settings.clip_high)
      clipped += inside * a < ratio * a
      ratios += ratio
      d = float(tokens['reference'][b, t]) - float(tokens['logprobs'][b, t])
      k3 = np.exp(d) - d - 1
      kl += k3
      surrogate = min(ratio * a, inside * a)
      if weights is not None:
        surrogate *= weights[b][t]
      losses.append(-surrogate + settings.beta * k3)
    per_row.append(losses)
  if settings.reduction == 'token':
    pair = sum(map(sum, per_row)), sum(map(len, per_row))
  elif settings.reduction == 'sequence':
    pair = sum(np.mean(row) for row in per_row), len(per_row)
  else:
    pair = sum(sum(row) for row in per_row) / T, len(per_row)
  return pair, clipped, kl, ratios


@pytest.mark.parametrize(
  ('ratio', 'reduction', 'clip', 'beta'),
  list(
    itertools.product(
      ('token', 'sequence'),
      ('sequence', 'token', 'constant'),
      ((0.2, 0.2), (0.1, 0.28)),
      (0.0, 0.3),
    )
  ),
)
def test_every_member_of_the_family(tokens, ratio, reduction, clip, beta):
  settings = PolicySettings(*clip, beta, ratio, reduction)
  pair, metrics = policy_loss(
    *given(tokens, *MAIN), settings, *given(tokens, 'reference')
  )
  want, clipped, kl, ratios = oracle(tokens, settings)
  np.testing.assert_allclose(pair, want, rtol=2e-6)
  np.testing.assert_allclose(metrics['kl'], (kl, sum(LENGTHS)), rtol=1e-5)
  np.testing.assert_allclose(metrics['ratio'][0], ratios, rtol=1e-5)
  assert int(metrics['clip_share'][0]) == clipped > 0


def test_the_first_update_has_ratio_one_and_a_gradient(tokens):
  settings = PolicySettings()

  def loss(logprobs):
    rest = given(tokens, 'advantage', 'mask')
    pair, _ = policy_loss(logprobs, logprobs, *rest, settings)
    return pair[0]

  value, slope = jax.value_and_grad(loss)(*given(tokens, 'logprobs'))
  counted = [b for b in range(B) if LENGTHS[b]]
  np.testing.assert_allclose(value, -tokens['advantage'][counted].sum(), 1e-5)
  for b in range(B):
    for t in range(T):
      inside = t < LENGTHS[b]
      want = -tokens['advantage'][b] / LENGTHS[b] if inside else 0.0
      np.testing.assert_allclose(slope[b, t], want, rtol=1e-5)


def test_what_stands_behind_a_completion_does_not_matter(tokens):
  settings = PolicySettings(beta=0.1)
  logprobs, old, *rest = given(tokens, *MAIN)
  junk = jnp.where(rest[1] > 0, old, jnp.nan)
  clean = policy_loss(logprobs, old, *rest, settings, junk)
  dirty = policy_loss(logprobs, junk, *rest, settings, junk)
  assert np.isfinite(dirty[0][0])
  np.testing.assert_array_equal(clean[0], dirty[0])


def test_a_reference_is_asked_for(tokens):
  with pytest.raises(ValueError, match='reference'):
    policy_loss(*given(tokens, *MAIN), PolicySettings(beta=0.1))


@pytest.mark.parametrize(
  'field',
  [
    {'ratio': 'word'},
    {'reduction': 'sum'},
    {'clip_low': 1.5},
    {'clip_high': 0.0},
    {'beta': -1.0},
  ],
)
def test_a_wrong_choice_is_named_by_its_flag(field):
  with pytest.raises(ValueError, match=f'--config.rl.{next(iter(field))}'):
    PolicySettings(**field)


class TestAdvantages:
  @pytest.mark.parametrize('normalise', ['group_std', 'none'])
  def test_the_oracle(self, normalise):
    rng = np.random.default_rng(2)
    rewards = rng.normal(size=(5, 4)).astype(np.float32)
    counted = np.ones((5, 4), np.float32)
    counted[1, 2] = counted[2, :2] = counted[3, 1:] = 0
    rewards[counted == 0] = np.nan
    got = advantages(jnp.asarray(rewards), jnp.asarray(counted), normalise)
    for p in range(5):
      group = [float(r) for r, c in zip(rewards[p], counted[p]) if c]
      for g in range(4):
        want = 0.0
        if counted[p, g] and len(group) > 1:
          want = float(rewards[p, g]) - sum(group) / len(group)
          if normalise == 'group_std':
            want /= np.std(group, ddof=1) + 1e-4
        np.testing.assert_allclose(got[p, g], want, rtol=1e-4, atol=1e-6)

  def test_equal_rewards_teach_exactly_nothing(self):
    # The float32 mean of eight times 0.1, 1/3 or 1e8 + 1 is another number.
    rewards = np.repeat([[0.1], [1 / 3], [1e8 + 1], [0.0]], 8, axis=1)
    rewards = jnp.asarray(rewards, jnp.float32)
    ones = jnp.ones_like(rewards)
    assert not np.any(advantages(rewards, ones))
    assert np.all(degenerate(rewards, ones))
    found = degenerate(rewards.at[:, 3].multiply(2), ones)
    np.testing.assert_array_equal(found, [False, False, False, True])

  def test_another_normalisation_is_an_error(self):
    ones = jnp.ones((1, 2))
    with pytest.raises(ValueError, match='--config.rl.normalise'):
      advantages(ones, ones, 'batch')


def test_drift_is_corrected_sequence_by_sequence(tokens):
  bound, cap = 0.5, 1.1
  found = drift.weights(*given(tokens, 'old', 'sampler', 'mask'), bound, cap)
  seen = set()
  for b in range(B):
    n = LENGTHS[b]
    d = [float(tokens['old'][b, t] - tokens['sampler'][b, t]) for t in range(n)]
    far = n > 0 and sum(abs(x) for x in d) / n > bound
    seen.add(far)
    for t in range(n):
      want = min(np.exp(d[t]), cap) if far else 1.0
      np.testing.assert_allclose(found[b, t], want, rtol=1e-5)
  assert seen == {True, False}
  settings = PolicySettings(beta=0.2)
  pair, _ = policy_loss(
    *given(tokens, *MAIN), settings, *given(tokens, 'reference'), found
  )
  want, *_ = oracle(tokens, settings, np.asarray(found))
  np.testing.assert_allclose(pair, want, rtol=2e-6)
