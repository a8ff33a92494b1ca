"""SigLIP vision tower (Zhai et al., 2023, arXiv 2303.15343)."""

import dataclasses
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from vlm.models import layers
from vlm.models.encoder import (
  PatchEmbed,
  encode,
  normalise,
  stacked_blocks,
)
from vlm.models.functional import Runtime


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

  @property
  def side(self) -> int:
    """Patches along one side."""
    return self.image_size // self.patch

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
    )


class SiglipVision(nnx.Module):
  """Patches plus positions through the encoder.

  Args:
    config: facts of the checkpoint.
    runtime: execution choices.
    rngs: parameter keys.
    post_norm: apply the final norm (VLMs take the states before it).
  """

  def __init__(
    self,
    config: SiglipVisionConfig,
    runtime: Runtime,
    rngs: nnx.Rngs,
    post_norm: bool = True,
  ):
    self.config, self.remat = config, runtime.remat
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
    x, received = encode(self.layers, x, self.remat, with_received)
    return x if self.post_norm is None else self.post_norm(x), received
