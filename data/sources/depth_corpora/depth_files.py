"""Depth in the files that corpora publish."""

import io

import numpy as np
from etils import epath
from PIL import Image

from data.image import DAMAGE
from data.records import BadRecord
from data.sources.depth_corpora.frames import read_bytes


def read_grey(path: epath.Path) -> np.ndarray:
  """A one-channel png of 8 or 16 bits, as stored, uint16 [H, W].

  Raises:
    BadRecord: 'missing depth', or 'bad depth' for a damaged or colour file.
  """
  encoded = read_bytes(path, 'missing depth')
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      mode, values = image.mode, np.asarray(image)
  except DAMAGE as e:
    raise BadRecord('bad depth', f'{path}: {e}') from e
  if values.ndim != 2 or values.min(initial=0) < 0 or mode in ('F', 'P', '1'):
    raise BadRecord(
      'bad depth', f'{path} is a {mode} image, expected 8 or 16 bits of grey'
    )
  return values.astype(np.uint16)


def read_floats(path: epath.Path, width: int, height: int) -> np.ndarray:
  """Raw little-endian float32, row by row, [H, W].

  Raises:
    BadRecord: 'missing depth', or 'mismatched labels' for another length.
  """
  encoded = read_bytes(path, 'missing depth')
  if len(encoded) != 4 * width * height:
    raise BadRecord(
      'mismatched labels',
      f'{path} has {len(encoded)} bytes, expected {4 * width * height} for '
      f'{width} x {height} float32',
    )
  return np.frombuffer(encoded, '<f4').reshape(height, width)
