"""CLIP (Radford et al., 2021, arXiv 2103.00020): both towers.

An image and a text become one vector each; their cosine, times a learned
temperature, says how well they fit.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from vlm.models import functional, layers
from vlm.models.encoder import PatchEmbed, encode, normalise, stacked_blocks
from vlm.models.functional import Params, Runtime

# Configurations written before the EOS id was corrected all say 2; their
# texts are pooled at the largest id instead (transformers PR 24773).
LEGACY_EOS = 2


class Encoded(NamedTuple):
  """What a tower says about its input.

  Attributes:
    states: [B, T, D] last hidden states; T counts the class token of an image.
    pooled: [B, D], the normalised state of the class or EOS token.
    embedding: [B, E], `pooled` in the space both towers share; not of unit
      length.
  """

  states: jax.Array
  pooled: jax.Array
  embedding: jax.Array


@dataclasses.dataclass(frozen=True)
class ClipVisionConfig:
  """Facts of an image tower; defaults are ViT-B/32."""

  image_size: int = 224
  patch: int = 32
  width: int = 768
  depth: int = 12
  heads: int = 12
  mlp_width: int = 3072
  act: str = 'quick_gelu'
  norm_eps: float = 1e-5
  pixel_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
  pixel_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

  @property
  def side(self) -> int:
    """Patches along one side."""
    return self.image_size // self.patch

  @classmethod
  def from_hf(cls, config: dict[str, Any]) -> 'ClipVisionConfig':
    """Reads HF's vision config (model_type clip_vision_model)."""
    return cls(
      image_size=config.get('image_size', 224),
      patch=config.get('patch_size', 32),
      width=config.get('hidden_size', 768),
      depth=config.get('num_hidden_layers', 12),
      heads=config.get('num_attention_heads', 12),
      mlp_width=config.get('intermediate_size', 3072),
      act=config.get('hidden_act', 'quick_gelu'),
      norm_eps=config.get('layer_norm_eps', 1e-5),
    )


@dataclasses.dataclass(frozen=True)
class ClipTextConfig:
  """Facts of a text tower; defaults are ViT-B/32's."""

  vocab_size: int = 49408
  context: int = 77
  width: int = 512
  depth: int = 12
  heads: int = 8
  mlp_width: int = 2048
  act: str = 'quick_gelu'
  norm_eps: float = 1e-5
  eos_token: int = 49407

  @classmethod
  def from_hf(cls, config: dict[str, Any]) -> 'ClipTextConfig':
    """Reads HF's text config (model_type clip_text_model)."""
    return cls(
      vocab_size=config.get('vocab_size', 49408),
      context=config.get('max_position_embeddings', 77),
      width=config.get('hidden_size', 512),
      depth=config.get('num_hidden_layers', 12),
      heads=config.get('num_attention_heads', 8),
      mlp_width=config.get('intermediate_size', 2048),
      act=config.get('hidden_act', 'quick_gelu'),
      norm_eps=config.get('layer_norm_eps', 1e-5),
      eos_token=config.get('eos_token_id', 49407),
    )


@dataclasses.dataclass(frozen=True)
class ClipConfig:
  """Facts of a CLIP checkpoint.

  Attributes:
    vision: of the image tower.
    text: of the text tower.
    embedding: width of the space both share.
    logit_bias: has a bias beside the temperature, as SigLIP's loss wants; no
      published CLIP has one.
  """

  vision: ClipVisionConfig = ClipVisionConfig()
  text: ClipTextConfig = ClipTextConfig()
  embedding: int = 512
  logit_bias: bool = False
  model_type: str = 'clip'

  @classmethod
  def from_hf(cls, config: dict[str, Any]) -> 'ClipConfig':
    """Reads HF's `config.json` (model_type clip)."""
    return cls(
      vision=ClipVisionConfig.from_hf(config['vision_config']),
      text=ClipTextConfig.from_hf(config['text_config']),
      embedding=config.get('projection_dim', 512),
    )


@dataclasses.dataclass(frozen=True)
class ClipImageConfig:
  """Facts of an image tower with its projection, without a text tower."""

  vision: ClipVisionConfig = ClipVisionConfig()
  embedding: int = 512
  model_type: str = 'clip_vision_model'

  @classmethod
  def from_hf(cls, config: dict[str, Any]) -> 'ClipImageConfig':
    """Reads HF's `config.json` of the tower alone, or of a whole CLIP."""
    whole = config.get('vision_config', config)
    return cls(
      vision=ClipVisionConfig.from_hf(whole),
      embedding=config.get('projection_dim', 512),
    )


class ClipVision(nnx.Module):
  """Class token and patches, a norm before and after the encoder."""

  def __init__(
    self, config: ClipVisionConfig, runtime: Runtime, rngs: nnx.Rngs
  ):
    self.config, self.runtime = config, runtime
    width = config.width
    norm = lambda: layers.LayerNorm(width, config.norm_eps, runtime=runtime)
    self.patch = PatchEmbed(config.patch, width, False, runtime, rngs)
    self.class_token = nnx.Param(
      jax.random.normal(rngs.params(), (width,), runtime.param_dtype)
      * jnp.asarray(width**-0.5, runtime.param_dtype)
    )
    self.position = layers.Embedding(
      config.side**2 + 1, width, rngs=rngs, runtime=runtime
    )
    self.pre_norm, self.post_norm = norm(), norm()
    self.layers = stacked_blocks(config, False, runtime, rngs)

  def __call__(
    self, pixels: jax.Array
  ) -> tuple[Float[Array, 'B T D'], Float[Array, 'B D']]:
    """Encodes [B, S, S, 3] pixels, uint8 or normalised float.

    Returns:
      Hidden states (class token first, not normalised) and the normalised
      state of the class token.
    """
    config = self.config
    x = self.patch(normalise(pixels, config.pixel_mean, config.pixel_std))
    first = self.class_token[...].astype(x.dtype)
    first = jnp.broadcast_to(first, (x.shape[0], 1, config.width))
    x = jnp.concatenate([first, x], axis=1)  # [B, 1 + P, D]
    x = self.pre_norm(x + self.position(jnp.arange(x.shape[1])))
    x, _ = encode(self.layers, x, self.runtime)
    return x, self.post_norm(x[:, 0])


class ClipText(nnx.Module):
  """Token and position embeddings through a causal encoder."""

  def __init__(self, config: ClipTextConfig, runtime: Runtime, rngs: nnx.Rngs):
    self.config, self.runtime = config, runtime
    make = dict(rngs=rngs, runtime=runtime)
    self.token = layers.Embedding(config.vocab_size, config.width, **make)
    self.position = layers.Embedding(config.context, config.width, **make)
    self.layers = stacked_blocks(config, True, runtime, rngs)
    self.final_norm = layers.LayerNorm(
      config.width, config.norm_eps, runtime=runtime
    )

  def __call__(
    self, tokens: Int[Array, 'B T']
  ) -> tuple[Float[Array, 'B T D'], Float[Array, 'B D']]:
    """Encodes texts padded on the right, each with an EOS token.

    What follows the EOS is never seen by it, so no mask is needed.

    Returns:
      Normalised hidden states, and the one at the first EOS.
    """
    length, context = tokens.shape[1], self.config.context
    if length > context:
      raise ValueError(
        f'texts of {length} tokens, but the checkpoint has {context} '
        'positions; truncate them in the tokenizer, keeping the EOS'
      )
    x = self.token(tokens) + self.position(jnp.arange(length))
    x, _ = encode(self.layers, x, self.runtime)
    x = self.final_norm(x)
    if self.config.eos_token == LEGACY_EOS:
      end = jnp.argmax(tokens, axis=1)
    else:
      end = jnp.argmax(tokens == self.config.eos_token, axis=1)
    return x, jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]


class _ImageModules(nnx.Module):
  def __init__(self, config: ClipImageConfig, runtime: Runtime, rngs: nnx.Rngs):
    self.vision = ClipVision(config.vision, runtime, rngs)
    self.vision_projection = layers.Einsum(
      'BD,DE->BE',
      (config.vision.width, config.embedding),
      rngs=rngs,
      runtime=runtime,
    )


class _Modules(nnx.Module):
  def __init__(self, config: ClipConfig, runtime: Runtime, rngs: nnx.Rngs):
    project = lambda width: layers.Einsum(
      'BD,DE->BE', (width, config.embedding), rngs=rngs, runtime=runtime
    )
    self.vision = ClipVision(config.vision, runtime, rngs)
    self.text = ClipText(config.text, runtime, rngs)
    self.vision_projection = project(config.vision.width)
    self.text_projection = project(config.text.width)
    # The published starts: a temperature of 0.07, and SigLIP's (section 3.2).
    scale = 10.0 if config.logit_bias else 1 / 0.07
    self.logit_scale = nnx.Param(
      jnp.asarray(math.log(scale), runtime.param_dtype)
    )
    if config.logit_bias:
      self.logit_bias = nnx.Param(jnp.asarray(-10.0, runtime.param_dtype))


class ClipImage(functional.Model):
  """The image tower alone, as pure functions of the parameters."""

  modules = _ImageModules

  def encode_image(self, params: Params, pixels: jax.Array) -> Encoded:
    """As of `Clip`, whose parameters serve as well; texts are left out."""
    names = ('vision', 'vision_projection')
    modules = self._description.bind({name: params[name] for name in names})
    states, pooled = modules.vision(pixels)
    return Encoded(states, pooled, modules.vision_projection(pooled))


class Clip(functional.Model):
  """Both towers as pure functions of the parameters."""

  modules = _Modules

  def encode_image(self, params: Params, pixels: jax.Array) -> Encoded:
    """Encodes images [B, S, S, 3], uint8 or normalised float."""
    modules = self._description.bind(params)
    states, pooled = modules.vision(pixels)
    return Encoded(states, pooled, modules.vision_projection(pooled))

  def encode_text(self, params: Params, tokens: Int[Array, 'B T']) -> Encoded:
    """Encodes texts, padded on the right; each needs an EOS token."""
    modules = self._description.bind(params)
    states, pooled = modules.text(tokens)
    return Encoded(states, pooled, modules.text_projection(pooled))

  def logits(
    self,
    params: Params,
    images: Float[Array, 'B E'],
    texts: Float[Array, 'C E'],
  ) -> Float[Array, 'B C']:
    """exp(logit_scale) times the cosine of each image with each text."""
    scale = jnp.exp(params['logit_scale'].astype(jnp.float32))
    cosine = jnp.einsum(
      'BE,CE->BC',
      unit(images),
      unit(texts),
      preferred_element_type=jnp.float32,
    )
    bias = params['logit_bias'] if self.config.logit_bias else 0.0
    return scale * cosine + jnp.asarray(bias, jnp.float32)


def unit(x: Float[Array, '... E']) -> Float[Array, '... E']:
  """Embeddings brought to length 1, in float32."""
  x = x.astype(jnp.float32)
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


# name -> image side, patch, (width, depth, heads) of each tower, embedding
_PUBLISHED = {
  'b32': (224, 32, (768, 12, 12), (512, 12, 8), 512),
  'b16': (224, 16, (768, 12, 12), (512, 12, 8), 512),
  'l14': (224, 14, (1024, 24, 16), (768, 12, 12), 768),
  'l14-336': (336, 14, (1024, 24, 16), (768, 12, 12), 768),
}


def published(name: str) -> ClipConfig:
  """The facts of openai/clip-vit-*: 'b32', 'b16', 'l14' or 'l14-336'."""
  side, patch, vision, text, embedding = _PUBLISHED[name]
  tower = lambda width, depth, heads: dict(
    width=width, depth=depth, heads=heads, mlp_width=4 * width
  )
  return ClipConfig(
    ClipVisionConfig(image_size=side, patch=patch, **tower(*vision)),
    ClipTextConfig(eos_token=LEGACY_EOS, **tower(*text)),
    embedding,
  )
