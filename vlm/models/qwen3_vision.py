"""The vision tower of Qwen3-VL (arXiv 2511.21631).

Patches of two frames at the image's own size; learned positions, stretched
bilinearly over each image, and rotary positions in two axes; attention over
whole frames; four neighbouring patches merge into one visual token. Features
from inside the tower leave it through mergers of their own (DeepStack).
"""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from vlm.models import functional, layers
from vlm.models.attention import attention
from vlm.models.encoder import MLP, split_last
from vlm.models.partition import constrain
from vlm.models.patches import PatchLayout
from vlm.models.qwen2_5_vision import axial_rope, normalised

NORM_EPS = 1e-6  # fixed in the published classes


@dataclasses.dataclass(frozen=True)
class Qwen3VisionConfig:
  """Facts of a tower; defaults are those of the 8B checkpoint."""

  width: int = 1152
  depth: int = 27
  heads: int = 16
  mlp_width: int = 4304
  out_width: int = 4096
  patch: int = 16
  frames: int = 2
  merge: int = 2
  position_side: int = 48
  deepstack_blocks: tuple[int, ...] = (8, 16, 24)
  pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
  pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)

  @property
  def layout(self) -> PatchLayout:
    """What decides where the patches of an image lie."""
    return PatchLayout(self.patch, self.merge, self.position_side)

  @property
  def patch_values(self) -> int:
    """Numbers in a flattened patch: channels x frames x rows x columns."""
    return 3 * self.frames * self.patch**2

  @classmethod
  def from_hf(cls, config: dict[str, Any]) -> 'Qwen3VisionConfig':
    """Reads HF's vision config (model_type qwen3_vl[_vision]).

    Raises:
      ValueError: for a choice that is not supported, by its key.
    """
    act = config.get('hidden_act', 'gelu_pytorch_tanh')
    if act != 'gelu_pytorch_tanh':
      raise ValueError(
        f'config.json: vision_config.hidden_act is {act!r}, '
        "supported: 'gelu_pytorch_tanh'"
      )
    blocks = tuple(config.get('deepstack_visual_indexes', (8, 16, 24)))
    depth = config.get('depth', 27)
    if list(blocks) != sorted(set(blocks) & set(range(depth))):
      raise ValueError(
        f'config.json: vision_config.deepstack_visual_indexes is {blocks}, '
        f'expected ascending numbers of its {depth} blocks'
      )
    return cls(
      width=config.get('hidden_size', 1152),
      depth=depth,
      heads=config.get('num_heads', 16),
      mlp_width=config.get('intermediate_size', 4304),
      out_width=config.get('out_hidden_size', 3584),
      patch=config.get('patch_size', 16),
      frames=config.get('temporal_patch_size', 2),
      merge=config.get('spatial_merge_size', 2),
      position_side=math.isqrt(config.get('num_position_embeddings', 2304)),
      deepstack_blocks=blocks,
    )


class Attention(nnx.Module):
  """Attention inside frames."""

  def __init__(self, config: Qwen3VisionConfig, runtime, rngs: nnx.Rngs):
    shape = (config.heads, config.width // config.heads)
    make = dict(rngs=rngs, runtime=runtime)
    self.impl = runtime.attention
    self.qkv = layers.Einsum(
      'BTD,DiNH->BTiNH', (config.width, 3, *shape), bias=(3, *shape), **make
    )
    self.o = layers.Einsum(
      'BTNH,NHD->BTD', (*shape, config.width), bias=(config.width,), **make
    )

  def __call__(self, x, rope, frame):
    qkv = constrain(self.qkv(x), 'batch', None, None, 'heads', None)
    q = layers.apply_rope(qkv[:, :, 0], *rope)
    k = layers.apply_rope(qkv[:, :, 1], *rope)
    ids = frame, frame
    out = attention(q, k, qkv[:, :, 2], segment_ids=ids, impl=self.impl)
    return self.o(out), (q, k)


class Block(nnx.Module):
  """Pre-norm attention and MLP with residuals."""

  def __init__(self, config: Qwen3VisionConfig, runtime, rngs: nnx.Rngs):
    norm = lambda: layers.LayerNorm(config.width, NORM_EPS, runtime=runtime)
    self.norm1, self.norm2 = norm(), norm()
    self.attn = Attention(config, runtime, rngs)
    width, wide = config.width, config.mlp_width
    self.mlp = MLP(width, wide, 'gelu_pytorch_tanh', runtime, rngs)

  def __call__(self, x, rope, frame):
    with jax.named_scope('attn'):
      out, queries_keys = self.attn(self.norm1(x), rope, frame)
      x = constrain(x + out, 'batch', None, None)
    with jax.named_scope('mlp'):
      x = constrain(x + self.mlp(self.norm2(x)), 'batch', None, None)
    return x, queries_keys


class Merger(nnx.Module):
  """fc2(gelu(fc1(the patches of a block, side by side))).

  The norm is over each patch, or (`joint`) over the patches of a block at once.
  """

  def __init__(
    self, config: Qwen3VisionConfig, runtime, rngs: nnx.Rngs, joint: bool
  ):
    width = config.width * config.merge**2
    make = dict(rngs=rngs, runtime=runtime)
    self.block, self.joint = config.merge**2, joint
    self.norm = layers.LayerNorm(
      width if joint else config.width, NORM_EPS, runtime=runtime
    )
    self.fc1 = layers.Einsum(
      'BMF,FG->BMG', (width, width), bias=(width,), **make
    )
    self.fc2 = layers.Einsum(
      'BMF,FD->BMD', (width, config.out_width), bias=(config.out_width,), **make
    )

  def __call__(self, x: Float[Array, 'B T D']) -> Float[Array, 'B M E']:
    x = x if self.joint else self.norm(x)
    x = x.reshape(x.shape[0], x.shape[1] // self.block, -1)
    x = self.norm(x) if self.joint else x
    return self.fc2(layers.gelu(self.fc1(x)))


class Mergers(nnx.Module):
  """One merger per DeepStack feature."""

  def __init__(self, config: Qwen3VisionConfig, runtime, rngs: nnx.Rngs):
    self.runtime = runtime
    self.layers = functional.stack(
      lambda rngs: Merger(config, runtime, rngs, joint=True),
      len(config.deepstack_blocks),
      rngs,
    )

  def __call__(self, features: list[jax.Array]) -> Float[Array, 'L B M E']:
    run = lambda merger, _, x: (None, merger(x))
    x = jnp.stack(features)
    return functional.scan(self.layers, run, None, x, self.runtime)[1]


class Qwen3Vision(nnx.Module):
  """Patches -> merged blocks, from the last block and from inside."""

  def __init__(self, config: Qwen3VisionConfig, runtime, rngs: nnx.Rngs):
    self.config, self.runtime = config, runtime
    make = dict(rngs=rngs, runtime=runtime)
    shape = (3, config.frames, config.patch, config.patch, config.width)
    self.patch = layers.Einsum(
      'BTCtpq,CtpqD->BTD', shape, bias=(config.width,), **make
    )
    self.position = layers.Embedding(
      config.position_side**2, config.width, **make
    )
    self.layers = functional.stack(
      lambda rngs: Block(config, runtime, rngs), config.depth, rngs
    )
    self.merger = Merger(config, runtime, rngs, joint=False)
    self.deepstack = Mergers(config, runtime, rngs)

  def __call__(
    self,
    patches: jax.Array,
    position: Int[Array, 'B T 2'],
    frame: Int[Array, 'B T'],
    taps: Int[Array, 'B T K'],
    tap_weight: Float[Array, 'B T K'],
    with_queries: bool = False,
  ) -> tuple[
    Float[Array, 'B M E'],
    Float[Array, 'L B M E'],
    tuple[jax.Array, jax.Array] | None,
  ]:
    """Encodes the patches of each row, slot by slot (see `patches`).

    Args:
      patches: [B, T, 3 * frames * patch^2], uint8 or normalised float, channel
        first; anything in empty slots.
      position: row and column of each patch.
      frame: number of its frame, 0 in empty slots.
      taps: the learned positions around each patch.
      tap_weight: their shares.
      with_queries: also return the last block's queries and keys, [B, T, N, H]
        with their phases; it then runs outside the scan.

    Returns:
      One vector per merge block, in the order of the slots, the same of each
      DeepStack feature, and the queries and keys or None.
    """
    config = self.config
    x = self.patch(normalised(patches, config))
    x = x + self._learned(taps, tap_weight).astype(x.dtype)
    rope = axial_rope(position, x.shape[-1] // config.heads)
    run = lambda block, x, _: (block(x, rope, frame)[0], None)
    features, queries_keys, blocks, end = [], None, self.layers, config.depth
    if with_queries:
      (blocks, last), end = split_last(blocks), config.depth - 1
    cuts = (0, *(block + 1 for block in config.deepstack_blocks))
    for start, stop in itertools.pairwise((*cuts, end)):
      part = functional.part(blocks, start, stop)
      x, _ = functional.scan(part, run, x, None, self.runtime)
      features.append(x)
    if with_queries:
      x, queries_keys = last(x, rope, frame)
    return self.merger(x), self.deepstack(features[:-1]), queries_keys

  def _learned(self, taps, tap_weight) -> Float[Array, 'B T D']:
    """Learned positions between taps, in float32."""
    # Whole on every chip: the lookup is then local, rows as the patches are.
    table = constrain(self.position.embedding[...], None, None)
    table = table.astype(jnp.float32)
    return sum(
      table[taps[:, :, tap]] * tap_weight[:, :, tap, None]
      for tap in range(taps.shape[2])
    )
