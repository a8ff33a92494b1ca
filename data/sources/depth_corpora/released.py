"""Straight images as the released scripts make them, for 'official' labels.

They move the principal point or keep other lens terms than the calibration
has, and straighten 24 megapixels at once; rows with correct labels go through
`vlm.methods.depthlm.rectify`.
"""

import numpy as np
from numpy.typing import ArrayLike

from vlm.methods.depthlm.camera import Intrinsics
from vlm.methods.depthlm.lens import Lens

_BAND = 64  # rows at a time: maps of a 24-megapixel image fill gigabytes


def straighten(
  image: np.ndarray, source: Intrinsics, lens: Lens, target: Intrinsics
) -> np.ndarray:
  """The picture a pinhole `target` in the same place would take.

  Bilinear; black where the lens did not look.

  Args:
    image: uint8 [H, W, 3] of camera `source` behind `lens`.
    source: intrinsics of `image`.
    lens: what bends it.
    target: intrinsics of the result.

  Returns:
    uint8 [target H, target W, 3].
  """
  out = np.zeros((target.height, target.width, 3), np.uint8)
  x = (np.arange(target.width) + 0.5 - target.cx) / target.fx
  for top in range(0, target.height, _BAND):
    y = np.arange(top, min(top + _BAND, target.height)) + 0.5 - target.cy
    grid = np.stack(np.broadcast_arrays(x, y[:, None] / target.fy, 1.0), -1)
    places = lens.distort(grid.reshape(-1, 3)) * source[:2] + source[2:4]
    colours = _bilinear(image, places - 0.5)
    out[top : top + len(y)] = colours.reshape(len(y), target.width, 3)
  return out


def _bilinear(image, places):
  """Values at places [N, 2], 0 where a neighbour is missing."""
  height, width = image.shape[:2]
  with np.errstate(invalid='ignore'):
    inside = (places > -0.5) & (places < (width - 0.5, height - 0.5))
    inside = inside.all(1)
  places = np.where(inside[:, None], places, 0.0)
  places = np.clip(places, 0, (width - 1, height - 1))
  corner = np.minimum(places.astype(np.int64), (width - 2, height - 2))
  corner = np.maximum(corner, 0)
  (x, y), (a, b) = corner.T, (places - corner).T[..., None]
  right, below = np.minimum(x + 1, width - 1), np.minimum(y + 1, height - 1)
  top = image[y, x] * (1 - a) + image[y, right] * a
  bottom = image[below, x] * (1 - a) + image[below, right] * a
  mixed = np.rint(top * (1 - b) + bottom * b)
  return np.where(inside[:, None], mixed, 0).astype(np.uint8)


def bent_places(
  pixels: ArrayLike, target: Intrinsics, lens: Lens, source: Intrinsics
) -> np.ndarray:
  """Where centres of straight pixels [N, 2] lie in the bent image, [N, 2]."""
  plane = (np.asarray(pixels, np.float64) + 0.5 - target[2:4]) / target[:2]
  rays = np.concatenate([plane, np.ones_like(plane[:, :1])], 1)
  return lens.distort(rays) * source[:2] + source[2:4]
