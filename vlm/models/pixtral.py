"""Pixtral (arXiv 2410.07073) in HF's LLaVA wrapper: tower, projector, Mistral.

Every patch is one visual token. In the prompt each row of an image ends with
the text token [IMG_BREAK], the last one with [IMG_END]; the data layer writes
them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vlm.models.functional import Params, Runtime
from vlm.models.llava_onevision import Projector
from vlm.models.partition import constrain
from vlm.models.pixtral_vision import PixtralVision, PixtralVisionConfig
from vlm.models.qwen2 import Decoder, Qwen2Config
from vlm.models.visual import VisionLanguageModel, VisualTokens


@dataclasses.dataclass(frozen=True)
class PixtralConfig:
  """Facts of a checkpoint."""

  vision: PixtralVisionConfig = PixtralVisionConfig()
  decoder: Qwen2Config = Qwen2Config(model_type='mistral', qkv_bias=False)
  image_token: int = 10
  model_type: str = 'llava'

  @property
  def video_token(self) -> int:
    """It has no token of its own for videos: their frames are images."""
    return self.image_token

  @classmethod
  def from_hf(cls, config: dict[str, Any]) -> 'PixtralConfig':
    """Reads HF's `config.json` (model_type llava with a pixtral tower).

    Raises:
      ValueError: for a choice that is not supported, by its key.
    """
    vision, text = config['vision_config'], config['text_config']
    for key, found, supported in (
      # Without a word it is a CLIP tower.
      ('vision_config.model_type', vision.get('model_type'), 'pixtral'),
      ('vision_feature_layer', config.get('vision_feature_layer', -2), -1),
      (
        'vision_feature_select_strategy',
        config.get('vision_feature_select_strategy', 'default'),
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
    ):
      if found != supported:
        raise ValueError(
          f'config.json: {key} is {found!r}, supported: {supported!r}'
        )
    # A config tied at either level is tied: transformers reads both.
    tied = config.get('tie_word_embeddings') or text.get('tie_word_embeddings')
    token = config.get('image_token_index', config.get('image_token_id'))
    return cls(
      vision=PixtralVisionConfig.from_hf(vision),
      decoder=Qwen2Config.from_hf(text | {'tie_word_embeddings': tied}),
      image_token=32000 if token is None else token,
    )


def published() -> PixtralConfig:
  """Facts of mistral-community/pixtral-12b.

  With them a job can be compiled and sized before anything is downloaded;
  loading checks them against the checkpoint's own config.json.
  """
  decoder = Qwen2Config(
    vocab_size=131072,
    width=5120,
    depth=40,
    heads=32,
    kv_heads=8,
    head_dim=128,
    mlp_width=14336,
    rope_theta=1e9,
    norm_eps=1e-5,
    qkv_bias=False,
    tied_head=False,
    model_type='mistral',
  )
  return PixtralConfig(decoder=decoder)


class _Modules(nnx.Module):
  def __init__(self, config: PixtralConfig, runtime: Runtime, rngs: nnx.Rngs):
    vision, width = config.vision, config.decoder.width
    self.vision = PixtralVision(vision, runtime, rngs)
    self.projector = Projector(vision.width, width, runtime, rngs)
    self.decoder = Decoder(config.decoder, runtime, rngs)


class Pixtral(VisionLanguageModel):
  """Tower, projector and decoder as pure functions of the parameters."""

  modules = _Modules

  def encode_visual(
    self,
    params: Params,
    pixels: jax.Array,
    plan: dict[str, jax.Array],
    with_received: bool = False,
  ) -> VisualTokens:
    """Patches in their slots -> visual tokens in the order of the prompt.

    Args:
      params: the parameters.
      pixels: [B, S, 3 * patch^2] patches, slot by slot, uint8 or normalised
        float.
      plan: what `patches.plan_patches` gives, stacked over rows: position
        [B, S, 2], frame [B, S], token [B, M], grid [B, M, 3], and valid [B, M].
      with_received: not here.

    Returns:
      The visual tokens.

    Raises:
      ValueError: if asked for received attention, which methods for videos
        read: Pixtral shows none.
    """
    if with_received:
      raise ValueError('pixtral shows no videos whose tokens could be ranked')
    modules = self._description.bind(params)
    features = modules.vision(pixels, plan['position'], plan['frame'])
    chosen = jnp.take_along_axis(features, plan['token'][..., None], axis=1)
    tokens = constrain(modules.projector(chosen), 'batch', None, None)
    return VisualTokens(tokens, plan['valid'], plan['grid'], None)
