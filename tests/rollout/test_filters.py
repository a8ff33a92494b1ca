"""Filters against transformers' processors, and draws against frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.rollout import filters
from vlm.rollout.settings import Sampling

VOCAB = 37


def published(torch, logits, prompt, settings):
  """What `generate` chains, in its order."""
  from transformers.generation import logits_process as published

  steps = []
  if settings.repetition_penalty != 1:
    steps.append(
      published.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)
    )
  if settings.temperature != 1:
    steps.append(published.TemperatureLogitsWarper(settings.temperature))
  if settings.top_k:
    steps.append(published.TopKLogitsWarper(settings.top_k))
  if settings.top_p < 1:
    steps.append(published.TopPLogitsWarper(settings.top_p))
  scores = torch.from_numpy(logits)
  for step in steps:
    scores = step(torch.from_numpy(prompt).long(), scores)
  return scores.numpy()


@pytest.mark.parity
@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize(
  'choices',
  [
    dict(temperature=0.3),
    dict(top_k=1),
    dict(top_k=5),
    dict(top_k=1000),
    dict(top_p=0.9),
    dict(top_p=0.05),
    dict(top_k=7, top_p=0.6),
    dict(repetition_penalty=1.7),
    dict(repetition_penalty=0.5, temperature=2.0, top_k=20, top_p=0.8),
  ],
  ids=str,
)
def test_filters_equal_the_published_ones(choices, seed):
  torch = pytest.importorskip('torch')
  rng = np.random.default_rng(seed)
  logits = rng.normal(0, 3, (6, VOCAB)).astype(np.float32)
  prompt = rng.integers(0, VOCAB, (6, 11))
  settings = Sampling(1, (0,), **choices)
  seen = np.zeros(logits.shape, bool)
  np.put_along_axis(seen, prompt, True, axis=1)
  want = published(torch, logits, prompt, settings)
  got = filters.scores(
    jnp.asarray(logits),
    settings,
    jnp.asarray(seen) if settings.repetition_penalty != 1 else None,
  )
  np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_ties_at_the_border_stay_together():
  logits = jnp.asarray([[1.0, 2.0, 2.0, 2.0, 0.0]])
  kept = np.isfinite(filters.keep(logits, 2, 1.0))[0]
  assert kept.tolist() == [False, True, True, True, False]


def test_filters_choose_among_what_a_constraint_allows():
  logits = jnp.asarray([[9.0, 8.0, 1.0, 0.0]])
  allowed = jnp.asarray([[False, False, True, True]])
  got = filters.scores(logits, Sampling(1, (0,), top_k=1), None, allowed)
  assert np.isfinite(got)[0].tolist() == [False, False, True, False]


def test_draws_have_the_frequencies_of_the_distribution():
  logits = jnp.log(jnp.asarray([0.5, 0.3, 0.15, 0.05, 0.0]))
  count = 20_000
  keys = filters.row_keys(jnp.asarray([11]), count)
  scores = jnp.broadcast_to(logits, (1, count, 5))
  drawn = filters.draw(scores, keys, jnp.int32(3), 1.0)
  got = np.bincount(np.asarray(drawn)[0], minlength=5) / count
  # Four standard deviations of the widest frequency.
  np.testing.assert_allclose(got, np.exp(logits), atol=0.015)
  assert got[4] == 0


def test_the_log_probability_is_the_softmax():
  logits = jax.random.normal(jax.random.key(0), (4, 3, VOCAB)) * 30
  tokens = jnp.arange(12).reshape(4, 3)
  want = np.take_along_axis(
    np.asarray(jax.nn.log_softmax(logits)), np.asarray(tokens)[..., None], -1
  )
  np.testing.assert_allclose(
    filters.logprob(logits, tokens), want[..., 0], atol=1e-5
  )
