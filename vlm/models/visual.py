"""What stands between a vision tower and a decoder, in every whole VLM."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class VisualTokens(NamedTuple):
  """What stands between the vision tower and the decoder.

  Attributes:
    tokens: [B, M, D] in the decoder's width.
    valid: bool [B, M]; valid tokens fill the placeholders in order.
    grid: int32 [B, M, 3], (t, h, w) of each token, -1 where it has none.
    received_attention: float32 [B, M] or None; see `attention.received`.
  """

  tokens: jax.Array
  valid: jax.Array
  grid: jax.Array
  received_attention: jax.Array | None


def placed(
  x: Float[Array, 'B T D'],
  slot: Bool[Array, 'B T'],
  visual: VisualTokens,
) -> Float[Array, 'B T D']:
  """Token embeddings with the placeholders (`slot`) replaced, in order.

  The host has checked that a row has as many placeholders as valid tokens;
  valid tokens come first in a plan, so the n-th placeholder takes token n.
  """
  nth = jnp.clip(jnp.cumsum(slot, axis=1) - 1, 0, visual.valid.shape[1] - 1)
  tokens = jnp.take_along_axis(visual.tokens, nth[..., None], axis=1)
  return jnp.where(slot[..., None], tokens.astype(x.dtype), x)


def gather(
  bank: Float[Array, 'B S D'], plan: dict[str, jax.Array]
) -> Float[Array, 'B M D']:
  """Weighted sum of K bank rows per token, one tap at a time."""
  total = 0.0
  for tap in range(plan['index'].shape[2]):
    rows = jnp.take_along_axis(bank, plan['index'][:, :, tap, None], axis=1)
    total += rows * plan['weight'][:, :, tap, None].astype(bank.dtype)
  return total
