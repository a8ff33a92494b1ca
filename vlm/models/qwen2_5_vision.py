"""The vision tower of Qwen2.5-VL (arXiv 2502.13923, section 2.1.1).

Patches of two frames at the image's own size; rotary positions in two axes;
attention inside windows in most blocks and over the whole frame in some; four
neighbouring patches merge into one visual token.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vlm.models import functional, layers
from vlm.models.attention import attention
from vlm.models.encoder import split_last
from vlm.models.partition import constrain
from vlm.models.windows import WindowLayout

NORM_EPS = 1e-6  # fixed in the published classes
ROPE_THETA = 10_000.0


@dataclasses.dataclass(frozen=True)
class Qwen25VisionConfig:
  """Facts of a tower; defaults are those of the 7B checkpoint."""

  width: int = 1280
  depth: int = 32
  heads: int = 16
  mlp_width: int = 3420
  out_width: int = 3584
  patch: int = 14
  frames: int = 2
  merge: int = 2
  window: int = 112
  full_blocks: tuple[int, ...] = (7, 15, 23, 31)
  tokens_per_second: int | float = 2
  pixel_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
  pixel_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

  @property
  def layout(self) -> WindowLayout:
    """What decides the windows of an image."""
    return WindowLayout(self.patch, self.merge, self.window)

  @property
  def patch_values(self) -> int:
    """Numbers in a flattened patch: channels x frames x rows x columns."""
    return 3 * self.frames * self.patch**2

  @classmethod
  def from_hf(cls, config: dict[str, Any]) -> 'Qwen25VisionConfig':
    """Reads HF's vision config (model_type qwen2_5_vl[_vision]).

    Raises:
      ValueError: for a choice that is not supported, by its key.
    """
    if config.get('hidden_act', 'silu') != 'silu':
      raise ValueError(
        f'config.json: vision_config.hidden_act is {config["hidden_act"]!r}, '
        "supported: 'silu'"
      )
    return cls(
      width=config.get('hidden_size', 3584),
      depth=config.get('depth', 32),
      heads=config.get('num_heads', 16),
      mlp_width=config.get('intermediate_size', 3420),
      out_width=config.get('out_hidden_size', 3584),
      patch=config.get('patch_size', 14),
      frames=config.get('temporal_patch_size', 2),
      merge=config.get('spatial_merge_size', 2),
      window=config.get('window_size', 112),
      full_blocks=tuple(config.get('fullatt_block_indexes', (7, 15, 23, 31))),
      tokens_per_second=config.get('tokens_per_second', 4),
    )


class Attention(nnx.Module):
  """Attention inside windows, or inside frames."""

  def __init__(self, config: Qwen25VisionConfig, runtime, rngs: nnx.Rngs):
    shape = (config.heads, config.width // config.heads)
    make = dict(rngs=rngs, runtime=runtime)
    self.slots, self.impl = config.layout.slots, runtime.attention
    self.qkv = layers.Einsum(
      'BTD,DiNH->BTiNH', (config.width, 3, *shape), bias=(3, *shape), **make
    )
    self.o = layers.Einsum(
      'BTNH,NHD->BTD', (*shape, config.width), bias=(config.width,), **make
    )

  def __call__(self, x, rope, frame, full: Bool[Array, '']):
    qkv = constrain(self.qkv(x), 'batch', None, None, 'heads', None)
    q = layers.apply_rope(qkv[:, :, 0], *rope)
    k = layers.apply_rope(qkv[:, :, 1], *rope)
    out = jax.lax.cond(
      full, self._over_frames, self._in_windows, q, k, qkv[:, :, 2], frame
    )
    return self.o(out), (q, k)

  def _over_frames(self, q, k, v, frame):
    return attention(q, k, v, segment_ids=(frame, frame), impl=self.impl)

  def _in_windows(self, q, k, v, frame):
    cut = lambda x: x.reshape(-1, self.slots, *x.shape[2:])
    # A window lies in one frame, so its ids only tell patches from empty slots.
    ids = cut(frame)
    out = attention(cut(q), cut(k), cut(v), segment_ids=(ids, ids), impl='xla')
    return out.reshape(q.shape)


class Block(nnx.Module):
  """Pre-norm attention and MLP with residuals."""

  def __init__(self, config: Qwen25VisionConfig, runtime, rngs: nnx.Rngs):
    norm = lambda: layers.RMSNorm(config.width, NORM_EPS, runtime=runtime)
    self.norm1, self.norm2 = norm(), norm()
    self.attn = Attention(config, runtime, rngs)
    self.mlp = layers.GatedMLP(
      config.width, config.mlp_width, bias=True, rngs=rngs, runtime=runtime
    )

  def __call__(self, x, rope, frame, full):
    with jax.named_scope('attn'):
      out, queries_keys = self.attn(self.norm1(x), rope, frame, full)
      x = constrain(x + out, 'batch', None, None)
    with jax.named_scope('mlp'):
      x = constrain(x + self.mlp(self.norm2(x)), 'batch', None, None)
    return x, queries_keys


class Merger(nnx.Module):
  """fc2(gelu(fc1(the normalised patches of a block, side by side)))."""

  def __init__(self, config: Qwen25VisionConfig, runtime, rngs: nnx.Rngs):
    width = config.width * config.merge**2
    make = dict(rngs=rngs, runtime=runtime)
    self.block = config.merge**2
    self.norm = layers.RMSNorm(config.width, NORM_EPS, runtime=runtime)
    self.fc1 = layers.Einsum(
      'BMF,FG->BMG', (width, width), bias=(width,), **make
    )
    self.fc2 = layers.Einsum(
      'BMF,FD->BMD', (width, config.out_width), bias=(config.out_width,), **make
    )

  def __call__(self, x: Float[Array, 'B T D']) -> Float[Array, 'B M E']:
    x = self.norm(x)
    x = x.reshape(x.shape[0], x.shape[1] // self.block, -1)
    return self.fc2(layers.gelu(self.fc1(x)))


class Qwen25Vision(nnx.Module):
  """Patches in windows -> merged blocks in windows."""

  def __init__(self, config: Qwen25VisionConfig, runtime, rngs: nnx.Rngs):
    self.config, self.runtime = config, runtime
    shape = (3, config.frames, config.patch, config.patch)
    self.patch = layers.Einsum(
      'BTCtpq,CtpqD->BTD', (*shape, config.width), rngs=rngs, runtime=runtime
    )
    self.layers = functional.stack(
      lambda rngs: Block(config, runtime, rngs), config.depth, rngs
    )
    self.merger = Merger(config, runtime, rngs)

  def __call__(
    self,
    patches: jax.Array,
    position: Int[Array, 'B T 2'],
    frame: Int[Array, 'B T'],
    with_queries: bool = False,
  ) -> tuple[Float[Array, 'B M E'], tuple[jax.Array, jax.Array] | None]:
    """Encodes the patches of each row, slot by slot (see `windows`).

    Args:
      patches: [B, T, 3 * frames * patch^2], uint8 or normalised float, channel
        first; anything in empty slots.
      position: row and column of each patch.
      frame: number of its frame, 0 in empty slots.
      with_queries: also return the last block's queries and keys, [B, T, N, H]
        with their phases; it then runs outside the scan.

    Returns:
      One vector per merge block, in the order of the slots; and those or None.
    """
    x = self.patch(normalised(patches, self.config))
    rope = axial_rope(position, x.shape[-1] // self.config.heads)
    full = [i in self.config.full_blocks for i in range(self.config.depth)]
    blocks, last = self.layers, None
    if with_queries:
      blocks, last = split_last(blocks)
    run = lambda block, x, full: (block(x, rope, frame, full)[0], None)
    xs = jnp.asarray(full[:-1] if with_queries else full)
    x, _ = functional.scan(blocks, run, x, xs, self.runtime)
    if last is None:
      return self.merger(x), None
    x, queries_keys = last(x, rope, frame, jnp.asarray(full[-1]))
    return self.merger(x), queries_keys


def normalised(patches: jax.Array, config: Any) -> jax.Array:
  """Flat patches as [B, T, 3, frames, patch, patch], bytes normalised."""
  shape = (3, config.frames, config.patch, config.patch)
  x = patches.reshape(*patches.shape[:2], *shape)
  if patches.dtype != jnp.uint8:
    return x
  mean, std = (
    jnp.asarray(value).reshape(3, 1, 1, 1)
    for value in (config.pixel_mean, config.pixel_std)
  )
  return (x.astype(jnp.float32) * (1 / 255) - mean) / std


def axial_rope(
  position: Int[Array, 'B T 2'], head_dim: int
) -> tuple[Float[Array, 'B T H2'], Float[Array, 'B T H2']]:
  """Cosines and sines for `layers.apply_rope`: rows first, then columns.

  A quarter of the head's dimensions turn with each; frequency j is
  10000^(-4 j / H).
  """
  half = head_dim // 2
  exponent = jnp.arange(0, half, 2, dtype=jnp.float32) / half
  angles = position[..., None].astype(jnp.float32) * ROPE_THETA**-exponent
  angles = angles.reshape(*position.shape[:2], half)
  return jnp.cos(angles), jnp.sin(angles)
