"""From pictures to visual tokens, beside the published processor and tower."""

import jax
import numpy as np
import pytest
import transformers
from PIL import Image

from data.processors.registry import processor_from_hf
from vlm.models.mrope import Span

pytestmark = pytest.mark.parity


@pytest.fixture(scope='module')
def pair(torch, randomise, through_disk):
  config = transformers.Qwen2_5_VLConfig(
    text_config=dict(
      vocab_size=99, hidden_size=48, intermediate_size=64,
      num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
      rope_parameters=dict(
        rope_type='default', rope_theta=1e6, mrope_section=[1, 2, 3]
      ),
    ),
    vision_config=dict(
      depth=2, hidden_size=32, num_heads=4, intermediate_size=40,
      out_hidden_size=48, fullatt_block_indexes=[1], window_size=56,
      tokens_per_second=2,
    ),
    image_token_id=97, video_token_id=98, tie_word_embeddings=False,
    attn_implementation='eager',
  )  # fmt: skip
  published = transformers.Qwen2_5_VLForConditionalGeneration(config)
  published = randomise(published, attention=1.5)
  return published, *through_disk(published)


def test_pictures_give_the_published_visual_tokens(pair, torch, close):
  """uint8 patches in windows, normalised on device; float patches there."""
  from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl

  published, model, params = pair
  theirs = image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil(
    size={'shortest_edge': 56 * 56, 'longest_edge': 28 * 28 * 30}
  )
  ours = processor_from_hf(
    {
      'config.json': published.config.to_dict(),
      'preprocessor_config.json': theirs.to_dict(),
    }
  )
  rng = np.random.default_rng(0)
  shapes = (70, 90, 3), (200, 60, 3), (9, 9, 3), (300, 310, 3)
  pictures = [Image.fromarray(rng.integers(0, 256, s, 'u1')) for s in shapes]
  prepared = ours.prepare(pictures)
  valid = np.ones(len(prepared.plan['token']), bool)
  plan = {k: v[None] for k, v in (prepared.plan | {'valid': valid}).items()}
  got = jax.jit(model.encode_visual)(params, prepared.pixels[None], plan)
  inputs = theirs(pictures, return_tensors='pt')
  want = published.model.get_image_features(
    inputs['pixel_values'], inputs['image_grid_thw']
  ).pooler_output
  close('visual tokens', got.tokens[0], torch.cat(tuple(want)))
  spans = [expansion.spans[0] for expansion in prepared.expansions]
  assert spans == [
    Span(1, int(h) // 2, int(w) // 2) for _, h, w in inputs['image_grid_thw']
  ]
