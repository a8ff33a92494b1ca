"""From pictures to visual tokens, beside the published processor and tower."""

import jax
import numpy as np
import pytest
import transformers
from PIL import Image

from data.processors.registry import processor_from_hf

pytestmark = pytest.mark.parity
DECODER = dict(
  vocab_size=99, hidden_size=48, intermediate_size=64, num_hidden_layers=1,
  num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip


@pytest.fixture(scope='module')
def pair(torch, randomise, through_disk):
  config = transformers.InternVLConfig(
    vision_config=dict(
      image_size=[56, 56], patch_size=[14, 14], num_hidden_layers=2,
      hidden_size=32, num_attention_heads=4, intermediate_size=40,
    ),
    text_config=DECODER | {'model_type': 'qwen2'},
    image_token_id=97,
    attn_implementation='eager',
  )  # fmt: skip
  published = transformers.InternVLForConditionalGeneration(config)
  published = randomise(published)
  return published, *through_disk(published)


def test_pictures_give_the_published_visual_tokens(pair, torch, close):
  """uint8 tiles, normalised on device; normalised tiles there."""
  from transformers.models.got_ocr2 import image_processing_pil_got_ocr2

  published, model, params = pair
  theirs = image_processing_pil_got_ocr2.GotOcr2ImageProcessorPil(
    size={'height': 56, 'width': 56},
    crop_to_patches=True,
    image_mean=[0.485, 0.456, 0.406],
    image_std=[0.229, 0.224, 0.225],
  )
  ours = processor_from_hf(
    {
      'config.json': published.config.to_dict(),
      'preprocessor_config.json': theirs.to_dict(),
    }
  )
  rng = np.random.default_rng(0)
  shapes = (70, 90, 3), (200, 60, 3), (9, 9, 3), (50, 310, 3)
  pictures = [Image.fromarray(rng.integers(0, 256, s, 'u1')) for s in shapes]
  prepared = ours.prepare(pictures)
  valid = np.ones(len(prepared.plan['index']), bool)
  plan = {k: v[None] for k, v in (prepared.plan | {'valid': valid}).items()}
  got = jax.jit(model.encode_visual)(params, prepared.pixels[None], plan)
  inputs = theirs(pictures, return_tensors='pt')
  want = published.model.get_image_features(
    inputs['pixel_values']
  ).pooler_output
  close('visual tokens', got.tokens[0], want.reshape(-1, 48))
