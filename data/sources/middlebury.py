"""The Middlebury 2014 motorcycle photograph with its real metric depth.

Source: Scharstein et al., "High-resolution stereo datasets with
subpixel-accurate ground truth" (GCPR 2014), at quarter resolution as shipped
in scikit-image's wheel; read from the installed package, nothing is fetched.
"""

import dataclasses
import importlib.util
import pathlib

import numpy as np
from PIL import Image

FOCAL = 994.978  # pixels, fx = fy
CENTRE = (311.193, 254.877)
BASELINE = 0.193001  # metres
DISPARITY_SHIFT = 31.086  # cx of the right camera minus cx of the left, pixels


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


def package_folder() -> pathlib.Path:
  """skimage/data of the installed scikit-image, found without importing it."""
  found = importlib.util.find_spec('skimage')
  if found is None or found.origin is None:
    raise FileNotFoundError(
      'these photographs come with scikit-image, which is not '
      'installed; pip install scikit-image'
    )
  return pathlib.Path(found.origin).parent / 'data'


def motorcycle() -> DepthPhoto:
  """The left photograph, 741 x 500, 2.1 to 5.0 m, 92.7 % of it labelled.

  z = baseline * focal / (disparity + shift). The calibration counts from pixel
  centres, so half a pixel is added to the principal point for our convention.

  Raises:
    FileNotFoundError: when scikit-image or its two files are not installed.
  """
  folder = package_folder()
  files = folder / 'motorcycle_left.png', folder / 'motorcycle_disp.npz'
  for path in files:
    if not path.exists():
      raise FileNotFoundError(
        f'{path} is missing from this scikit-image; version 0.26 ships it'
      )
  with Image.open(files[0]) as picture:
    rgb = np.asarray(picture.convert('RGB'))
  with np.load(files[1]) as archive:
    disparity = archive['arr_0'].astype(np.float64)
  valid = np.isfinite(disparity)
  z = np.full(disparity.shape, np.nan)
  z[valid] = BASELINE * FOCAL / (disparity[valid] + DISPARITY_SHIFT)
  height, width = z.shape
  u = (np.arange(width) - CENTRE[0]) / FOCAL
  v = (np.arange(height) - CENTRE[1])[:, None] / FOCAL
  return DepthPhoto(
    rgb,
    z.astype(np.float32),
    (z * np.sqrt(1 + u**2 + v**2)).astype(np.float32),
    (FOCAL, FOCAL, CENTRE[0] + 0.5, CENTRE[1] + 0.5, width, height),
  )
