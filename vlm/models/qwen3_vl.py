"""Qwen3-VL (arXiv 2511.21631), dense: DeepStack, interleaved M-RoPE."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vlm.models.functional import Params, Runtime
from vlm.models.partition import constrain
from vlm.models.qwen2 import Decoder, Qwen2Config
from vlm.models.qwen3_vision import Qwen3Vision, Qwen3VisionConfig
from vlm.models.visual import (
  VisionLanguageModel,
  VisualTokens,
  received_by_videos,
)

# The decoder of the 8B checkpoint.
DECODER = Qwen2Config(
  width=4096,
  depth=36,
  heads=32,
  kv_heads=8,
  head_dim=128,
  mlp_width=12288,
  rope_theta=5e6,
  qkv_bias=False,
  tied_head=False,
  mrope_section=(24, 20, 20),
  mrope_interleaved=True,
  qk_norm=True,
  model_type='qwen3_vl_text',
)


@dataclasses.dataclass(frozen=True)
class Qwen3VLConfig:
  """Facts of a checkpoint; defaults are those of the 8B checkpoint."""

  vision: Qwen3VisionConfig = Qwen3VisionConfig()
  decoder: Qwen2Config = DECODER
  image_token: int = 151655
  video_token: int = 151656
  model_type: str = 'qwen3_vl'

  @classmethod
  def from_hf(cls, config: dict[str, Any]) -> 'Qwen3VLConfig':
    """Reads HF's `config.json` (model_type qwen3_vl)."""
    text = config['text_config']
    # A config tied at either level is tied: published ones say it at the top.
    tied = config.get('tie_word_embeddings') or text.get('tie_word_embeddings')
    return cls(
      vision=Qwen3VisionConfig.from_hf(config['vision_config']),
      decoder=Qwen2Config.from_hf(text | {'tie_word_embeddings': tied}),
      image_token=config.get('image_token_id', 151655),
      video_token=config.get('video_token_id', 151656),
    )


def published(size: str) -> Qwen3VLConfig:
  """Facts of Qwen/Qwen3-VL-{2B,4B,8B,32B}-{Instruct,Thinking}."""
  tied = dict(tied_head=True)
  decoder = {
    '2b': dict(width=2048, depth=28, heads=16, mlp_width=6144) | tied,
    '4b': dict(width=2560, mlp_width=9728) | tied,
    '8b': dict(),
    '32b': dict(width=5120, depth=64, heads=64, mlp_width=25600),
  }[size]
  tower = dict(width=1024, depth=24, mlp_width=4096)
  tower['deepstack_blocks'] = (5, 11, 17)
  decoder = dataclasses.replace(DECODER, **decoder)
  return Qwen3VLConfig(
    vision=Qwen3VisionConfig(
      **(tower if size in ('2b', '4b') else {}), out_width=decoder.width
    ),
    decoder=decoder,
  )


class _Modules(nnx.Module):
  def __init__(self, config: Qwen3VLConfig, runtime: Runtime, rngs: nnx.Rngs):
    self.vision = Qwen3Vision(config.vision, runtime, rngs)
    self.decoder = Decoder(config.decoder, runtime, rngs)


class Qwen3VL(VisionLanguageModel):
  """Tower and decoder as pure functions of the parameters."""

  modules = _Modules

  def encode_visual(
    self,
    params: Params,
    pixels: jax.Array,
    plan: dict[str, jax.Array],
    with_received: bool = False,
  ) -> VisualTokens:
    """Patches -> visual tokens in the order of the prompt, with DeepStack.

    Args:
      params: the parameters.
      pixels: [B, S, 3 * frames * patch^2] patches, slot by slot, uint8 or
        normalised float.
      plan: what `patches.plan_patches` gives, stacked over rows: position
        [B, S, 2], frame [B, S], taps and tap_weight [B, S, 4], token [B, M],
        grid [B, M, 3], and valid [B, M].
      with_received: also compute received attention, of videos' tokens.

    Returns:
      The visual tokens.
    """
    modules = self._description.bind(params)
    slots = (plan[k] for k in ('position', 'frame', 'taps', 'tap_weight'))
    blocks, inner, queries_keys = modules.vision(pixels, *slots, with_received)
    token = plan['token'][..., None]
    pick = lambda x: jnp.take_along_axis(x, token, axis=1)
    tokens = constrain(pick(blocks), 'batch', None, None)
    deepstack = jnp.stack([pick(x) for x in inner])
    deepstack = constrain(deepstack, None, 'batch', None, None)
    received = None
    if queries_keys is not None:
      block, impl = self.config.vision.merge**2, self.runtime.attention
      received = received_by_videos(*queries_keys, plan, block, impl)
    return VisualTokens(
      tokens, plan['valid'], plan['grid'], received, deepstack
    )
