"""Middlebury photographs with their real metric depth, from stereo.

  motorcycle   Scharstein et al., "High-resolution stereo datasets with
               subpixel-accurate ground truth" (GCPR 2014), at quarter
               resolution as shipped in scikit-image's wheel
  aloe         Scharstein and Pal, "Learning conditional random fields for
               stereo" (CVPR 2007), the 2006 sets, as shipped in Debian's
               opencv-doc

Both are read from the installed package; nothing is fetched.
"""

import importlib.util
import pathlib

import numpy as np
from etils import epath
from PIL import Image

from data.sources.depth_photo import DepthPhoto, from_z

FOCAL = 994.978  # pixels, fx = fy
CENTRE = (311.193, 254.877)
BASELINE = 0.193001  # metres
DISPARITY_SHIFT = 31.086  # cx of the right camera minus cx of the left, pixels
# Of the 2006 sets, as published beside them; the package has the pictures only.
ALOE_FOCAL = 3740.0
ALOE_BASELINE = 0.160
ALOE_SHIFT = 270.0  # the set's dmin.txt, which was cut off from the disparities


def package_folder() -> pathlib.Path:
  """skimage/data of the installed scikit-image, found without importing it."""
  found = importlib.util.find_spec('skimage')
  if found is None or found.origin is None:
    raise FileNotFoundError(
      'the motorcycle photograph comes with scikit-image, which is not '
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
  return from_z(rgb, z, FOCAL, CENTRE)


def aloe(folder: epath.PathLike) -> DepthPhoto:
  """The left photograph, 1282 x 1110, 1.2 to 1.9 m.

  z = baseline * focal / (disparity + shift); a disparity of 0 is unknown. The
  principal point is not published: the centre is assumed, which moves a
  distance by less than 2 %.

  Args:
    folder: with aloeL.jpg and aloeGT.png.
  """
  rgb, disparity = (
    np.asarray(Image.open((epath.Path(folder) / name).open('rb')))
    for name in ('aloeL.jpg', 'aloeGT.png')
  )
  known = np.where(disparity > 0, disparity.astype(np.float64), np.nan)
  z = ALOE_BASELINE * ALOE_FOCAL / (known + ALOE_SHIFT)
  height, width = z.shape
  return from_z(rgb, z, ALOE_FOCAL, ((width - 1) / 2, (height - 1) / 2))
