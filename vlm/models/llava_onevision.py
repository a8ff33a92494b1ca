"""LLaVA-OneVision (arXiv 2408.03326) and LLaVA-Video (arXiv 2410.02713).

A SigLIP tower, a two-layer projector and a Qwen2 decoder. How tiles and frames
become visual tokens (anyres grids, unpadding, newline tokens, video pooling) is
decided on the host by `plan.py`; here it is one weighted gather.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vlm.models import layers, plan
from vlm.models.functional import Params, Runtime
from vlm.models.partition import constrain
from vlm.models.qwen2 import Decoder, Qwen2Config
from vlm.models.siglip import SiglipVision, SiglipVisionConfig
from vlm.models.visual import VisionLanguageModel, VisualTokens, gather


@dataclasses.dataclass(frozen=True)
class LlavaOnevisionConfig:
  """Facts of a LLaVA-OneVision or LLaVA-Video checkpoint."""

  vision: SiglipVisionConfig = SiglipVisionConfig(depth=26)
  decoder: Qwen2Config = Qwen2Config()
  image_token: int = 151646
  video_token: int = 151647
  grid_pinpoints: tuple[tuple[int, int], ...] = ()
  max_tiles: int = 9
  video_newline: str = 'end'
  video_pool: int = 2
  model_type: str = 'llava_onevision'

  @property
  def layout(self) -> plan.Layout:
    """How tiles and frames become visual tokens."""
    return plan.Layout(
      tile=self.vision.image_size,
      side=self.vision.side,
      resolutions=self.grid_pinpoints,
      max_tiles=self.max_tiles,
      newline=self.video_newline,
      pool=self.video_pool,
    )

  @property
  def tile_tokens(self) -> int:
    """Tokens of the bank that come from one tile."""
    return self.vision.side**2

  @classmethod
  def from_hf(cls, config: dict[str, Any]) -> 'LlavaOnevisionConfig':
    """Reads HF's `config.json` (model_type llava_onevision).

    Raises:
      ValueError: for a choice that is not supported, by its key.
    """
    vision, text = config['vision_config'], config['text_config']
    aspect = config.get('vision_aspect_ratio', 'anyres_max_9')
    # A config tied at either level is tied: transformers reads both.
    tied = config.get('tie_word_embeddings') or text.get('tie_word_embeddings')
    for key, found, supported in (
      (
        'vision_config.model_type',
        vision.get('model_type'),
        'siglip_vision_model',
      ),
      ('vision_feature_layer', config.get('vision_feature_layer', -1), -1),
      (
        'vision_feature_select_strategy',
        config.get('vision_feature_select_strategy', 'full'),
        'full',
      ),
      (
        'projector_hidden_act',
        config.get('projector_hidden_act', 'gelu'),
        'gelu',
      ),
      (
        'multimodal_projector_bias',
        config.get('multimodal_projector_bias', True),
        True,
      ),
      ('vision_aspect_ratio', aspect.rstrip('0123456789'), 'anyres_max_'),
    ):
      if found != supported:
        raise ValueError(
          f'config.json: {key} is {found!r}, supported: {supported!r}'
        )
    return cls(
      vision=SiglipVisionConfig.from_hf(vision),
      decoder=Qwen2Config.from_hf(text | {'tie_word_embeddings': tied}),
      image_token=config.get('image_token_id', config.get('image_token_index')),
      video_token=config.get('video_token_id', config.get('video_token_index')),
      grid_pinpoints=tuple(
        tuple(point) for point in config['image_grid_pinpoints']
      ),
      max_tiles=int(aspect.removeprefix('anyres_max_')),
    )


# (height, width) canvases of the published checkpoints: 1 to 6 tiles a side.
CANVASES = tuple(
  (384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7)
)


def published(size: str) -> LlavaOnevisionConfig:
  """Facts of llava-hf/llava-onevision-qwen2-{0.5b,7b}-ov-hf.

  With them a job can be compiled and sized before anything is downloaded;
  loading checks them against the checkpoint's own config.json.
  """
  decoder = {
    '0.5b': Qwen2Config(vocab_size=152000),
    '7b': Qwen2Config(
      vocab_size=152128,
      width=3584,
      depth=28,
      heads=28,
      kv_heads=4,
      head_dim=128,
      mlp_width=18944,
      tied_head=False,
    ),
  }[size]
  return LlavaOnevisionConfig(decoder=decoder, grid_pinpoints=CANVASES)


class Projector(nnx.Module):
  """linear_2(gelu(linear_1(x))) from the tower's width to the decoder's."""

  def __init__(self, vision, width, runtime: Runtime, rngs: nnx.Rngs):
    make = dict(bias=(width,), rngs=rngs, runtime=runtime)
    self.linear_1 = layers.Einsum('BPC,CD->BPD', (vision, width), **make)
    self.linear_2 = layers.Einsum('BPD,DE->BPE', (width, width), **make)

  def __call__(self, x: Float[Array, 'B P C']) -> Float[Array, 'B P D']:
    return self.linear_2(layers.gelu(self.linear_1(x)))


class _Modules(nnx.Module):
  def __init__(
    self, config: LlavaOnevisionConfig, runtime: Runtime, rngs: nnx.Rngs
  ):
    vision, width = config.vision, config.decoder.width
    self.vision = SiglipVision(vision, runtime, rngs, post_norm=False)
    self.projector = Projector(vision.width, width, runtime, rngs)
    self.newline = nnx.Param(
      jax.random.normal(rngs.params(), (width,), runtime.param_dtype)
      * jnp.asarray(width**-0.5, runtime.param_dtype)
    )
    self.decoder = Decoder(config.decoder, runtime, rngs)


class LlavaOnevision(VisionLanguageModel):
  """Tower + connector + decoder as pure functions of the parameters."""

  modules = _Modules

  def encode_visual(
    self,
    params: Params,
    pixels: jax.Array,
    plan: dict[str, jax.Array],
    with_received: bool = False,
  ) -> VisualTokens:
    """Tiles -> patch features -> visual tokens.

    Args:
      params: the parameters.
      pixels: [B, I, S, S, 3] tiles or frames, uint8 or normalised float.
      plan: see data/pipeline.py; token m of row b is
        sum_k weight[b,m,k] * bank[b, index[b,m,k]], where the bank holds the
        projected patches of the row's tiles and then the newline vector.
      with_received: also compute received attention.

    Returns:
      The visual tokens.
    """
    modules = self._description.bind(params)
    b, tiles = pixels.shape[:2]
    flat = constrain(
      pixels.reshape(b * tiles, *pixels.shape[2:]), 'batch', None, None, None
    )
    features, received = modules.vision(flat, with_received)
    features = modules.projector(features)
    features = features.reshape(b, -1, features.shape[-1])  # [B, I*P, D]
    newline = jnp.broadcast_to(
      modules.newline[...].astype(features.dtype), (b, 1, features.shape[-1])
    )
    bank = jnp.concatenate([features, newline], axis=1)
    tokens = constrain(gather(bank, plan), 'batch', None, None)
    if received is not None:
      scores = jnp.pad(received.reshape(b, -1), ((0, 0), (0, 1)))
      received = gather(scores[..., None], plan)[..., 0]
    return VisualTokens(tokens, plan['valid'], plan['grid'], received)
