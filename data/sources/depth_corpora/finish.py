"""From a frame to a row: one image file and its plain fields."""

import io
from typing import Any

import numpy as np
from PIL import Image

from data.image import DAMAGE, MAX_PIXELS, open_image
from data.records import BadRecord
from data.sources import depth_fields
from data.sources.depth_corpora import frames
from vlm.methods.depthlm import camera, rectify

LENSES = ('straighten', 'keep')
QUALITY = 95  # of jpgs, where an image had to be resampled
_ORIENTATION = 0x0112  # EXIF


def to_row(
  frame: frames.DepthFrame,
  per_image: int,
  lenses: str = 'straighten',
  max_focal: float | int = 0,
) -> tuple[bytes, str, dict[str, Any]]:
  """Shrinks, straightens and checks a frame.

  The image keeps its published bytes where its pixels stay the same.

  Args:
    frame: as its reader gives it.
    per_image: labels to keep, the first usable ones.
    lenses: one of `LENSES`.
    max_focal: pixels; a longer focal length is shrunk to it; 0 keeps it.

  Returns:
    Bytes of an image file, its suffix, and the row without `image`.

  Raises:
    BadRecord: 'corrupt image', 'bad intrinsics', or 'bad depth' when no label
      is left.
  """
  image, suffix = _stored_pixels(frame.image)
  row = _sized(frame, image)
  row = _shrunk(row, max_focal)
  if lenses == 'straighten':
    row = rectify.rectified(row)
  pixels = row['pixel_coords']
  usable = frames.between(row['depth'], 0, np.inf)
  usable &= ((pixels >= 0) & (pixels < row['intrinsics'][4:])).all(1)
  chosen = np.flatnonzero(usable)[:per_image]
  if not chosen.size:
    raise BadRecord('bad depth', 'no pixel has a usable depth')
  row = {**row, 'pixel_coords': pixels[chosen], 'depth': row['depth'][chosen]}
  record = depth_fields.plain_row(row)
  if suffix and row['image'] is image:
    return frame.image, suffix, record
  return _encode(row['image']), '.jpg', record


def _sized(frame, image):
  """The frame as a decoded row."""
  intrinsics = frame.intrinsics
  if intrinsics[4:] != (image.shape[1], image.shape[0]):
    raise BadRecord(
      'bad intrinsics',
      f'they are for {intrinsics.width} x {intrinsics.height} pixels but the '
      f'image has {image.shape[1]} x {image.shape[0]}',
    )
  row = {
    'image': image,
    'intrinsics': intrinsics,
    'pixel_coords': frame.pixels,
    'depth': frame.depth,
    'depth_kind': frame.depth_kind,
  }
  if not frame.lens.is_pinhole:
    row['lens'] = frame.lens
  if frame.pose is not None:
    row['world_from_camera'] = frame.pose
  if frame.timestamp is not None:
    row['timestamp'] = frame.timestamp
  return row


def _shrunk(row, max_focal):
  intrinsics = row['intrinsics']
  if not 0 < max_focal < intrinsics.fx:
    return row
  geometry = camera.normalise(intrinsics, max_focal, 'aniso')
  return {
    **row,
    'image': geometry.apply(row['image']),
    'intrinsics': geometry.target,
    'pixel_coords': geometry.map_pixels(row['pixel_coords']),
  }


def _stored_pixels(image):
  """uint8 [H, W, 3] and the suffix of its file; '' when it must be written.

  Calibrations and depth belong to the pixels as stored. Readers of rows turn
  an image upright by its EXIF tag, so that a tag that turns must go.
  """
  if isinstance(image, np.ndarray):
    return image, ''
  try:
    with Image.open(io.BytesIO(image)) as opened:
      suffix = {'JPEG': '.jpg', 'PNG': '.png'}.get(opened.format, '')
      turned = opened.getexif().get(_ORIENTATION, 1) != 1
      if turned and opened.width * opened.height <= MAX_PIXELS:
        return np.asarray(opened.convert('RGB')), ''
  except DAMAGE as e:
    raise BadRecord('corrupt image', f'encoded bytes: {e}') from e
  return np.asarray(open_image(image)), suffix


def _encode(image):
  buffer = io.BytesIO()
  picture = Image.fromarray(image)
  picture.save(buffer, 'JPEG', quality=QUALITY, subsampling=0)
  return buffer.getvalue()
