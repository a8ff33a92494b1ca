"""A photograph with a dense metric depth map."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class DepthPhoto:
  """A photograph with depth along the optical axis.

  Attributes:
    rgb: uint8 [H, W, 3].
    z: float32 [H, W] metres, NaN where unknown.
    range: float32 [H, W] metres to the camera centre, NaN where unknown.
    intrinsics: (fx, fy, cx, cy, W, H); pixel i covers [i, i + 1).
  """

  rgb: np.ndarray
  z: np.ndarray
  range: np.ndarray
  intrinsics: tuple[float, float, float, float, int, int]


def from_z(
  rgb: np.ndarray,
  z: np.ndarray,
  focal: float,
  centre: tuple[float, float],
) -> DepthPhoto:
  """The photograph of a pinhole camera with square pixels.

  Args:
    rgb: uint8 [H, W, 3].
    z: [H, W] metres, NaN where unknown.
    focal: pixels.
    centre: principal point as calibrations give it, counted from the middle of
      the first pixel; half a pixel is added for our convention.
  """
  height, width = z.shape
  u = (np.arange(width) - centre[0]) / focal
  v = (np.arange(height) - centre[1])[:, None] / focal
  return DepthPhoto(
    rgb,
    z.astype(np.float32),
    (z * np.sqrt(1 + u**2 + v**2)).astype(np.float32),
    (focal, focal, centre[0] + 0.5, centre[1] + 0.5, width, height),
  )
