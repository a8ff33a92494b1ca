"""Opinions as five words, trained as DeQA-Score does (arXiv 2501.11561).

    L = sum over pairs of one set: order + level + level' + 0.05 others

A row is a question with an answer that names a level. At the level's token the
model learns a soft label; the other tokens of the answer are learnt as they
are; and any two pictures of one set are to be ordered as their opinions are.
Here every row is paired with all others of its set in the (micro)batch, whose
orders are averaged, and has half of each pair's order and other tokens.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vlm.losses.tokens import token_logprobs
from vlm.methods.rali.level_loss import (
  OTHER_TOKENS,
  level_divergence,
  pair_fidelity,
)
from vlm.methods.rali.levels import expected_score
from vlm.train.regression import Reader, check_whole
from vlm.train.step import Objective

TAIL = 16  # last tokens of a row, which hold its answer
Batch = Mapping[str, Any]


def reader(model: Any) -> Reader:
  """How a score is read: the softmax over the five words, times 5 to 1.

  Args:
    model: see `qwen2.LanguageModel`.

  Returns:
    read(params, batch) -> float32 [B]. The batch holds rows that end together,
    as `data.examples.left_padded` makes them; `level_ids` int32 [B, 5], the
    words' tokens, excellent first; and `level_at` int32 [B], how many tokens
    stand behind the level's. Which of the words the row names is not seen.

  Raises:
    ValueError: the model prunes its prompts.
  """
  check_whole(model)

  def read(params, batch):
    state = _before_level(model.hidden(params, batch), batch)
    return expected_score(_five(_logits(model, params, state), batch))

  return read


def levels(model: Any, *, loss_chunk: int = 512) -> Objective:
  """The objective.

  Args:
    model: see `reader`.
    loss_chunk: see `vlm.losses.tokens`.

  Returns:
    objective(params, batch, key) -> (summed loss, metrics). Beside what
    `reader` reads the batch holds `others` float32 [B, TAIL], 1 on tokens of
    the answer but the level's; `label` float32 [B, 5]; `target` and `std`
    float32 [B], the opinion on [1, 5] and its deviation; `group` int32 [B], the
    set; and `counted` float32 [B], 0 in rows that fill it up. Metrics: loss;
    level, others and order, its parts; absolute_error of the score.
  """
  check_whole(model)

  def objective(params, batch, key: jax.Array):
    del key  # nothing is drawn
    hidden = model.hidden(params, batch)
    logits = _logits(model, params, _before_level(hidden, batch))
    five = _five(logits, batch)
    whole = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    score, counted = expected_score(five), batch['counted']
    parts = {
      'level': level_divergence(five - whole, batch['label']),
      'others': _others(model, params, hidden, batch, loss_chunk),
      'order': _order(score, batch),
      'absolute_error': jnp.abs(score - batch['target']),
    }
    half = (parts['order'] + OTHER_TOKENS * parts['others']) / 2
    loss = jnp.sum((parts['level'] + half) * counted)
    count = jnp.sum(counted)
    sums = {name: jnp.sum(part * counted) for name, part in parts.items()}
    return loss, {
      name: (x, count) for name, x in ({'loss': loss} | sums).items()
    }

  return objective


def _before_level(hidden, batch: Batch) -> Float[Array, 'B D']:
  """The states that predict the level's token."""
  place = hidden.shape[1] - 2 - batch['level_at']
  return jnp.take_along_axis(hidden, place[:, None, None], axis=1)[:, 0]


def _logits(model, params, state) -> Float[Array, 'B V']:
  return jnp.einsum(
    'BD,DV->BV',
    state,
    model.head_kernel(params).astype(state.dtype),
    preferred_element_type=jnp.float32,
  )


def _five(logits, batch: Batch) -> Float[Array, 'B 5']:
  return jnp.take_along_axis(logits, batch['level_ids'], axis=1)


def _others(model, params, hidden, batch: Batch, chunk) -> Float[Array, 'B']:
  """Mean cross-entropy of the answer's tokens but the level's."""
  logprobs = token_logprobs(
    hidden[:, -TAIL - 1 : -1],
    model.head_kernel(params),
    batch['tokens'][:, -TAIL:],
    chunk=chunk,
  )
  weights = batch['others']
  return -(logprobs * weights).sum(-1) / jnp.maximum(weights.sum(-1), 1)


def _order(score, batch: Batch) -> Float[Array, 'B']:
  """Mean of 1 - fidelity over the pairs that a row is in; 0 without one."""
  group, there = batch['group'], batch['counted'] > 0
  pairs = (group[:, None] == group) & there[:, None] & there
  pairs &= ~jnp.eye(len(group), dtype=bool)
  both = lambda x: tuple(jnp.broadcast_arrays(x[:, None], x))
  lost = pair_fidelity(*map(both, (score, batch['target'], batch['std'])))
  # The square root has no slope at 0, nor a row with itself any order.
  lost = jnp.where(pairs, lost, 0)
  return lost.sum(-1) / jnp.maximum(pairs.sum(-1), 1)
