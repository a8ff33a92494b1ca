"""What the labels of a row mean: rays, ranges, points, whatever the lens.

A row (data/sources/depth.py) labels pixels with metres of one of two kinds.
  range  d = |P|, the distance to the camera centre
  z      P_z, the depth along the optical axis
With the unit ray r of the label's pixel, P = d r and z = d r_z, exactly.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlm.methods.depthlm import camera
from vlm.methods.depthlm.lens import PINHOLE


def directions(row: Mapping[str, Any]) -> np.ndarray:
  """Unit rays of a row's labels in the camera frame, [N, 3] float64.

  NaN where no ray of the lens arrives at the pixel.

  Raises:
    ValueError: a pixel outside the image.
  """
  if 'directions' in row:  # of a picture that has been undistorted
    return row['directions']
  source = camera.repaired(row['intrinsics'])
  pixels = np.asarray(row['pixel_coords'], np.float64).reshape(-1, 2)
  outside = ((pixels < 0) | (pixels >= source[4:])).any(1)
  if outside.any():
    raise ValueError(
      f'pixel {pixels[outside][0].tolist()} lies outside the {source.width} x '
      f'{source.height} image; repair pixel_coords'
    )
  centres = (pixels + 0.5 - source[2:4]) / source[:2]
  return row.get('lens', PINHOLE).undistort(centres)


def ranges(row: Mapping[str, Any]) -> np.ndarray:
  """The labels of a row as distances to the camera centre, [N] metres.

  Raises:
    ValueError: an unknown kind, or a label that is no positive number.
  """
  depth = np.asarray(row['depth'], np.float64)
  if 'directions' in row:  # checked when it was undistorted
    return depth
  wrong = ~(np.isfinite(depth) & (depth > 0))
  if wrong.any():
    raise ValueError(
      f'depth {depth[wrong][0]}, expected finite positive metres; drop the '
      'label'
    )
  kind = row['depth_kind']
  if kind == 'range':
    return depth
  if kind != 'z':
    raise ValueError(f"depth_kind must be 'range' or 'z', got {kind!r}")
  if row.get('lens', PINHOLE).is_pinhole:
    source = camera.repaired(row['intrinsics'])
    return camera.z_to_range(depth, row['pixel_coords'], source)
  along = directions(row)[:, 2]
  with np.errstate(divide='ignore', invalid='ignore'):
    return np.where(along > 0, depth / along, np.nan)


def axial(row: Mapping[str, Any]) -> np.ndarray:
  """The labels of a row as depths along the optical axis, [N] metres."""
  if row['depth_kind'] == 'z':
    ranges(row)  # its checks
    return np.asarray(row['depth'], np.float64)
  return ranges(row) * directions(row)[:, 2]


def points(row: Mapping[str, Any]) -> np.ndarray:
  """The labelled points in the camera frame, [N, 3] metres."""
  return ranges(row)[:, None] * directions(row)
