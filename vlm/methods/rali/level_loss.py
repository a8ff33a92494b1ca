"""DeQA-Score's loss: levels by their soft label, pairs by their order.

Published weights: 1 for the levels, 0.05 for the other tokens, 1 for pairs.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vlm.methods.rali.levels import expected_score

PREDICTED_VARIANCE = 2.0  # of a gap between two predictions
OTHER_TOKENS = 0.05
EPS = 1e-8


def level_divergence(
  logprobs: Float[Array, '*B 5'], label: Float[Array, '*B 5']
) -> Float[Array, '*B']:
  """KL(label || model) at the level token.

  Args:
    logprobs: of the five level tokens under the softmax over the whole
      vocabulary, so that mass on other tokens costs too.
    label: soft label, excellent first.
  """
  logprobs, label = (x.astype(jnp.float32) for x in (logprobs, label))
  known = jnp.where(label > 0, label, 1.0)
  return (label * (jnp.log(known) - logprobs)).sum(-1)


def _above(gap, variance):
  """P(gap + noise > 0)."""
  return jax.scipy.stats.norm.cdf(gap / jnp.sqrt(variance))


def pair_fidelity(
  predicted: tuple[Float[Array, '*B'], Float[Array, '*B']],
  mean: tuple[Float[Array, '*B'], Float[Array, '*B']],
  std: tuple[Float[Array, '*B'], Float[Array, '*B']],
) -> Float[Array, '*B']:
  """1 - fidelity of the predicted and the true order (Thurstone).

  Args:
    predicted: scores of the first and the second image of each pair.
    mean: their opinions, of one data set.
    std: deviations of the opinions.
  """
  gap = lambda pair: (pair[0] - pair[1]).astype(jnp.float32)
  model = _above(gap(predicted), PREDICTED_VARIANCE)
  truth = _above(gap(mean), (std[0] ** 2 + std[1] ** 2 + EPS))
  return (
    1
    - jnp.sqrt(model * truth + EPS)
    - jnp.sqrt((1 - model) * (1 - truth) + EPS)
  )


def deqa_loss(
  logits: tuple[Float[Array, '*B 5'], Float[Array, '*B 5']],
  logprobs: tuple[Float[Array, '*B 5'], Float[Array, '*B 5']],
  label: tuple[Float[Array, '*B 5'], Float[Array, '*B 5']],
  mean: tuple[Float[Array, '*B'], Float[Array, '*B']],
  std: tuple[Float[Array, '*B'], Float[Array, '*B']],
  others: Float[Array, '*B'],
) -> Float[Array, '*B']:
  """The loss of pairs of images.

  Args:
    logits: of the level tokens, of both images.
    logprobs: of the level tokens over the vocabulary.
    label: soft labels.
    mean: opinions.
    std: their deviations.
    others: mean cross-entropy of the answers' other tokens, of both together.
  """
  scores = expected_score(logits[0]), expected_score(logits[1])
  levels = sum(level_divergence(*pair) for pair in zip(logprobs, label))
  ranks = pair_fidelity(scores, mean, std)
  return ranks + levels + OTHER_TOKENS * others
