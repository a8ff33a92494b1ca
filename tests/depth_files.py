"""Tiny depth rows on disk: two data sets, a lens, and what can go wrong."""

import json
import pathlib

import numpy as np

from data.sources.depth import write_rows
from tests import tiny_checkpoint
from vlm.methods.depthlm.camera import Intrinsics
from vlm.methods.depthlm.lens import Lens

WIDTH, HEIGHT = 64, 48
PIXELS = [
  [20, 20],
  [33, 24],
  [2, 2],
  [50, 30],
]  # the third is too near the edge


def rows() -> list[dict]:
  """Three pictures of four labels; the last one through a lens, labels in z."""
  made = []
  for number in range(3):
    picture = tiny_checkpoint.picture(HEIGHT, WIDTH, number)
    row = {
      'image': np.asarray(picture),
      'intrinsics': Intrinsics(40.0, 40.0, 32.0, 24.0, WIDTH, HEIGHT),
      'pixel_coords': np.array(PIXELS),
      'depth': np.array([1.5, 3.0, 7.0, 12.0]) + number,
      'depth_kind': 'z' if number == 2 else 'range',
      'dataset': ('hall', 'hall', 'street')[number],
    }
    if number == 2:
      row['lens'] = Lens('brown_conrady', (-0.05, 0.01, 0.0, 0.0))
    made.append(row)
  return made


def write(folder: pathlib.Path) -> pathlib.Path:
  """rows.jsonl with the rows above; returns its path."""
  return pathlib.Path(write_rows(folder, rows()))


def write_bad(folder: pathlib.Path) -> pathlib.Path:
  """As above, then a damaged picture, and a row with a depth of 0."""
  path = write(folder)
  lines = path.read_text().splitlines()
  whole = (folder / 'images/000000.png').read_bytes()
  (folder / 'images/cut.png').write_bytes(whole[: len(whole) // 2])
  cut = json.loads(lines[0]) | {'image': 'images/cut.png'}
  zero = json.loads(lines[0]) | {'depth': [1.0, 2.0, 3.0, 0.0]}
  path.write_text('\n'.join([*lines, json.dumps(cut), json.dumps(zero)]))
  return path
