"""A whole checkpoint folder of a few kilobytes, as a hub would serve it."""

import json
import pathlib

import numpy as np
from PIL import Image

from data.chat import char_tokenizer

SPECIALS = (
  '<|endoftext|>',
  '<|im_start|>',
  '<|im_end|>',
  '<|vision_start|>',
  '<|vision_end|>',
  '<|image_pad|>',
  '<|video_pad|>',
)
LETTERS = tuple(chr(code) for code in range(32, 127)) + ('\n',)
TEMPLATE = (
  '{% for m in messages %}<|im_start|>{{ m.role }}\n'
  '{% if m.content is string %}{{ m.content }}{% else %}'
  '{% for part in m.content %}'
  "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
  "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
  '{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n'
  '{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'
)


def write(folder: pathlib.Path) -> pathlib.Path:
  """Writes a random Qwen2.5-VL with tokenizer, template and processor."""
  import torch
  import transformers

  torch.manual_seed(0)
  token = {text: number for number, text in enumerate(SPECIALS)}
  rope = dict(rope_type='default', rope_theta=1e6, mrope_section=[2, 3, 3])
  config = transformers.Qwen2_5_VLConfig(
    text_config=dict(
      vocab_size=len(SPECIALS) + len(LETTERS), hidden_size=64,
      intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
      num_key_value_heads=2, rope_parameters=rope, eos_token_id=2,
    ),
    vision_config=dict(
      depth=2, hidden_size=32, num_heads=4, intermediate_size=48,
      out_hidden_size=64, fullatt_block_indexes=[1], window_size=56,
    ),
    image_token_id=token['<|image_pad|>'],
    video_token_id=token['<|video_pad|>'],
    vision_start_token_id=token['<|vision_start|>'],
    vision_end_token_id=token['<|vision_end|>'],
    tie_word_embeddings=False,
  )  # fmt: skip
  model = transformers.Qwen2_5_VLForConditionalGeneration(config)
  model.generation_config.eos_token_id = token['<|im_end|>']
  model.save_pretrained(folder)
  char_tokenizer(LETTERS, SPECIALS).save(str(folder / 'tokenizer.json'))
  settings = {'chat_template': TEMPLATE, 'eos_token': '<|im_end|>'}
  (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
  pixels = {'min_pixels': 28 * 28, 'max_pixels': 28 * 28 * 12}
  (folder / 'preprocessor_config.json').write_text(json.dumps(pixels))
  return folder


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
  """Noise of a size."""
  shape = (height, width, 3)
  values = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
  return Image.fromarray(values)
