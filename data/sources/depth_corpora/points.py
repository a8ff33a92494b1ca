"""Rigid motions, and laser points seen by a camera."""

import numpy as np
from numpy.typing import ArrayLike

from vlm.methods.depthlm.camera import Intrinsics


def rigid(quaternion: ArrayLike, translation: ArrayLike) -> np.ndarray:
  """float64 [4, 4] from a quaternion (w, x, y, z), of any length, and metres.

  Raises:
    ValueError: for a quaternion of length zero.
  """
  w, x, y, z = np.asarray(quaternion, np.float64)
  norm = w * w + x * x + y * y + z * z
  if not norm > 0:
    raise ValueError(f'a rotation needs a quaternion, got {quaternion}')
  s = 2 / norm
  motion = np.eye(4)
  motion[:3, :3] = [
    [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
    [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
    [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
  ]
  motion[:3, 3] = translation
  return motion


def inverse(motion: np.ndarray) -> np.ndarray:
  """The motion back, [4, 4]."""
  rotation, translation = motion[:3, :3], motion[:3, 3]
  back = np.eye(4)
  back[:3, :3] = rotation.T
  back[:3, 3] = -rotation.T @ translation
  return back


def move(motion: np.ndarray, points: np.ndarray) -> np.ndarray:
  """Points [N, 3] after a motion [4, 4], float64."""
  return points @ motion[:3, :3].T + motion[:3, 3]


def image_points(points: np.ndarray, camera: Intrinsics) -> np.ndarray:
  """Image coordinates [N, 2] of camera-frame points [N, 3] before a pinhole."""
  with np.errstate(divide='ignore', invalid='ignore'):
    plane = points[:, :2] / points[:, 2:]
    return plane * camera[:2] + camera[2:4]


def seen(
  places: np.ndarray, points: np.ndarray, camera: Intrinsics
) -> np.ndarray:
  """Which points [N, 3] lie in front, at image places [N, 2] inside, bool."""
  with np.errstate(invalid='ignore'):
    inside = (places >= 0) & (places < camera[4:])
    return inside.all(1) & (points[:, 2] > 0)


def nearest(pixels: np.ndarray, distance: np.ndarray) -> np.ndarray:
  """Indices of the nearest point of every pixel [N, 2], ordered by pixel."""
  order = np.lexsort([distance, pixels[:, 0], pixels[:, 1]])
  ordered = pixels[order]
  first = np.ones(len(order), bool)
  first[1:] = (ordered[1:] != ordered[:-1]).any(1)
  return order[first]


def visible(
  points: np.ndarray, camera: Intrinsics, kind: str = 'range'
) -> tuple[np.ndarray, np.ndarray]:
  """Pixels int64 [N, 2] and depths float64 [N] of camera-frame points.

  Of the points that fall on one pixel the nearest counts: the others are
  behind it. `kind` is 'range' or 'z'.
  """
  places = image_points(points, camera)
  kept = seen(places, points, camera)
  pixels = np.floor(places[kept]).astype(np.int64)
  if kind == 'z':
    depth = points[kept, 2]
  else:
    depth = np.linalg.norm(points[kept], axis=1)
  chosen = nearest(pixels, depth)
  return pixels[chosen], depth[chosen]
