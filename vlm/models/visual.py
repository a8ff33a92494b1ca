"""What stands between a vision tower and a decoder, in every whole VLM."""

import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from vlm.models.functional import Params
from vlm.models.inputs import Inputs, Prunable, shortened
from vlm.models.prune import Prune
from vlm.models.qwen2 import LanguageModel, Qwen2Config
from vlm.models.received import received


class VisualTokens(NamedTuple):
  """What stands between the vision tower and the decoder.

  Attributes:
    tokens: [B, M, D] in the decoder's width.
    valid: bool [B, M]; valid tokens fill the placeholders in order.
    grid: int32 [B, M, 3], (t, h, w) of each token, -1 where it has none.
    received_attention: float32 [B, M] or None; see received.py.
    deepstack: [L, B, M, D] or None; features from inside the tower, to be added
      to the tokens after the decoder's first L layers (arXiv 2406.04334).
    kept: bool [B, M] or None for all; the others leave the row, and their
      placeholders with them.
  """

  tokens: jax.Array
  valid: jax.Array
  grid: jax.Array
  received_attention: jax.Array | None
  deepstack: jax.Array | None = None
  kept: jax.Array | None = None


@runtime_checkable
class VisualTransform(Protocol):
  """What may stand between tower and decoder; frozen settings.

  One that drops tokens drops them from videos only, and says on the host how
  many it leaves at most. It needs plan/frames and plan/prunable; see
  data/pipeline.py.
  """

  needs_attention: bool

  def __call__(
    self, visual: VisualTokens, plan: dict[str, jax.Array]
  ) -> VisualTokens:
    """Changes tokens, or drops some of a video."""

  def room(self, frames: int, tokens: int) -> int:
    """The most tokens it leaves of a video of frames x tokens."""

  def prune(self, depth: int) -> Prune | None:
    """What is pruned inside a decoder of `depth` layers."""


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
  tokens: Shaped[Array, 'B M D'], slot: Bool[Array, 'B T']
) -> Shaped[Array, 'B T D']:
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


def frames_of(
  values: Float[Array, 'B M ...'], frames: Int[Array, 'B V F N']
) -> Float[Array, 'V1 F N ...']:
  """What stands at the tokens of each video, [B * V, F, N, ...]; 0 at -1."""
  flat = frames.reshape(len(frames), -1)
  index = jnp.maximum(flat, 0).reshape(*flat.shape, *[1] * (values.ndim - 2))
  found = jnp.take_along_axis(values, index, axis=1)
  there = (flat >= 0).reshape(index.shape)
  found = jnp.where(there, found, 0)
  return found.reshape(-1, *frames.shape[2:], *values.shape[2:])


def received_by_videos(
  q: Float[Array, 'B S N H'],
  k: Float[Array, 'B S N H'],
  plan: dict[str, jax.Array],
  block: int,
  impl: str,
) -> Float[Array, 'B M']:
  """Attention that the tokens of videos receive within their frames.

  Of a tower whose patches lie in slots, those of a block side by side: the mean
  over the block of what `received` says of its patches. 0 for other tokens.

  Args:
    q: queries of a block that sees whole frames, with their phases.
    k: keys.
    plan: token [B, M], the block of each visual token; frames [B, V, F, N].
    block: patches of a visual token.
    impl: see `received`.
  """
  token, frames = plan['token'], plan['frames']
  rows, most = token.shape
  there = frames >= 0
  flat = jnp.maximum(frames, 0).reshape(rows, -1)
  blocks = jnp.take_along_axis(token, flat, axis=1)
  cut = lambda x: jnp.take_along_axis(
    x.reshape(rows, -1, block * x.shape[2], x.shape[3]),
    blocks[..., None, None],
    axis=1,
  ).reshape(-1, frames.shape[3] * block, *x.shape[2:])
  valid = there.reshape(-1, frames.shape[3])
  scores = received(cut(q), cut(k), jnp.repeat(valid, block, axis=1), impl)
  scores = scores.reshape(rows, -1, block).mean(-1)
  place = jnp.where(there.reshape(rows, -1), flat, most)
  put = lambda place, value: jnp.zeros(most).at[place].set(value, mode='drop')
  return jax.vmap(put)(place, scores)


class VisionLanguageModel(LanguageModel):
  """Tower, connector and decoder as pure functions of the parameters.

  A family defines `modules` and `encode_visual`; its config holds `decoder`,
  `image_token` and `video_token`.
  """

  def _checked(
    self, transforms: tuple[VisualTransform, ...]
  ) -> tuple[VisualTransform, ...]:
    depth = self.decoder_config.depth
    found = [t.prune(depth) for t in transforms]
    if sum(prune is not None for prune in found) > 1:
      raise ValueError(f'several of {transforms} prune inside the decoder')
    return tuple(transforms)

  @property
  def decoder_config(self) -> Qwen2Config:
    return self.config.decoder

  @property
  def prune(self) -> Prune | None:
    depth = self.decoder_config.depth
    found = [transform.prune(depth) for transform in self.transforms]
    return next((prune for prune in found if prune is not None), None)

  def encode_visual(
    self,
    params: Params,
    pixels: jax.Array,
    plan: dict[str, jax.Array],
    with_received: bool = False,
  ) -> VisualTokens:
    """Pixels and their plan -> the visual tokens of each row.

    Args:
      params: the parameters.
      pixels: see data/pipeline.py.
      plan: see data/pipeline.py.
      with_received: also compute received attention.
    """
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

  def inputs(self, params: Params, batch: dict) -> Inputs:
    if 'pixels' not in batch:
      return super().inputs(params, batch)
    plan, tokens = batch['plan'], batch['tokens']
    asked = 'frames' in plan and any(t.needs_attention for t in self.transforms)
    visual = self.encode_visual(params, batch['pixels'], plan, asked)
    for transform in self.transforms:
      visual = transform(visual, plan)
    slot = self.is_placeholder(tokens)
    inputs = Inputs(
      self.embed(params, tokens, visual),
      batch['positions'],
      batch['segment_ids'],
      placed_deepstack(slot, visual),
    )
    if visual.kept is None:
      return inputs
    at = lambda mask: _spread(mask[..., None], slot)[..., 0] & slot
    if self.prune is not None:
      prunable = Prunable(at(plan['prunable']), self._most(plan))
      inputs = inputs._replace(prunable=prunable)
    length, _ = self.lengths(batch)
    return shortened(inputs, ~slot | at(visual.kept), length)

  def _most(self, plan: dict[str, Any]) -> int:
    """The most tokens that the transforms leave of a row's videos."""
    videos, frames, tokens = plan['frames'].shape[1:]
    return videos * min(t.room(frames, tokens) for t in self.transforms)

  def lengths(self, batch: dict[str, Any]) -> tuple[int, int]:
    """Tokens per row in the decoder's first layers, and behind its prune.

    Args:
      batch: anything with the shapes of a batch.
    """
    length, plan = batch['tokens'].shape[1], batch.get('plan', {})
    if not self.transforms or 'frames' not in plan:
      return length, length
    most = self._most(plan)
    length += most - math.prod(plan['frames'].shape[1:])
    if self.prune is None:
      return length, length
    return length, length - most + self.prune.left(most)
