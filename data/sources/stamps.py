"""Captioned stamps of Tux Paint: cut-out photographs and drawings.

  apt-get install tuxpaint-stamps-default

or unpack the package anywhere (dpkg-deb -x FILE.deb DIR); $VLM_DEBIAN names
that folder, / by default. Beside X.png stands X.txt, whose first line is the
English caption. The pictures are GPL-2: read where they are, never shipped.
"""

import os
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image

FOLDER = 'usr/share/tuxpaint/stamps'
# Folders that show no thing: letters, signs, and cartoons of Tux.
LEFT_OUT = ('alphabet', 'symbols', 'cartoon')
GROUND = 235  # grey behind a cut-out


class Stamp(NamedTuple):
  """A picture's file and its caption."""

  path: pathlib.Path
  caption: str


def installed() -> list[Stamp]:
  """Stamps with a caption, by path; none if the package is not there."""
  root = pathlib.Path(os.environ.get('VLM_DEBIAN', '/')) / FOLDER
  if not root.exists():
    return []
  found = []
  for path in sorted(root.rglob('*.png')):
    parts = path.relative_to(root).parts
    text = path.with_suffix('.txt')
    if any(part.startswith(LEFT_OUT) for part in parts) or not text.exists():
      continue
    lines = text.read_text(encoding='utf-8', errors='replace').splitlines()
    if lines and lines[0].strip():
      found.append(Stamp(path, lines[0].strip()))
  return found


def picture(stamp: Stamp, side: int) -> np.ndarray:
  """The stamp in a square of light grey: uint8 [side, side, 3]."""
  with stamp.path.open('rb') as file, Image.open(file) as opened:
    image = opened.convert('RGBA')
  image.thumbnail((side, side), Image.Resampling.LANCZOS)
  ground = Image.new('RGBA', (side, side), (GROUND,) * 3 + (255,))
  place = (side - image.width) // 2, (side - image.height) // 2
  ground.alpha_composite(image, place)
  return np.asarray(ground.convert('RGB'))
