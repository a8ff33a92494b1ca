"""SigLIP and both CLIP towers against the published torch classes."""

import dataclasses

import jax
import numpy as np
import pytest

from vlm.models import registry
from vlm.models.encoder import normalise

pytestmark = pytest.mark.parity

VISION = dict(
  hidden_size=48, intermediate_size=72, num_hidden_layers=3,
  num_attention_heads=4, image_size=58, patch_size=14,
)  # fmt: skip
TEXT = dict(
  vocab_size=99, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
  num_attention_heads=4, max_position_embeddings=12,
)  # fmt: skip


def draw_pixels(count, side, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def published_pixels(torch, pixels, config):
  mean, std = np.array(config.pixel_mean), np.array(config.pixel_std)
  scaled = (pixels / 255 - mean) / std
  return torch.from_numpy(scaled.astype(np.float32)).permute(0, 3, 1, 2)


def test_normalising_passes_float_pixels_through():
  pixels = draw_pixels(1, 4)
  want = (pixels / 255 - 0.5) / 0.25
  got = normalise(jax.numpy.asarray(pixels), (0.5,) * 3, (0.25,) * 3)
  np.testing.assert_allclose(got, want, atol=1e-6)
  assert normalise(got, (0.5,) * 3, (0.25,) * 3) is got


def test_siglip(torch, randomise, through_disk, truncate, close):
  import transformers

  config = transformers.SiglipVisionConfig(
    **VISION, attn_implementation='eager'
  )
  published = randomise(transformers.SiglipVisionModel(config))
  model, params = through_disk(published)
  pixels = draw_pixels(2, 58)  # 58 = 4 patches of 14 and a border of 2
  want = published(
    published_pixels(torch, pixels, model.config), output_hidden_states=True
  )

  @jax.jit
  def run(params, pixels):
    layers = []
    for depth in (1, 2):
      part = dataclasses.replace(model.config, depth=depth)
      part = registry.build(part, model.runtime)
      cut = truncate(params, 'vision', depth)
      layers.append(part.encode_image(cut, pixels)[0])
    return layers, *model.encode_image(params, pixels)

  layers, states, pooled = run(params, pixels)
  for depth, ours in enumerate(layers, 1):
    theirs = published.post_layernorm(want.hidden_states[depth])
    close(f'siglip layer {depth}', ours, theirs)
  close('siglip last hidden', states, want.last_hidden_state)
  close('siglip pooler', pooled, want.pooler_output)


def test_siglip_without_a_pooling_head(torch, through_disk):
  import transformers

  config = transformers.SiglipVisionConfig(**VISION, vision_use_head=False)
  published = transformers.SiglipVisionModel(config)
  model, params = through_disk(published)
  assert 'head' not in params['vision']
  pixels = jax.ShapeDtypeStruct((2, 58, 58, 3), 'uint8')
  states, pooled = jax.eval_shape(model.encode_image, params, pixels)
  assert states.shape == (2, 16, 48) and pooled is None


@pytest.mark.parametrize(
  'act,eos', [('quick_gelu', 2), ('gelu', 97)], ids=['legacy_eos', 'eos_id']
)
def test_clip(torch, randomise, through_disk, truncate, close, act, eos):
  import transformers

  config = transformers.CLIPConfig(
    vision_config=VISION | dict(hidden_act=act),
    text_config=TEXT | dict(hidden_act=act, eos_token_id=eos),
    projection_dim=24,
    attn_implementation='eager',
  )
  published = randomise(transformers.CLIPModel(config))
  model, params = through_disk(published)
  pixels = draw_pixels(3, 58, seed=1)
  # The end token is the largest id only in the legacy rule, and with it as
  # padding too, only the first one counts.
  end = 98 if eos == 2 else eos
  tokens = np.random.default_rng(2).integers(3, 97, (2, 12)).astype(np.int32)
  tokens[0, 8:] = end
  tokens[1, 4] = end
  if eos != 2:
    tokens[:, 1] = 98
  theirs = published_pixels(torch, pixels, model.config.vision)
  want = published(
    input_ids=torch.from_numpy(tokens).long(), pixel_values=theirs
  )
  images = published.vision_model(theirs, output_hidden_states=True)
  texts = published.text_model(
    torch.from_numpy(tokens).long(), output_hidden_states=True
  )

  @jax.jit
  def run(params, pixels, tokens):
    image = model.encode_image(params, pixels)
    text = model.encode_text(params, tokens)
    first = registry.build(
      dataclasses.replace(
        model.config,
        vision=dataclasses.replace(model.config.vision, depth=1),
        text=dataclasses.replace(model.config.text, depth=1),
      ),
      model.runtime,
    )
    cut = truncate(truncate(params, 'vision', 1), 'text', 1)
    layers = first.encode_image(cut, pixels), first.encode_text(cut, tokens)
    logits = model.logits(params, image.embedding, text.embedding)
    return image, text, layers, logits

  image, text, (image_1, text_1), logits = run(params, pixels, tokens)
  norm = published.text_model.final_layer_norm
  close(f'clip {act} image layer 1', image_1.states, images.hidden_states[1])
  close(f'clip {act} text layer 1', text_1.states, norm(texts.hidden_states[1]))
  close(f'clip {act} image states', image.states, images.last_hidden_state)
  close(f'clip {act} image pooled', image.pooled, images.pooler_output)
  close(f'clip {act} text states', text.states, texts.last_hidden_state)
  close(f'clip {act} text pooled', text.pooled, texts.pooler_output)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  close(f'clip {act} image embedding', unit(image.embedding), want.image_embeds)
  close(f'clip {act} text embedding', unit(text.embedding), want.text_embeds)
  close(f'clip {act} logits', logits, want.logits_per_image)


def test_clip_says_how_long_a_text_may_be():
  from vlm.models import clip

  config = clip.ClipConfig(
    clip.ClipVisionConfig(28, 14, 8, 1, 2, 8),
    clip.ClipTextConfig(32, 5, 8, 1, 2, 8, eos_token=31),
    4,
  )
  model = registry.build(config)
  tokens = jax.ShapeDtypeStruct((1, 6), 'int32')
  with pytest.raises(ValueError, match='6 tokens, but the checkpoint has 5'):
    jax.eval_shape(model.encode_text, model.abstract_params, tokens)
