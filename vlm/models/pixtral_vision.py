"""The vision tower of Pixtral (arXiv 2410.07073, section 2.2).

Patches of one image at its own size; rotary positions in two axes; a patch sees
the patches of its own image. RMSNorm, gated MLP, no biases.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from vlm.models import functional, layers
from vlm.models.attention import attention
from vlm.models.encoder import normalise, square_size
from vlm.models.partition import constrain
from vlm.models.patches import PatchLayout

NORM_EPS = 1e-5  # fixed in the published classes


@dataclasses.dataclass(frozen=True)
class PixtralVisionConfig:
  """Facts of a tower; defaults are those of the 12B checkpoint."""

  width: int = 1024
  depth: int = 24
  heads: int = 16
  mlp_width: int = 4096
  patch: int = 16
  act: str = 'silu'
  rope_theta: float = 10_000.0
  pixel_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
  pixel_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

  @property
  def layout(self) -> PatchLayout:
    """Where the patches of an image lie."""
    return PatchLayout(self.patch, merge=1, side=0)

  @property
  def patch_values(self) -> int:
    """Numbers in a flattened patch: channels x rows x columns."""
    return 3 * self.patch**2

  @classmethod
  def from_hf(cls, config: dict[str, Any]) -> 'PixtralVisionConfig':
    """Reads HF's vision config (model_type pixtral).

    Raises:
      ValueError: for a choice that is not supported, by its key.
    """
    rope = config.get('rope_parameters') or {}
    for key, found, supported in (
      ('model_type', config.get('model_type'), ('pixtral',)),
      ('hidden_act', config.get('hidden_act', 'gelu'), layers.ACTIVATIONS),
      ('rope_parameters', rope.get('rope_type', 'axial'), ('axial',)),
      ('num_channels', config.get('num_channels', 3), (3,)),
    ):
      if found not in supported:
        raise ValueError(
          f'config.json: vision_config.{key} is {found!r}, supported: '
          f'{tuple(supported)}'
        )
    theta = rope.get('rope_theta', config.get('rope_theta', 10_000.0))
    return cls(
      width=config.get('hidden_size', 1024),
      depth=config.get('num_hidden_layers', 24),
      heads=config.get('num_attention_heads', 16),
      mlp_width=config.get('intermediate_size', 4096),
      patch=square_size(config, 'patch_size', 16),
      act=config.get('hidden_act', 'gelu'),
      rope_theta=float(theta),
    )


class Attention(nnx.Module):
  """Attention inside images."""

  def __init__(self, config: PixtralVisionConfig, runtime, rngs: nnx.Rngs):
    shape = (config.heads, config.width // config.heads)
    make = dict(rngs=rngs, runtime=runtime)
    project = lambda: layers.Einsum(
      'BTD,DNH->BTNH', (config.width, *shape), **make
    )
    self.impl = runtime.attention
    self.q, self.k, self.v = project(), project(), project()
    self.o = layers.Einsum('BTNH,NHD->BTD', (*shape, config.width), **make)

  def __call__(self, x, rope, frame):
    q = constrain(self.q(x), 'batch', None, 'heads', None)
    k = constrain(self.k(x), 'batch', None, 'heads', None)
    v = constrain(self.v(x), 'batch', None, 'heads', None)
    q, k = layers.apply_rope(q, *rope), layers.apply_rope(k, *rope)
    out = attention(q, k, v, segment_ids=(frame, frame), impl=self.impl)
    return self.o(out)


class Block(nnx.Module):
  """Pre-norm attention and MLP with residuals."""

  def __init__(self, config: PixtralVisionConfig, runtime, rngs: nnx.Rngs):
    norm = lambda: layers.RMSNorm(config.width, NORM_EPS, runtime=runtime)
    self.norm1, self.norm2 = norm(), norm()
    self.attn = Attention(config, runtime, rngs)
    self.mlp = layers.GatedMLP(
      config.width,
      config.mlp_width,
      act=config.act,
      rngs=rngs,
      runtime=runtime,
    )

  def __call__(self, x, rope, frame):
    with jax.named_scope('attn'):
      x = x + self.attn(self.norm1(x), rope, frame)
      x = constrain(x, 'batch', None, None)
    with jax.named_scope('mlp'):
      return constrain(x + self.mlp(self.norm2(x)), 'batch', None, None)


class PixtralVision(nnx.Module):
  """Patches in slots -> their features."""

  def __init__(self, config: PixtralVisionConfig, runtime, rngs: nnx.Rngs):
    self.config, self.runtime = config, runtime
    self.patch = layers.Einsum(
      'BTpqC,pqCD->BTD',
      (config.patch, config.patch, 3, config.width),
      rngs=rngs,
      runtime=runtime,
    )
    self.pre_norm = layers.RMSNorm(config.width, NORM_EPS, runtime=runtime)
    self.layers = functional.stack(
      lambda rngs: Block(config, runtime, rngs), config.depth, rngs
    )

  def __call__(
    self,
    patches: jax.Array,
    position: Int[Array, 'B T 2'],
    frame: Int[Array, 'B T'],
  ) -> Float[Array, 'B T D']:
    """Encodes the patches of each row, slot by slot (see `patches.py`).

    Args:
      patches: [B, T, 3 * patch^2], uint8 or normalised float, channel first;
        anything in empty slots.
      position: row and column of each patch; any number of them, as the
        positions are not learned.
      frame: number of its image, 0 in empty slots.

    Returns:
      Features, in the order of the slots.
    """
    config = self.config
    side = config.patch
    x = patches.reshape(*patches.shape[:2], 3, side, side)
    x = x.transpose(0, 1, 3, 4, 2)  # [B, T, p, q, 3]
    x = self.patch(normalise(x, config.pixel_mean, config.pixel_std))
    rope = axial_rope(position, config.width // config.heads, config.rope_theta)
    run = lambda block, x, _: (block(x, rope, frame), None)
    x, _ = functional.scan(
      self.layers, run, self.pre_norm(x), None, self.runtime
    )
    return x


def axial_rope(
  position: Int[Array, 'B T 2'], head_dim: int, theta: float
) -> tuple[Float[Array, 'B T H2'], Float[Array, 'B T H2']]:
  """Cosines and sines for `layers.apply_rope`: rows first, then columns.

  Of the frequencies theta^(-2 j / H), those with even j turn with the row and
  those with odd j with the column.
  """
  exponent = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
  frequency = theta**-exponent
  row, column = (position[..., i : i + 1].astype(jnp.float32) for i in (0, 1))
  angles = (row * frequency[0::2], column * frequency[1::2])
  angles = jnp.concatenate(angles, axis=-1)
  return jnp.cos(angles), jnp.sin(angles)
