"""What stands between a vision tower and a decoder, in every whole VLM."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vlm.models.functional import Params
from vlm.models.qwen2 import Cache, LanguageModel, Qwen2Config


class VisualTokens(NamedTuple):
  """What stands between the vision tower and the decoder.

  Attributes:
    tokens: [B, M, D] in the decoder's width.
    valid: bool [B, M]; valid tokens fill the placeholders in order.
    grid: int32 [B, M, 3], (t, h, w) of each token, -1 where it has none.
    received_attention: float32 [B, M] or None; see received.py.
    deepstack: [L, B, M, D] or None; features from inside the tower, to be added
      to the tokens after the decoder's first L layers (arXiv 2406.04334).
  """

  tokens: jax.Array
  valid: jax.Array
  grid: jax.Array
  received_attention: jax.Array | None
  deepstack: jax.Array | None = None


def placed(
  x: Float[Array, 'B T D'],
  slot: Bool[Array, 'B T'],
  visual: VisualTokens,
) -> Float[Array, 'B T D']:
  """Token embeddings with the placeholders (`slot`) replaced, in order.

  The host has checked that a row has as many placeholders as valid tokens;
  valid tokens come first in a plan, so the n-th placeholder takes token n.
  """
  tokens = _spread(visual.tokens, slot)
  return jnp.where(slot[..., None], tokens.astype(x.dtype), x)


def placed_deepstack(
  slot: Bool[Array, 'B T'], visual: VisualTokens
) -> Float[Array, 'L B T D'] | None:
  """Features for the first L layers at the placeholders, zeros elsewhere."""
  if visual.deepstack is None:
    return None
  # Layer by layer, each lookup keeps the sharding of its rows.
  spread = jnp.stack([_spread(x, slot) for x in visual.deepstack])
  return jnp.where(slot[..., None], spread, 0)


def _spread(
  tokens: Float[Array, 'B M D'], slot: Bool[Array, 'B T']
) -> Float[Array, 'B T D']:
  """Token n at the n-th placeholder; anything elsewhere."""
  nth = jnp.clip(jnp.cumsum(slot, axis=1) - 1, 0, tokens.shape[1] - 1)
  return jnp.take_along_axis(tokens, nth[..., None], axis=1)


def gather(
  bank: Float[Array, 'B S D'], plan: dict[str, jax.Array]
) -> Float[Array, 'B M D']:
  """Weighted sum of K bank rows per token, one tap at a time."""
  total = 0.0
  for tap in range(plan['index'].shape[2]):
    rows = jnp.take_along_axis(bank, plan['index'][:, :, tap, None], axis=1)
    total += rows * plan['weight'][:, :, tap, None].astype(bank.dtype)
  return total


class VisionLanguageModel(LanguageModel):
  """Tower, connector and decoder as pure functions of the parameters.

  A family defines `_module` and `encode_visual`; its config holds `decoder`,
  `image_token` and `video_token`.
  """

  @property
  def decoder_config(self) -> Qwen2Config:
    return self.config.decoder

  def encode_visual(
    self, params: Params, pixels: jax.Array, plan: dict[str, jax.Array]
  ) -> VisualTokens:
    """Pixels and their plan -> the visual tokens of each row."""
    raise NotImplementedError

  def embed(
    self,
    params: Params,
    tokens: Int[Array, 'B T'],
    visual: VisualTokens | None = None,
  ) -> Float[Array, 'B T D']:
    """Token embeddings, with placeholders replaced by visual tokens."""
    x = super().embed(params, tokens)
    if visual is None:
      return x
    return placed(x, self.is_placeholder(tokens), visual)

  def is_placeholder(self, tokens: Int[Array, 'B T']) -> Bool[Array, 'B T']:
    """Where a visual token stands."""
    config = self.config
    return (tokens == config.image_token) | (tokens == config.video_token)

  def forward(
    self, params: Params, batch: dict, cache: Cache | None = None
  ) -> tuple[Float[Array, 'B T D'], Cache | None]:
    visual, deepstack = None, None
    if 'pixels' in batch:
      visual = self.encode_visual(params, batch['pixels'], batch['plan'])
      slot = self.is_placeholder(batch['tokens'])
      deepstack = placed_deepstack(slot, visual)
    x = self.embed(params, batch['tokens'], visual)
    return self.decode(
      params, x, batch['positions'], batch['segment_ids'], cache, deepstack
    )
