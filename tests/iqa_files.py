"""Fixtures of the image-quality layouts: a few small pictures each."""

import json
import pathlib

import numpy as np
from PIL import Image


def picture(path: pathlib.Path, seed: int = 0, size=(40, 32)) -> None:
  """A picture of noise whose first pixel is its seed."""
  path.parent.mkdir(parents=True, exist_ok=True)
  values = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
  values[0, 0] = seed
  Image.fromarray(values).save(path)


def write_json(path: pathlib.Path, value) -> pathlib.Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))
  return path


def write_koniq(root: pathlib.Path) -> pathlib.Path:
  """Data-DeQA-Score's form: six images tested on, four trained on."""
  records = []
  for number in range(10):
    image = f'KONIQ/images/{number}.png'
    picture(root / image, number)
    mos = 10.0 + 8 * number
    score = 1 + 4 * number / 9
    records.append(
      {
        'id': f'{number}.png->{mos}',
        'image': image,
        'gt_score': mos,
        'gt_score_norm': score,
        'std': 9.0,
        'std_norm': 0.5,
      }
    )
  metas = root / 'KONIQ' / 'metas'
  write_json(metas / 'test_koniq_2k.json', records[::2] + records[1:2])
  train = [r | {'level_probs': [0.2] * 5} for r in records[3::2]]
  write_json(metas / 'train_koniq_7k.json', train)
  return root


def write_degradations(path: pathlib.Path) -> pathlib.Path:
  """Four images of known degradation beside their file."""
  rows = [
    ('a.png', 'blur', 'slight'),
    ('b.png', 'noise', 'obvious'),
    ('c.png', 'darken', 'catastrophic'),
    ('d.png', 'null', 'null'),
  ]
  for seed, (name, _, _) in enumerate(rows):
    picture(path.parent / name, seed)
  keys = ('image', 'distortion_class', 'severity')
  return write_json(path, [dict(zip(keys, row)) for row in rows])


def write_mos(root: pathlib.Path, folder: str, mos, split=None) -> pathlib.Path:
  """mos.json and split.json of a set, without pictures."""
  opinions = {name: {'mos': m, 'std': s} for name, (m, s) in mos.items()}
  write_json(root / folder / 'mos.json', opinions)
  if split is not None:
    write_json(root / folder / 'split.json', split)
  return root
