"""InternViT (arXiv 2312.14238), the tower of InternVL.

A plain ViT over square tiles with a class token, a learned position table and
layer scale. The 300M tower has LayerNorm and biases on q, k, v; the 6B towers
have RMSNorm, no such biases, and normalise queries and keys over their width.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vlm.models import functional, layers
from vlm.models.attention import attention
from vlm.models.dinov2 import PIXEL_MEAN, PIXEL_STD, LayerScale
from vlm.models.encoder import (
  MLP,
  PatchEmbed,
  encode,
  normalise,
  square_size,
)
from vlm.models.functional import Runtime
from vlm.models.partition import constrain
from vlm.models.received import received

NORMS = {'layer_norm': layers.LayerNorm, 'rms_norm': layers.RMSNorm}
QK_NORM_EPS = 1e-6  # fixed in the published classes


@dataclasses.dataclass(frozen=True)
class InternVitConfig:
  """Facts of a tower; defaults are InternViT-300M-448px-V2.5.

  Attributes:
    image_size: side of a tile, pixels.
    patch: side of a patch, pixels.
    width, depth, heads, mlp_width: of the transformer.
    act: HF's name of the activation.
    norm: 'layer_norm' or 'rms_norm'.
    norm_eps: of the norms before attention and MLP.
    qkv_bias: biases on q, k and v.
    qk_norm: RMSNorm on q and k, over all heads together.
    pixel_mean, pixel_std: of the preprocessing, in units of 1.
  """

  image_size: int = 448
  patch: int = 14
  width: int = 1024
  depth: int = 24
  heads: int = 16
  mlp_width: int = 4096
  act: str = 'gelu'
  norm: str = 'layer_norm'
  norm_eps: float = 1e-6
  qkv_bias: bool = True
  qk_norm: bool = False
  pixel_mean: tuple[float, float, float] = PIXEL_MEAN
  pixel_std: tuple[float, float, float] = PIXEL_STD

  @property
  def side(self) -> int:
    """Patches along one side of a tile."""
    return self.image_size // self.patch

  @property
  def length(self) -> int:
    """Tokens the tower computes with: the patches and the class token."""
    return self.side**2 + 1

  @classmethod
  def from_hf(cls, config: dict[str, Any]) -> 'InternVitConfig':
    """Reads HF's vision config (model_type internvl_vision).

    Raises:
      ValueError: for a choice that is not supported, by its key.
    """
    for key, default, supported in (
      ('use_absolute_position_embeddings', True, (True,)),
      ('use_mean_pooling', True, (True,)),  # otherwise there is a final norm
      ('norm_type', 'layer_norm', tuple(NORMS)),
      ('hidden_act', 'gelu', tuple(layers.ACTIVATIONS)),
    ):
      if (found := config.get(key, default)) not in supported:
        raise ValueError(
          f'config.json: vision_config.{key} is {found!r}, supported: '
          f'{supported}'
        )
    return cls(
      image_size=square_size(config, 'image_size', 448),
      patch=square_size(config, 'patch_size', 14),
      width=config.get('hidden_size', 1024),
      depth=config.get('num_hidden_layers', 24),
      heads=config.get('num_attention_heads', 16),
      mlp_width=config.get('intermediate_size', 4096),
      act=config.get('hidden_act', 'gelu'),
      norm=config.get('norm_type', 'layer_norm'),
      norm_eps=config.get('layer_norm_eps', 1e-6),
      qkv_bias=config.get('attention_bias', False),
      qk_norm=config.get('use_qk_norm', False),
    )


class Attention(nnx.Module):
  """Multi-head attention; queries and keys may be normalised."""

  def __init__(self, config: InternVitConfig, runtime: Runtime, rngs: nnx.Rngs):
    width, shape = config.width, (config.heads, config.width // config.heads)
    make = dict(rngs=rngs, runtime=runtime)
    project = lambda: layers.Einsum(
      'BTD,DNH->BTNH',
      (width, *shape),
      bias=shape if config.qkv_bias else (),
      **make,
    )
    norm = lambda: (
      layers.RMSNorm(width, QK_NORM_EPS, runtime=runtime)
      if config.qk_norm
      else None
    )
    self.impl = runtime.attention
    self.q, self.k, self.v = project(), project(), project()
    self.q_norm, self.k_norm = norm(), norm()
    self.o = layers.Einsum(
      'BTNH,NHD->BTD', (*shape, width), bias=(width,), **make
    )

  def __call__(self, x: Float[Array, 'B T D'], with_received: bool = False):
    q = constrain(self.q(x), 'batch', None, 'heads', None)
    k = constrain(self.k(x), 'batch', None, 'heads', None)
    v = constrain(self.v(x), 'batch', None, 'heads', None)
    if self.q_norm is not None:
      q = self.q_norm(q.reshape(x.shape)).reshape(q.shape)
      k = self.k_norm(k.reshape(x.shape)).reshape(k.shape)
    out = self.o(attention(q, k, v, impl=self.impl))
    return out, received(q, k, impl=self.impl) if with_received else None


class Block(nnx.Module):
  """x + scale1 attn(norm1(x)), then x + scale2 mlp(norm2(x))."""

  def __init__(self, config: InternVitConfig, runtime: Runtime, rngs: nnx.Rngs):
    width = config.width
    norm = lambda: NORMS[config.norm](width, config.norm_eps, runtime=runtime)
    self.norm1, self.norm2 = norm(), norm()
    self.scale1, self.scale2 = (LayerScale(width, runtime) for _ in range(2))
    self.attn = Attention(config, runtime, rngs)
    self.mlp = MLP(width, config.mlp_width, config.act, runtime, rngs)

  def __call__(self, x: Float[Array, 'B T D'], with_received: bool = False):
    with jax.named_scope('attn'):
      out, attention_in = self.attn(self.norm1(x), with_received)
      x = constrain(x + self.scale1(out), 'batch', None, None)
    with jax.named_scope('mlp'):
      out = self.scale2(self.mlp(self.norm2(x)))
      return constrain(x + out, 'batch', None, None), attention_in


class InternVit(nnx.Module):
  """Tiles [B, S, S, 3] -> features of their patches [B, P, D]."""

  def __init__(self, config: InternVitConfig, runtime: Runtime, rngs: nnx.Rngs):
    self.config, self.runtime = config, runtime
    table = lambda rows: nnx.Param(
      jax.random.normal(
        rngs.params(), (1, rows, config.width), runtime.param_dtype
      )
      * jnp.asarray(0.02, runtime.param_dtype)
    )
    self.patch = PatchEmbed(config.patch, config.width, True, runtime, rngs)
    self.class_token, self.position = table(1), table(config.length)
    self.layers = functional.stack(
      lambda rngs: Block(config, runtime, rngs), config.depth, rngs
    )

  def __call__(
    self, pixels: jax.Array, with_received: bool = False
  ) -> tuple[Float[Array, 'B P D'], Float[Array, 'B P'] | None]:
    """Encodes tiles, uint8 or normalised float; the class token is dropped.

    Args:
      pixels: the tiles.
      with_received: also return the attention each patch receives in the last
        block, from the class token too.

    Raises:
      ValueError: if the tiles are not of the size the position table is for.
    """
    config = self.config
    if pixels.shape[1:3] != (config.image_size,) * 2:
      raise ValueError(
        f'tiles are {pixels.shape[1]} x {pixels.shape[2]} pixels, expected '
        f'{config.image_size} x {config.image_size} (vision_config.image_size '
        'of config.json); cut the images into such tiles'
      )
    x = self.patch(normalise(pixels, config.pixel_mean, config.pixel_std))
    token = self.class_token[...].astype(x.dtype)
    token = jnp.broadcast_to(token, (x.shape[0], 1, config.width))
    x = jnp.concatenate([token, x], axis=1)
    x = x + self.position[...].astype(x.dtype)
    x, attention_in = encode(self.layers, x, self.runtime, with_received)
    return x[:, 1:], None if attention_in is None else attention_in[:, 1:]
