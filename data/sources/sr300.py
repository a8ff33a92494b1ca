"""Thirty frames of a Creative SR300 colour and depth camera, 0.2 to 0.6 m.

A castle on a table, from the sequence mbt-depth/castel of ViSP's data set
(Debian's visp-images-data; GPL-2). Grey pictures image_%04d.pgm and depth
depth_image_%04d.bin (uint32 height, uint32 width, uint16 [H, W], 0 unknown),
which another lens sees from beside it: depth is carried over into the picture.
"""

from collections.abc import Iterator

import numpy as np
from etils import epath
from PIL import Image

from data.sources.depth_photo import DepthPhoto, from_z

UNIT = 0.000124986647  # metres
# Focal length and principal point, pixels: chateau.xml, chateau_depth.xml.
COLOUR = (615.1675, (312.1890, 243.4374))
DEPTH = (476.0536, (311.4846, 246.2832))
POSE = 'depth_M_color.txt'  # 4 x 4, moves points of the colour camera


def frames(folder: epath.PathLike) -> Iterator[DepthPhoto]:
  """The frames in order.

  Args:
    folder: mbt-depth/castel, with the pose and the folder castel of frames.

  Raises:
    FileNotFoundError: where a picture has no depth, or the pose is missing.
    ValueError: a depth file of another size than it says.
  """
  folder = epath.Path(folder)
  colour_from_depth = np.linalg.inv(
    np.loadtxt((folder / POSE).read_text().splitlines())
  )
  for path in sorted((folder / 'castel').glob('image_*.pgm')):
    with path.open('rb') as file:
      grey = np.asarray(Image.open(file))
    measured = _read_depth(path.parent / f'depth_{path.stem}.bin')
    z = carried_over(measured, colour_from_depth, grey.shape)
    yield from_z(np.repeat(grey[..., None], 3, 2), z, *COLOUR)


def _read_depth(path: epath.Path) -> np.ndarray:
  """[H, W] metres, NaN where unknown."""
  content = path.read_bytes()
  height, width = np.frombuffer(content, '<u4', count=2)
  if len(content) != 8 + 2 * int(height) * int(width):
    raise ValueError(
      f'{path}: {len(content)} bytes, expected {height} x {width} of 2 bytes '
      'behind 8'
    )
  units = np.frombuffer(content, '<u2', offset=8).reshape(height, width)
  return np.where(units > 0, units * UNIT, np.nan)


def carried_over(
  measured: np.ndarray,
  colour_from_depth: np.ndarray,
  shape: tuple[int, int],
) -> np.ndarray:
  """Depth [H, W] as the other camera sees it: the nearest point of each pixel.

  Args:
    measured: [H, W] metres along the axis of the depth camera, NaN unknown.
    colour_from_depth: [4, 4].
    shape: of the other camera's picture.

  Returns:
    Metres along that camera's axis, NaN where no point falls.
  """
  focal, centre = DEPTH
  y, x = np.nonzero(np.isfinite(measured))
  z = measured[y, x]
  seen = np.stack(
    [(x - centre[0]) / focal * z, (y - centre[1]) / focal * z, z, z * 0 + 1]
  )
  points = (colour_from_depth @ seen)[:3]
  focal, centre = COLOUR
  column, row = (
    np.rint(points[axis] / points[2] * focal + centre[axis]).astype(int)
    for axis in (0, 1)
  )
  inside = (points[2] > 0) & (column >= 0) & (row >= 0)
  inside &= (column < shape[1]) & (row < shape[0])
  nearest = np.full(shape, np.inf)
  np.minimum.at(nearest, (row[inside], column[inside]), points[2][inside])
  return np.where(np.isfinite(nearest), nearest, np.nan)
