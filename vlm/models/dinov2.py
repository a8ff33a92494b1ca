"""DINOv2 (Oquab et al., arXiv 2304.07193), with or without register tokens.

The registers (Darcet et al., arXiv 2309.16588) are extra tokens that take over
what would otherwise disturb the patches; they follow the class token.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vlm.models import encoder, functional, layers
from vlm.models.encoder import PatchEmbed, encode, normalise
from vlm.models.functional import Params, Runtime
from vlm.models.partition import constrain

PIXEL_MEAN = (0.485, 0.456, 0.406)  # of ImageNet
PIXEL_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Dinov2Config:
  """Facts of a checkpoint; defaults are ViT-B/14 without registers.

  Attributes:
    image_size: side of the images whose position table was learned.
    patch: side of a patch, pixels.
    width, depth, heads, mlp_width: of the transformer.
    gated: SwiGLU instead of GELU (the giant model); `mlp_width` is then that
      of the gate.
    registers: number of register tokens.
    norm_eps: of the layer norms.
    pixel_mean, pixel_std: of the preprocessing, in units of 1.
    model_type: 'dinov2' or 'dinov2_with_registers'.
  """

  image_size: int = 518
  patch: int = 14
  width: int = 768
  depth: int = 12
  heads: int = 12
  mlp_width: int = 3072
  gated: bool = False
  registers: int = 0
  act: str = 'gelu'
  norm_eps: float = 1e-6
  pixel_mean: tuple[float, float, float] = PIXEL_MEAN
  pixel_std: tuple[float, float, float] = PIXEL_STD
  model_type: str = 'dinov2'

  @property
  def side(self) -> int:
    """Patches along one side of the learned position table."""
    return self.image_size // self.patch

  @classmethod
  def from_hf(cls, config: dict[str, Any]) -> 'Dinov2Config':
    """Reads HF's `config.json` (dinov2 or dinov2_with_registers)."""
    kind = config['model_type']
    width = config.get('hidden_size', 768)
    hidden = int(width * config.get('mlp_ratio', 4))
    gated = config.get('use_swiglu_ffn', False)
    # Two thirds of the plain width, in whole eights (Shazeer, 2002.05202).
    gate = (int(hidden * 2 / 3) + 7) // 8 * 8
    return cls(
      image_size=config.get('image_size', 224),
      patch=config.get('patch_size', 16),
      width=width,
      depth=config.get('num_hidden_layers', 12),
      heads=config.get('num_attention_heads', 12),
      mlp_width=gate if gated else hidden,
      gated=gated,
      registers=(
        config.get('num_register_tokens', 4)
        if kind == 'dinov2_with_registers'
        else 0
      ),
      act=config.get('hidden_act', 'gelu'),
      norm_eps=config.get('layer_norm_eps', 1e-6),
      model_type=kind,
    )


class Features(NamedTuple):
  """What the tower says about images.

  Attributes:
    pooled: [B, D], the normalised class token.
    patches: [B, H, W, D], normalised, over the grid of patches.
    registers: [B, R, D], normalised.
  """

  pooled: jax.Array
  patches: jax.Array
  registers: jax.Array


class GatedMLP(nnx.Module):
  """down(silu(gate(x)) * up(x)), gate and up being one published tensor."""

  def __init__(self, width, mlp_width, runtime: Runtime, rngs: nnx.Rngs):
    make = dict(rngs=rngs, runtime=runtime)
    self.gate_up = layers.Einsum(
      'BTD,DCF->BTCF', (width, 2, mlp_width), bias=(2, mlp_width), **make
    )
    self.down = layers.Einsum(
      'BTF,FD->BTD', (mlp_width, width), bias=(width,), **make
    )

  def __call__(self, x: Float[Array, 'B T D']) -> Float[Array, 'B T D']:
    both = constrain(self.gate_up(x), 'batch', None, None, 'ffn')
    return self.down(jax.nn.silu(both[:, :, 0]) * both[:, :, 1])


class LayerScale(nnx.Module):
  """x * scale, per channel."""

  def __init__(self, width: int, runtime: Runtime):
    self.scale = nnx.Param(jnp.ones((width,), runtime.param_dtype))

  def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... D']:
    return x * self.scale[...].astype(x.dtype)


class Block(nnx.Module):
  """x + scale1 attn(norm1(x)), then x + scale2 mlp(norm2(x))."""

  def __init__(self, config: Dinov2Config, runtime: Runtime, rngs: nnx.Rngs):
    width, hidden = config.width, config.mlp_width
    norm = lambda: layers.LayerNorm(width, config.norm_eps, runtime=runtime)
    self.norm1, self.norm2 = norm(), norm()
    self.scale1, self.scale2 = (LayerScale(width, runtime) for _ in range(2))
    self.attn = encoder.Attention(width, config.heads, False, runtime, rngs)
    self.mlp = (
      GatedMLP(width, hidden, runtime, rngs)
      if config.gated
      else encoder.MLP(width, hidden, config.act, runtime, rngs)
    )

  def __call__(self, x, with_received: bool = False):
    with jax.named_scope('attn'):
      out, received = self.attn(self.norm1(x), with_received)
      x = constrain(x + self.scale1(out), 'batch', None, None)
    with jax.named_scope('mlp'):
      out = self.scale2(self.mlp(self.norm2(x)))
      x = constrain(x + out, 'batch', None, None)
    return x, received


class _Tower(nnx.Module):
  """Tokens in the order class, registers, patches; see `Dinov2`."""

  def __init__(self, config: Dinov2Config, runtime: Runtime, rngs: nnx.Rngs):
    self.config, self.runtime = config, runtime
    width = config.width
    table = lambda rows: nnx.Param(
      jax.random.normal(rngs.params(), (1, rows, width), runtime.param_dtype)
      * jnp.asarray(0.02, runtime.param_dtype)
    )
    self.patch = PatchEmbed(config.patch, width, True, runtime, rngs)
    self.class_token, self.position = table(1), table(config.side**2 + 1)
    self.register_tokens = table(config.registers) if config.registers else None
    self.layers = functional.stack(
      lambda rngs: Block(config, runtime, rngs), config.depth, rngs
    )
    self.norm = layers.LayerNorm(width, config.norm_eps, runtime=runtime)

  def __call__(self, pixels: jax.Array) -> Float[Array, 'B T D']:
    config = self.config
    grid = tuple(side // config.patch for side in pixels.shape[1:3])
    x = self.patch(normalise(pixels, config.pixel_mean, config.pixel_std))
    spread = lambda token: jnp.broadcast_to(
      token.astype(x.dtype), (x.shape[0], *token.shape[1:])
    )
    position = self.position[...]
    x = x + self._resized(position[:, 1:], grid).astype(x.dtype)
    tokens = [spread(self.class_token[...] + position[:, :1])]
    if self.register_tokens is not None:
      tokens.append(spread(self.register_tokens[...]))  # they have no place
    x, _ = encode(self.layers, jnp.concatenate([*tokens, x], 1), self.runtime)
    return self.norm(x)

  def _resized(self, table: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """The position table [1, side^2, D] on another grid: [1, H * W, D]."""
    config = self.config
    if grid == (config.side, config.side):
      return table
    table = table.astype(jnp.float32).reshape(config.side, config.side, -1)
    # Only the release with registers filters before it shrinks.
    rows, columns = (
      resize_matrix(config.side, size, antialias=config.registers > 0)
      for size in grid
    )
    table = jnp.einsum('hi,wj,ijd->hwd', rows, columns, table)
    return table.reshape(1, -1, config.width)


def resize_matrix(size: int, wanted: int, antialias: bool) -> np.ndarray:
  """Bicubic interpolation of `size` samples at `wanted` places, a matrix.

  The kernel is Keys' with a = -0.75, or a = -0.5 stretched by the factor of
  shrinking with `antialias`: torch's `interpolate(align_corners=False)`.

  Returns:
    [wanted, size] float32 whose rows sum to 1.
  """
  scale = size / wanted
  stretch = max(scale, 1.0) if antialias else 1.0
  centre = (np.arange(wanted) + 0.5) * scale
  if antialias:  # taps outside are left out, and the rest is renormalised
    places = np.arange(size)
  else:  # taps outside see the border
    places = np.arange(-2, size + 2)
  distance = np.abs(places + 0.5 - centre[:, None]) / stretch
  weight = _keys(distance, -0.5 if antialias else -0.75)
  if not antialias:
    matrix = weight[:, 2:-2]
    matrix[:, 0] += weight[:, :2].sum(1)
    matrix[:, -1] += weight[:, -2:].sum(1)
    weight = matrix
  return (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def _keys(x: np.ndarray, a: float) -> np.ndarray:
  """Keys (1981), eq. 15, with a free slope `a`."""
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
  return np.where(x < 1, near, np.where(x < 2, far, 0.0))


class _Modules(nnx.Module):
  def __init__(self, config: Dinov2Config, runtime: Runtime, rngs: nnx.Rngs):
    self.vision = _Tower(config, runtime, rngs)


class Dinov2(functional.Model):
  """The tower as pure functions of its parameters."""

  modules = _Modules

  def encode_image(self, params: Params, pixels: jax.Array) -> Features:
    """Encodes images [B, H, W, 3], uint8 or normalised float.

    Height and width may differ from each other and from `image_size`; a border
    narrower than a patch is dropped.
    """
    config = self.config
    x = self._description.bind(params).vision(pixels)
    height, width = (side // config.patch for side in pixels.shape[1:3])
    first = 1 + config.registers
    patches = x[:, first:].reshape(x.shape[0], height, width, -1)
    return Features(x[:, 0], patches, x[:, 1:first])
