"""From a picture through a real lens to the pinhole picture of its middle.

The focal normalisation is a law of pinholes. Here every pixel of a pinhole
camera with the same K looks up where the lens put its ray (the forward map) and
is interpolated there; labels go the other way, through the exact inverse. The
two directions agree, which is what one released script got wrong (spec 10.2).
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlm.methods.depthlm import camera, labels
from vlm.methods.depthlm.lens import PINHOLE, Lens


def rectified(row: Mapping[str, Any]) -> Mapping[str, Any]:
  """The row as a pinhole of the same K would have seen it.

  Labels keep their own rays and become ranges; a label outside the pinhole's
  picture moves to (-1, -1), where nothing can be asked. Where the lens saw
  nothing the picture is black.

  Returns:
    The row itself when its lens is a pinhole.
  """
  lens = row.get('lens', PINHOLE)
  if lens.is_pinhole:
    return row
  source = camera.repaired(row['intrinsics'])
  rays = labels.directions(row)
  out = {k: v for k, v in row.items() if k != 'lens'}
  if 'image' in row:
    if row['image'].shape[:2] != (source.height, source.width):
      raise ValueError(
        f'image is {row["image"].shape[1]} x {row["image"].shape[0]} but its '
        f'intrinsics say {source.width} x {source.height}'
      )
    out['image'] = _sampled(row['image'], *_source_places(source, lens))
  return out | {
    'pixel_coords': _pixels(rays, source),
    'depth': labels.ranges(row),
    'depth_kind': 'range',
    'directions': rays,
  }


def _pixels(rays, pinhole: camera.Intrinsics) -> np.ndarray:
  """Pinhole pixels of unit rays, [N, 2] int64; (-1, -1) where not seen."""
  with np.errstate(divide='ignore', invalid='ignore'):
    place = rays[:, :2] / rays[:, 2:] * pinhole[:2] + pinhole[2:4]
    inside = (rays[:, 2:] > 0) & (place >= 0) & (place < pinhole[4:])
  seen = inside.all(1, keepdims=True)
  return np.where(seen, np.floor(np.where(seen, place, 0)), -1).astype(np.int64)


@functools.lru_cache(maxsize=8)  # a log's pictures share a few cameras
def _source_places(pinhole: camera.Intrinsics, lens: Lens):
  """Where each pinhole pixel lies in the lens's picture.

  Returns:
    The upper left of four neighbours [H, W, 2] int32, the weight of the lower
    right [H, W, 2] float32, and whether the lens saw the pixel [H, W] bool.
  """
  width, height = pinhole[4:]
  rays = np.ones((height, width, 3))
  rays[..., 0] = (np.arange(width) + 0.5 - pinhole.cx) / pinhole.fx
  rays[..., 1] = ((np.arange(height) + 0.5 - pinhole.cy) / pinhole.fy)[:, None]
  places = lens.distort(rays.reshape(-1, 3)) * pinhole[:2] + pinhole[2:4]
  places = places.reshape(height, width, 2)
  with np.errstate(invalid='ignore'):
    seen = ((places >= 0) & (places < pinhole[4:])).all(-1)
  # Pixel i is at i + 0.5; the outer half pixel repeats the edge.
  grid = np.where(seen[..., None], places - 0.5, 0)
  grid = np.clip(grid, 0, np.array(pinhole[4:]) - 1)
  corner = np.minimum(np.floor(grid), np.maximum(np.array(pinhole[4:]) - 2, 0))
  weight = (grid - corner).astype(np.float32)
  return corner.astype(np.int32), weight, seen


def _sampled(image, corner, weight, seen) -> np.ndarray:
  """Bilinear interpolation, uint8 [H, W, 3]."""
  x, y = corner[..., 0], corner[..., 1]
  right = np.minimum(x + 1, image.shape[1] - 1)
  below = np.minimum(y + 1, image.shape[0] - 1)
  u, v = weight[..., :1], weight[..., 1:]
  upper = image[y, x] * (1 - u) + image[y, right] * u
  lower = image[below, x] * (1 - u) + image[below, right] * u
  out = np.rint(upper * (1 - v) + lower * v).astype(np.uint8)
  out[~seen] = 0
  return out
