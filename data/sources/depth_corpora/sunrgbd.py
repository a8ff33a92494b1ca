"""SUN RGB-D (Song et al., CVPR 2015), all sensors but the NYU folders.

  SUNRGBD/kv2/kinect2data/000002_.../image/*.jpg
                                     depth/*.png       as recorded
                                     depth_bfx/*.png   holes filled
                                     intrinsics.txt    3 x 3

The toolbox stores millimetres rotated left by three bits, so that a file value
is 8000 per metre; the scripts released with DepthLM divide by 10000 and their
ranges are 0.8 of the truth. Calibrations count from pixel centres.
"""

import functools
from collections.abc import Iterator

import numpy as np
from etils import epath

from data.records import BadRecord
from data.sources.depth_corpora import depth_files, frames

OFFICIAL_UNITS = 10_000.0
NEAR, FAR = 0.005, 25.0  # metres, exclusive, as released
_CHUNK = 100


def decode(raw: np.ndarray) -> np.ndarray:
  """File values uint16 -> metres: three bits rotated right, then mm."""
  return ((raw >> 3) | (raw << 13)).astype(np.float64) / 1000


def folders(source: epath.Path) -> list[str]:
  """Every folder with an intrinsics.txt, relative and sorted."""
  found = frames.find(source, 'intrinsics.txt', levels=6)
  return [name.rpartition('/')[0] for name in found]


def read(
  source: epath.Path,
  folder: str,
  kind: str,
  official: bool,
  draw: frames.LabelDraw,
) -> frames.DepthFrame:
  """One folder; `kind` is 'depth' or 'depth_bfx'."""
  place = source / folder
  raw = depth_files.read_grey(_only_file(place / kind, 'missing depth'))
  image = frames.read_bytes(_only_file(place / 'image', 'missing image'))
  size = raw.shape[1], raw.shape[0]
  numbers = _calibration(place / 'intrinsics.txt')
  z = raw / OFFICIAL_UNITS if official else decode(raw)
  pixels = draw.pixels(frames.between(z, NEAR, FAR))
  z = frames.at(z, pixels)
  if official:
    camera = frames.stated(*numbers, *size)
    depth = frames.official_ranges(z, pixels, camera)
  else:
    camera = frames.centred(*numbers, *size)
    depth = frames.ranges(z, pixels, camera)
  return frames.DepthFrame(image, camera, pixels, depth)


def _only_file(folder, reason):
  files = sorted(p for p in folder.glob('*') if not p.name.startswith('.'))
  if not files:
    raise BadRecord(reason, f'{folder} is empty')
  return files[0]


def _calibration(path):
  text = frames.read_bytes(path, 'bad intrinsics').decode()
  numbers = [float(n) for n in text.split()]
  if len(numbers) != 9:
    raise BadRecord(
      'bad intrinsics', f'{path} has {len(numbers)} numbers, expected 9'
    )
  return [numbers[i] for i in (0, 4, 2, 5)]


def _scenes(source: epath.Path, split: str) -> list[frames.Scene]:
  del split
  names = [name for name in folders(source) if 'NYU' not in name]
  return frames.chunks(names, _CHUNK)


def _frames(
  source: epath.Path, scene: frames.Scene, official: bool
) -> Iterator[tuple[str, frames.Read]]:
  for name in scene.data:
    yield name, functools.partial(read, source, name, 'depth_bfx', official)


CORPUS = frames.Corpus(
  'SUNRGBD/*/.../{image,depth_bfx,intrinsics.txt}', ('full',), _scenes, _frames
)
