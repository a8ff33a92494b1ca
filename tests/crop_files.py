"""Pictures of one colour with Visual Genome's, Karpathy's and tower's files."""

import json
import pathlib

from PIL import Image

from tests import mask_files, rali_files
from tests.mask_files import box

COLOURS = {'red': (220, 20, 20), 'dog': (20, 200, 30), 'car': (30, 30, 220)}


def write(root: pathlib.Path) -> pathlib.Path:
  """A tiny DINOv2, and pictures of one colour whose word is known."""
  import torch
  import transformers

  torch.manual_seed(0)
  config = transformers.Dinov2Config(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28,
    patch_size=14, mlp_ratio=2,
  )  # fmt: skip
  tower = transformers.Dinov2Model(config)
  with torch.no_grad():
    for value in tower.parameters():
      value.add_(0.2 * torch.randn(value.shape))
  tower.save_pretrained(root / 'dino')
  facts = rali_files.PREPROCESSOR | dict(
    image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
  )
  (root / 'dino/preprocessor_config.json').write_text(json.dumps(facts))
  images, rows = {}, []
  for number, (word, colour) in enumerate(COLOURS.items()):
    for name in (f'{number}.jpg', f'test{number}.jpg'):
      Image.new('RGB', (100, 80), colour).save(root / name)
    images[number] = (None, [box([word], (10, 10, 60, 50))])
    rows.append((f'test{number}.jpg', 'test', None, [f'a {word}'] * 5))
  images[3] = (None, [box(['man'])])  # its picture is missing
  mask_files.write_genome(root / 'vg', images)
  mask_files.write_karpathy(root / 'dataset.json', rows)
  mask_files.write_text(root / 'v.txt', mask_files.WORDS, mask_files.vectors())
  return root
