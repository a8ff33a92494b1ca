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
  config = transformers.LlavaConfig(
    vision_config=dict(
      model_type='pixtral', patch_size=16, image_size=128, head_dim=8,
      num_hidden_layers=2, hidden_size=32, num_attention_heads=4,
      intermediate_size=40,
    ),
    text_config=DECODER | {'model_type': 'mistral', 'sliding_window': None},
    image_token_index=97,
    vision_feature_layer=-1,
    vision_feature_select_strategy='full',
    attn_implementation='eager',
  )  # fmt: skip
  published = transformers.LlavaForConditionalGeneration(config)
  published = randomise(published)
  return published, *through_disk(published)


def test_pictures_give_the_published_visual_tokens(pair, torch, close):
  """uint8 patches, normalised on device; padded normalised images there."""
  from transformers.models.pixtral import image_processing_pil_pixtral

  published, model, params = pair
  theirs = image_processing_pil_pixtral.PixtralImageProcessorPil(
    size={'longest_edge': 128}
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
  valid = np.ones(len(prepared.plan['token']), bool)
  plan = {k: v[None] for k, v in (prepared.plan | {'valid': valid}).items()}
  got = jax.jit(model.encode_visual)(params, prepared.pixels[None], plan)
  inputs = theirs(pictures, return_tensors='pt')
  want = published.model.get_image_features(
    inputs['pixel_values'], image_sizes=inputs['image_sizes']
  ).pooler_output
  want = torch.cat(tuple(want)) if isinstance(want, (tuple, list)) else want
  close('visual tokens', got.tokens[0], want.reshape(-1, 48))
