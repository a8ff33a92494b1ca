"""A whole CLIP folder of a few kilobytes, as a hub would serve it."""

import json
import pathlib

from experiments.contrastive import contrastive, toy


def write(folder: pathlib.Path) -> pathlib.Path:
  """Writes a random CLIP with the toy's words, and its processor."""
  import torch
  import transformers

  tokenizer = toy.Task(contrastive.get_config('smoke')).tokenizer_json()
  vocabulary = len(json.loads(tokenizer)['model']['vocab'])
  tower = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=1,
    num_attention_heads=2,
  )  # fmt: skip
  config = transformers.CLIPConfig(
    vision_config=tower | dict(image_size=32, patch_size=16),
    text_config=tower | dict(
      vocab_size=vocabulary, max_position_embeddings=16,
      eos_token_id=vocabulary - 1,
    ),
    projection_dim=12,
  )  # fmt: skip
  torch.manual_seed(0)
  transformers.CLIPModel(config).save_pretrained(folder)
  crop = dict(size={'shortest_edge': 40}, crop_size={'height': 32, 'width': 32})
  transformers.CLIPImageProcessor(**crop).save_pretrained(folder)
  (folder / 'tokenizer.json').write_text(tokenizer)
  return folder
