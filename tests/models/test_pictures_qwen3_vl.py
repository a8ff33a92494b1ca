"""From pictures to visual tokens, beside the published processor and tower."""

import jax
import numpy as np
import pytest
import transformers
from PIL import Image

from data.processors.registry import processor_from_hf

pytestmark = pytest.mark.parity


@pytest.fixture(scope='module')
def pair(torch, randomise, through_disk):
  config = transformers.Qwen3VLConfig(
    text_config=dict(
      vocab_size=99, hidden_size=48, intermediate_size=64,
      num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
      head_dim=12,
      rope_parameters=dict(
        rope_type='default', rope_theta=1e6, mrope_section=[2, 2, 2],
        mrope_interleaved=True,
      ),
    ),
    vision_config=dict(
      depth=3, hidden_size=32, num_heads=4, intermediate_size=40,
      out_hidden_size=48, deepstack_visual_indexes=[0, 1],
      num_position_embeddings=64, patch_size=16,
    ),
    image_token_id=97, video_token_id=98, tie_word_embeddings=False,
    attn_implementation='eager',
  )  # fmt: skip
  published = transformers.Qwen3VLForConditionalGeneration(config)
  published = randomise(published, attention=1.5)
  return published, *through_disk(published)


def test_pictures_give_the_published_visual_tokens(pair, torch, close):
  """uint8 patches in a padded row, normalised on device; float ones there."""
  from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl

  published, model, params = pair
  theirs = image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil(
    size={'shortest_edge': 64 * 64, 'longest_edge': 32 * 32 * 30},
    patch_size=16,
    image_mean=[0.5] * 3,
    image_std=[0.5] * 3,
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
  spec = ours.row(len(prepared.pixels) + 7, seq_len=1, visual=99)
  row = {
    name.removeprefix('plan/'): np.zeros(shape, dtype)
    for name, (shape, dtype) in spec.fields().items()
  }
  sample = {'pixels': prepared.pixels, 'plan': prepared.plan}
  spec.place_visuals({'pixels': row['pixels'], 'plan': row}, [sample])
  plan = {name: value[None] for name, value in row.items()}
  got = jax.jit(model.encode_visual)(params, plan.pop('pixels'), plan)
  inputs = theirs(pictures, return_tensors='pt')
  want = published.model.get_image_features(
    inputs['pixel_values'], inputs['image_grid_thw']
  ).pooler_output
  close('visual tokens', got.tokens[0][row['valid']], torch.cat(tuple(want)))
