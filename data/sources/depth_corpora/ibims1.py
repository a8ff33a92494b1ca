"""iBims-1, the raw core set (Koch et al., ECCV workshops 2018).

  ibims1_core_raw/rgb/corridor_01.png
  ibims1_core_raw/depth/corridor_01.png         65535 = 50 m along the axis
  ibims1_core_raw/calib/corridor_01.txt         fx,fy,cx,cy or the 3 x 3 matrix
  ibims1_core_raw/mask_invalid/corridor_01.png  0 = no valid depth
  ibims1_core_raw/mask_transp/corridor_01.png   0 = transparent

The file shipped with DepthLM holds z at unshifted intrinsics, which is what
'official' gives. The calibration is taken to count from pixel centres.
"""

import functools
import re
from collections.abc import Iterator

import numpy as np
from etils import epath

from data.records import BadRecord
from data.sources.depth_corpora import depth_files, frames

METRES = 50 / 65535


def _root(source):
  inner = source / 'ibims1_core_raw'
  return inner if inner.exists() else source


def _scenes(source: epath.Path, split: str) -> list[frames.Scene]:
  del split
  names = sorted(p.stem for p in (_root(source) / 'rgb').glob('*.png'))
  places = sorted({name.rsplit('_', 1)[0] for name in names})
  return [
    frames.Scene(p, [n for n in names if n.rsplit('_', 1)[0] == p])
    for p in places
  ]


def _frames(
  source: epath.Path, scene: frames.Scene, official: bool
) -> Iterator[tuple[str, frames.Read]]:
  for name in scene.data:
    yield name, functools.partial(_read, _root(source), name, official)


def _read(root, name, official, draw):
  z = depth_files.read_grey(root / 'depth' / f'{name}.png') * METRES
  height, width = z.shape
  allowed = frames.between(z, 0, np.inf)
  for mask in ('mask_invalid', 'mask_transp'):
    path = root / mask / f'{name}.png'
    if path.exists():
      values = depth_files.read_grey(path)
      allowed &= frames.require_size(values, width, height) > 0
  pixels = draw.pixels(allowed)
  numbers = _calibration(root / 'calib' / f'{name}.txt')
  image = frames.read_bytes(root / 'rgb' / f'{name}.png')
  if official:
    camera = frames.stated(*numbers, width, height)
    return frames.DepthFrame(image, camera, pixels, frames.at(z, pixels), 'z')
  camera = frames.centred(*numbers, width, height)
  depth = frames.ranges(frames.at(z, pixels), pixels, camera)
  return frames.DepthFrame(image, camera, pixels, depth)


def _calibration(path):
  text = frames.read_bytes(path, 'bad intrinsics').decode()
  numbers = [float(n) for n in re.split(r'[,\s]+', text.strip())]
  if len(numbers) == 9:
    numbers = [numbers[i] for i in (0, 4, 2, 5)]
  if len(numbers) != 4:
    raise BadRecord(
      'bad intrinsics', f'{path} has {len(numbers)} numbers, expected 4 or 9'
    )
  return numbers


CORPUS = frames.Corpus(
  'ibims1_core_raw/{rgb,depth,calib}/*', ('val',), _scenes, _frames
)
