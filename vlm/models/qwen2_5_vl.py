"""Qwen2.5-VL (arXiv 2502.13923): windowed tower, merger, M-RoPE decoder."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vlm.models.functional import Params, Runtime
from vlm.models.partition import constrain
from vlm.models.qwen2 import Decoder, Qwen2Config
from vlm.models.qwen2_5_vision import Qwen25Vision, Qwen25VisionConfig
from vlm.models.visual import (
  VisionLanguageModel,
  VisualTokens,
  received_by_videos,
)


@dataclasses.dataclass(frozen=True)
class Qwen25VLConfig:
  """Facts of a checkpoint."""

  vision: Qwen25VisionConfig = Qwen25VisionConfig()
  decoder: Qwen2Config = Qwen2Config(mrope_section=(16, 24, 24))
  image_token: int = 151655
  video_token: int = 151656
  model_type: str = 'qwen2_5_vl'

  @classmethod
  def from_hf(cls, config: dict[str, Any]) -> 'Qwen25VLConfig':
    """Reads HF's `config.json` (model_type qwen2_5_vl).

    Files written before transformers 4.52 hold the decoder's facts at their top
    level, later ones under `text_config`.
    """
    text = config.get('text_config', config)
    text = text | {'model_type': 'qwen2_5_vl_text'}
    # A config tied at either level is tied: transformers reads both.
    tied = config.get('tie_word_embeddings') or text.get('tie_word_embeddings')
    return cls(
      vision=Qwen25VisionConfig.from_hf(config['vision_config']),
      decoder=Qwen2Config.from_hf(text | {'tie_word_embeddings': tied}),
      image_token=config.get('image_token_id', 151655),
      video_token=config.get('video_token_id', 151656),
    )


def published(size: str) -> Qwen25VLConfig:
  """Facts of Qwen/Qwen2.5-VL-{3B,7B,72B}-Instruct, before any download."""
  mlp, sizes = {
    '3b': (3420, dict(width=2048, depth=36, heads=16, kv_heads=2)),
    '7b': (3420, dict(width=3584, depth=28, heads=28, kv_heads=4)),
    '72b': (3456, dict(width=8192, depth=80, heads=64, kv_heads=8)),
  }[size]
  small = size == '3b'
  return Qwen25VLConfig(
    vision=Qwen25VisionConfig(mlp_width=mlp, out_width=sizes['width']),
    decoder=Qwen2Config(
      vocab_size=151936 if small else 152064,
      head_dim=128,
      mlp_width={'3b': 11008, '7b': 18944, '72b': 29568}[size],
      tied_head=small,
      mrope_section=(16, 24, 24),
      model_type='qwen2_5_vl_text',
      **sizes,
    ),
  )


class _Modules(nnx.Module):
  def __init__(self, config: Qwen25VLConfig, runtime: Runtime, rngs: nnx.Rngs):
    self.vision = Qwen25Vision(config.vision, runtime, rngs)
    self.decoder = Decoder(config.decoder, runtime, rngs)


class Qwen25VL(VisionLanguageModel):
  """Tower and decoder as pure functions of the parameters."""

  modules = _Modules

  def encode_visual(
    self,
    params: Params,
    pixels: jax.Array,
    plan: dict[str, jax.Array],
    with_received: bool = False,
  ) -> VisualTokens:
    """Patches in their windows -> visual tokens in the order of the prompt.

    Args:
      params: the parameters.
      pixels: [B, S, 3 * frames * patch^2] patches, slot by slot, uint8 or
        normalised float.
      plan: what `windows.plan_windows` gives, stacked over rows: position
        [B, S, 2], frame [B, S], token [B, M], grid [B, M, 3], and valid [B, M].
      with_received: also compute received attention, of videos' tokens.

    Returns:
      The visual tokens.
    """
    modules = self._description.bind(params)
    blocks, queries_keys = modules.vision(
      pixels, plan['position'], plan['frame'], with_received
    )
    tokens = jnp.take_along_axis(blocks, plan['token'][..., None], axis=1)
    tokens = constrain(tokens, 'batch', None, None)
    received = None
    if queries_keys is not None:
      block, impl = self.config.vision.merge**2, self.runtime.attention
      received = received_by_videos(*queries_keys, plan, block, impl)
    return VisualTokens(tokens, plan['valid'], plan['grid'], received)
