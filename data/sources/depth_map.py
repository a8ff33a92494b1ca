"""Depth pictures on disk, as float metres."""

import dataclasses
import io

import numpy as np
from etils import epath
from PIL import Image

from data.records import BadRecord


@dataclasses.dataclass(frozen=True)
class DepthMap:
  """Where the dense depth of a row lies.

  Attributes:
    path: of an .npy array [H, W], or a 16-bit PNG or float TIFF picture.
    metres_per_unit: factor from stored values to metres.
  """

  path: epath.Path
  metres_per_unit: float = 1.0

  def read(self) -> np.ndarray:
    """float32 [H, W] in metres, of the row's depth kind; NaN where unknown.

    Raises:
      BadRecord: 'missing image' or 'corrupt image', also for 8-bit pictures,
        which hold no depth.
    """
    values = _read(self.path).astype(np.float64) * self.metres_per_unit
    known = np.isfinite(values) & (values > 0)
    return np.where(known, values, np.nan).astype(np.float32)


def _read(path) -> np.ndarray:
  try:
    data = path.read_bytes()
  except OSError as e:
    raise BadRecord('missing image', f'{path}: {e}') from e
  try:
    if path.suffix == '.npy':
      values = np.load(io.BytesIO(data), allow_pickle=False)
    else:
      values = np.asarray(Image.open(io.BytesIO(data)))
  except (OSError, ValueError) as e:
    raise BadRecord('corrupt image', f'{path}: {e}') from e
  if values.ndim != 2 or values.dtype in (np.uint8, np.bool_):
    raise BadRecord(
      'corrupt image',
      f'{path}: {values.dtype} {list(values.shape)}, expected depth [H, W] '
      'in 16 bits or floats',
    )
  return values
