"""Matterport3D, undistorted images (Chang et al., 3DV 2017).

  SCAN/undistorted_color_images/*.jpg
  SCAN/undistorted_depth_images/*.png         4000 = 1 m along the axis
  SCAN/undistorted_camera_parameters/SCAN.conf
      intrinsics_matrix fx 0 cx 0 fy cy 0 0 1
      scan DEPTH COLOUR camera-to-world        -z forward, 16 numbers

The corpus counts rows from the bottom of the image, so cy becomes H - cy; the
scripts released with DepthLM take it from the top.
"""

import functools
from collections.abc import Iterator

import numpy as np
from etils import epath

from data.records import BadRecord
from data.sources.depth_corpora import depth_files, frames

METRES = 1 / 4000
NEAR, FAR = 0.05, 50.0  # of the range, metres, as released
MIN_VALID = 50  # pixels, as released
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # from -z forward to +z forward


def _scenes(source: epath.Path, split: str) -> list[frames.Scene]:
  del split
  found = frames.find(source, 'undistorted_camera_parameters/*.conf', 3)
  return [frames.Scene(epath.Path(p).stem, p) for p in found]


def _frames(
  source: epath.Path, scene: frames.Scene, official: bool
) -> Iterator[tuple[str, frames.Read]]:
  conf = source / scene.data
  numbers = None
  for line in conf.read_text().splitlines():
    words = line.split()
    if words[:1] == ['intrinsics_matrix']:
      numbers = [float(words[1 + i]) for i in (0, 4, 2, 5)]
    elif words[:1] == ['scan']:
      yield (
        words[2].removesuffix('.jpg'),
        functools.partial(
          _read, conf.parent.parent, numbers, words[1:], official
        ),
      )


def _read(root, numbers, words, official, draw):
  if numbers is None:
    raise BadRecord('bad intrinsics', 'no intrinsics_matrix before this scan')
  depth_name, image_name, *motion = words
  raw = depth_files.read_grey(root / 'undistorted_depth_images' / depth_name)
  image = frames.read_bytes(root / 'undistorted_color_images' / image_name)
  height, width = raw.shape
  if np.count_nonzero(raw) < MIN_VALID:
    raise BadRecord('bad depth', f'fewer than {MIN_VALID} pixels have depth')
  fx, fy, cx, cy = numbers
  pixels = draw.pixels(raw > 0)
  z = frames.at(raw, pixels) * METRES
  if official:
    camera = frames.stated(fx, fy, cx, cy, width, height)
    depth = frames.official_ranges(z, pixels, camera)
  else:
    camera = frames.stated(fx, fy, cx, height - cy, width, height)
    depth = frames.ranges(z, pixels, camera)
  kept = (depth >= NEAR) & (depth <= FAR)
  pose = np.array(motion, np.float64).reshape(4, 4) @ _FLIP
  return frames.DepthFrame(image, camera, pixels[kept], depth[kept], pose=pose)


CORPUS = frames.Corpus(
  'SCAN/undistorted_{color_images,depth_images,camera_parameters}/*',
  ('full',),
  _scenes,
  _frames,
)
