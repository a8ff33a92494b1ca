"""SigLIP vision tower (Zhai et al., 2023, arXiv 2303.15343)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vlm.models import functional, layers
from vlm.models.attention import attention
from vlm.models.encoder import (
  MLP,
  PatchEmbed,
  encode,
  normalise,
  stacked_blocks,
)
from vlm.models.functional import Params, Runtime


@dataclasses.dataclass(frozen=True)
class SiglipVisionConfig:
  """Facts of a SigLIP vision checkpoint; defaults are so400m-patch14-384."""

  image_size: int = 384
  patch: int = 14
  width: int = 1152
  depth: int = 27
  heads: int = 16
  mlp_width: int = 4304
  act: str = 'gelu_pytorch_tanh'
  norm_eps: float = 1e-6
  pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
  pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
  head: bool = True
  model_type: str = 'siglip_vision_model'

  @property
  def side(self) -> int:
    """Patches along one side."""
    return self.image_size // self.patch

  @property
  def length(self) -> int:
    """Tokens the tower computes with."""
    return self.side**2

  @classmethod
  def from_hf(cls, config: dict[str, Any]) -> 'SiglipVisionConfig':
    """Reads HF's vision config (model_type siglip_vision_model)."""
    return cls(
      image_size=config.get('image_size', 224),
      patch=config.get('patch_size', 16),
      width=config.get('hidden_size', 768),
      depth=config.get('num_hidden_layers', 12),
      heads=config.get('num_attention_heads', 12),
      mlp_width=config.get('intermediate_size', 3072),
      act=config.get('hidden_act', 'gelu_pytorch_tanh'),
      norm_eps=config.get('layer_norm_eps', 1e-6),
      head=config.get('vision_use_head', True),
    )


class AttentionPool(nnx.Module):
  """One learned query attends to all patches, then a residual MLP."""

  def __init__(
    self, config: SiglipVisionConfig, runtime: Runtime, rngs: nnx.Rngs
  ):
    width, shape = config.width, (config.heads, config.width // config.heads)
    make = dict(rngs=rngs, runtime=runtime)
    self.probe = nnx.Param(
      jax.random.normal(rngs.params(), (1, 1, width), runtime.param_dtype)
    )
    self.qkv = layers.Einsum(
      'BTD,DiNH->BTiNH', (width, 3, *shape), bias=(3, *shape), **make
    )
    self.o = layers.Einsum(
      'BTNH,NHD->BTD', (*shape, width), bias=(width,), **make
    )
    self.norm = layers.LayerNorm(width, config.norm_eps, runtime=runtime)
    self.mlp = MLP(width, config.mlp_width, config.act, runtime, rngs)

  def __call__(self, x: Float[Array, 'B P D']) -> Float[Array, 'B D']:
    probe = self.probe[...].astype(x.dtype)
    query = jnp.broadcast_to(
      self.qkv(probe)[:, :, 0], (x.shape[0], 1, *self.qkv.kernel.shape[2:])
    )
    keys_values = self.qkv(x)
    out = self.o(attention(query, keys_values[:, :, 1], keys_values[:, :, 2]))
    return (out + self.mlp(self.norm(out)))[:, 0]


class SiglipVision(nnx.Module):
  """Patches plus positions through the encoder.

  Args:
    config: facts of the checkpoint.
    runtime: execution choices.
    rngs: parameter keys.
    post_norm: apply the final norm, and have the pooling head if the
      checkpoint has one (VLMs take the states before both).
  """

  def __init__(
    self,
    config: SiglipVisionConfig,
    runtime: Runtime,
    rngs: nnx.Rngs,
    post_norm: bool = True,
  ):
    self.config, self.runtime = config, runtime
    self.patch = PatchEmbed(config.patch, config.width, True, runtime, rngs)
    self.position = layers.Embedding(
      config.side**2, config.width, rngs=rngs, runtime=runtime
    )
    self.layers = stacked_blocks(config, False, runtime, rngs)
    self.post_norm = (
      layers.LayerNorm(config.width, config.norm_eps, runtime=runtime)
      if post_norm
      else None
    )
    if post_norm and config.head:
      self.head = AttentionPool(config, runtime, rngs)

  def __call__(
    self, pixels: jax.Array, with_received: bool = False
  ) -> tuple[Float[Array, 'B P D'], Float[Array, 'B P'] | None]:
    """Encodes images.

    Args:
      pixels: [B, S, S, 3], uint8 or normalised float.
      with_received: also return each patch's received attention.

    Returns:
      Patch features and the received attention or None.
    """
    config = self.config
    pixels = normalise(pixels, config.pixel_mean, config.pixel_std)
    x = self.patch(pixels) + self.position.embedding[...].astype(
      self.position.dtype
    )
    x, received = encode(self.layers, x, self.runtime, with_received)
    return x if self.post_norm is None else self.post_norm(x), received


class _Modules(nnx.Module):
  def __init__(
    self, config: SiglipVisionConfig, runtime: Runtime, rngs: nnx.Rngs
  ):
    self.vision = SiglipVision(config, runtime, rngs)


class Siglip(functional.Model):
  """The tower alone, as pure functions of its parameters."""

  modules = _Modules

  def encode_image(
    self, params: Params, pixels: jax.Array
  ) -> tuple[Float[Array, 'B P D'], Float[Array, 'B D'] | None]:
    """Encodes images [B, S, S, 3], uint8 or normalised float.

    Returns:
      Normalised patch features, and their pooled vector where the checkpoint
      has a pooling head, else None.
    """
    vision = self._description.bind(params).vision
    states, _ = vision(pixels)
    return states, vision.head(states) if self.config.head else None
