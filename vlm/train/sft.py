"""Supervised fine-tuning: next-token cross-entropy over the answer mask."""

from typing import Any

import jax
import jax.numpy as jnp

from vlm.losses.tokens import next_tokens, token_scores
from vlm.train.step import Objective


def sft(model: Any, *, loss_chunk: int = 512) -> Objective:
  """The SFT objective of a model.

  Args:
    model: has `inputs`, `run` and `head_kernel`; see `qwen2.LanguageModel`.
    loss_chunk: positions per row whose logits are held at once.

  Returns:
    objective(params, batch, key) -> (summed cross-entropy in nats, metrics):
    loss and accuracy over supervised tokens; target_share is supervised tokens
    over non-padding tokens.
  """

  def objective(params, batch, key: jax.Array):
    del key  # nothing is drawn
    inputs = model.inputs(params, batch)
    # Of a row that lost visual tokens, what is left; those had no weight.
    targets, weights = map(
      inputs.of,
      next_tokens(batch['tokens'], batch['loss_mask'], batch['segment_ids']),
    )
    scores = token_scores(
      model.run(params, inputs),
      model.head_kernel(params),
      targets,
      chunk=loss_chunk,
    )
    loss, count = -jnp.sum(scores.logprob * weights), jnp.sum(weights)
    right = jnp.sum(scores.correct * weights)
    present = jnp.sum(inputs.segment_ids > 0)
    return loss, {
      'loss': (loss, count),
      'accuracy': (right, count),
      'target_share': (count, present),
    }

  return objective
