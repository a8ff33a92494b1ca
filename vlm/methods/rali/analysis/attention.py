"""Where the digits of a score look: at the image, or at the reasoning?

The weights of the position that emits a digit, summed over each part of what
it sees, averaged over heads and rows. One row per digit: `rows.continued` of
the completion up to, and without, the digit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vlm.models.functional import Params
from vlm.models.visual import VisionLanguageModel

# What stands behind the answer's tag is its own part: digits see digits.
PARTS = ('visual', 'prompt', 'think', 'answer')


def parts_of(
  model: VisionLanguageModel,
  batch: Mapping[str, Any],
  think: Sequence[int],
  answer: Sequence[int],
) -> Int[np.ndarray, 'B T']:
  """The part of each token: its number in `PARTS`, -1 for padding.

  Args:
    model: says what a placeholder is.
    batch: of `rows.continued`.
    think: [B] tokens of the completion before its answer begins.
    answer: [B] tokens from there to the row's end.

  Raises:
    ValueError: a completion longer than its row.
  """
  tokens = np.asarray(batch['tokens'])
  real = np.asarray(batch['segment_ids']) != 0
  answer, think = (np.asarray(x)[:, None] for x in (answer, think))
  if (answer + think > real.sum(1, keepdims=True)).any():
    raise ValueError('think and answer hold more tokens than their row')
  behind = tokens.shape[1] - 1 - np.arange(tokens.shape[1])[None]
  placeholder = np.asarray(model.is_placeholder(jnp.asarray(tokens)))
  found = np.where(placeholder, PARTS.index('visual'), PARTS.index('prompt'))
  found = np.where(behind < answer + think, PARTS.index('think'), found)
  found = np.where(behind < answer, PARTS.index('answer'), found)
  return np.where(real, found, -1)


def attention_split(
  model: VisionLanguageModel,
  params: Params,
  batch: Mapping[str, Any],
  parts: Int[Array, 'B T'] | np.ndarray,
) -> Float[Array, 'L G']:
  """Attention mass of each of `PARTS`, per layer; a layer sums to 1.

  Args:
    model: a whole VLM; nothing is pruned.
    params: its parameters.
    batch: rows that end with the position that emits a digit.
    parts: of `parts_of`.

  Returns:
    float32, means over heads and rows.
  """
  weights = model.attention_of(params, dict(batch))  # [L, B, N, T]
  chosen = jax.nn.one_hot(jnp.asarray(parts), len(PARTS))
  total = jnp.einsum('LBNT,BTG->LG', weights, chosen)
  return total / (weights.shape[1] * weights.shape[2])
