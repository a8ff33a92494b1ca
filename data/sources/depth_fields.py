"""The fields of a depth row: what they must be, and their decoded types."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from data.records import BadRecord, require
from vlm.methods.depthlm import camera
from vlm.methods.depthlm.lens import Lens

DEPTH_KINDS = ('range', 'z')
FIELD_NAMES = (
  'image',
  'intrinsics',
  'pixel_coords',
  'depth',
  'depth_kind',
  'camera_model',
  'distortion',
  'world_from_camera',
  'timestamp',
  'scene',
  'dataset',
  'depth_map',
)
FIELDS = frozenset(FIELD_NAMES)


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _check_labels(row, width: int, height: int) -> None:
  pixels, depth = row['pixel_coords'], row['depth']
  if len(pixels) != len(depth) or not depth:
    raise BadRecord(
      'mismatched labels',
      f'{len(pixels)} pixel_coords and {len(depth)} depths, expected equal '
      'numbers, at least one',
    )
  for pixel in pixels:
    whole = isinstance(pixel, Sequence) and len(pixel) == 2
    if not whole or not all(_is_number(v) and v == int(v) for v in pixel):
      raise BadRecord(
        'wrong type', f'pixel {pixel!r}, expected two integers [x, y]'
      )
    if not (0 <= pixel[0] < width and 0 <= pixel[1] < height):
      raise BadRecord(
        'pixel outside', f'pixel {pixel} of a {width} x {height} image'
      )
  for value in depth:
    if not _is_number(value):
      raise BadRecord('wrong type', f'depth {value!r}, expected metres')
    if not (math.isfinite(value) and value > 0):
      raise BadRecord('bad depth', f'depth {value}, expected a positive number')


def check_row(row: dict[str, Any], depth_kind: str = '') -> dict[str, Any]:
  """Checks a row whose image is decoded, and fills in its depth kind.

  Args:
    row: as on disk, but `image` is uint8 [H, W, 3], or still a path; then the
      size the intrinsics state is believed and the result has no image.
    depth_kind: used where the row does not say; '' demands that it does.

  Returns:
    A new row with repaired intrinsics and int64, float64 label arrays.

  Raises:
    BadRecord: 'wrong type', 'bad intrinsics', 'mismatched labels', 'pixel
      outside', 'bad depth' or 'bad pose'.
  """
  require(row, 'image', (str, np.ndarray))
  unknown = sorted(set(row) - FIELDS)
  if unknown:
    raise BadRecord(
      'wrong type', f'unknown fields {unknown}, expected some of {FIELD_NAMES}'
    )
  intrinsics = _intrinsics(row)
  require(row, 'pixel_coords', list)
  require(row, 'depth', list)
  _check_labels(row, *intrinsics[4:])
  kind = row.get('depth_kind', depth_kind)
  if kind not in DEPTH_KINDS:
    raise BadRecord(
      'wrong type',
      f'depth_kind {kind!r}, expected one of {DEPTH_KINDS}; files without '
      'that field need the depth_kind argument',
    )
  out = {
    'intrinsics': intrinsics,
    'pixel_coords': np.array(row['pixel_coords'], np.int64),
    'depth': np.array(row['depth'], np.float64),
    'depth_kind': kind,
  }
  if isinstance(row['image'], np.ndarray):
    out['image'] = row['image']
  return out | _optional(row)


def _intrinsics(row) -> camera.Intrinsics:
  numbers = require(row, 'intrinsics', list)
  if not all(_is_number(n) for n in numbers):
    raise BadRecord('wrong type', f'intrinsics {numbers}, expected numbers')
  try:
    intrinsics = camera.repaired(numbers)
  except ValueError as e:
    raise BadRecord('bad intrinsics', str(e)) from e
  if isinstance(row['image'], np.ndarray):
    height, width = row['image'].shape[:2]
    if intrinsics[4:] != (width, height):
      raise BadRecord(
        'bad intrinsics',
        f'they are for {intrinsics.width} x {intrinsics.height} pixels but the '
        f'image has {width} x {height}',
      )
  return intrinsics


def _optional(row) -> dict[str, Any]:
  """The fields a row may have, decoded."""
  out = {}
  if 'camera_model' in row or 'distortion' in row:
    out['lens'] = _lens(row)
  if 'world_from_camera' in row:
    out['world_from_camera'] = _pose(require(row, 'world_from_camera', list))
  if 'timestamp' in row:
    if not _is_number(row['timestamp']) or not math.isfinite(row['timestamp']):
      raise BadRecord(
        'wrong type', f'timestamp {row["timestamp"]!r}, expected seconds'
      )
    out['timestamp'] = float(row['timestamp'])
  for field in ('scene', 'dataset'):
    if field in row:
      out[field] = require(row, field, str)
  if 'depth_map' in row:
    out['depth_map'] = _depth_map(require(row, 'depth_map', dict))
  return out


def _lens(row) -> Lens:
  model = row.get('camera_model', 'pinhole')
  coefficients = row.get('distortion', [])
  whole = isinstance(coefficients, list)
  if not whole or not all(_is_number(k) for k in coefficients):
    raise BadRecord(
      'wrong type', f'distortion {coefficients!r}, expected numbers'
    )
  try:
    return Lens(model, tuple(coefficients))
  except ValueError as e:
    raise BadRecord('bad intrinsics', str(e)) from e


def _pose(rows) -> np.ndarray:
  """[4, 4] float64; a matrix that does not rotate is refused."""
  try:
    pose = np.array(rows, np.float64)
  except (TypeError, ValueError) as e:
    raise BadRecord('wrong type', f'world_from_camera {rows!r}') from e
  if pose.shape != (4, 4) or not np.isfinite(pose).all():
    raise BadRecord(
      'bad pose', f'world_from_camera {rows!r}, expected 4 x 4 finite numbers'
    )
  turn = pose[:3, :3]
  rigid = np.allclose(turn @ turn.T, np.eye(3), atol=1e-3)
  if not rigid or np.linalg.det(turn) < 0 or (pose[3] != (0, 0, 0, 1)).any():
    raise BadRecord(
      'bad pose',
      f'world_from_camera {rows!r}, expected a rotation and a translation, '
      'last row 0 0 0 1',
    )
  return pose


def _depth_map(reference) -> dict[str, Any]:
  path = require(reference, 'path', str)
  scale = reference.get('metres_per_unit', 1.0)
  if not _is_number(scale) or not (math.isfinite(scale) and scale > 0):
    raise BadRecord(
      'bad depth', f'metres_per_unit {scale!r}, expected a positive number'
    )
  return {'path': path, 'metres_per_unit': float(scale)}


def plain_row(row: dict[str, Any]) -> dict[str, Any]:
  """A decoded row as JSON values, without its picture and depth map."""
  fx, fy, cx, cy, width, height = row['intrinsics']
  out = {
    'intrinsics': [*map(float, (fx, fy, cx, cy)), int(width), int(height)],
    'pixel_coords': np.asarray(row['pixel_coords']).tolist(),
    'depth': np.asarray(row['depth'], np.float64).tolist(),
    'depth_kind': row['depth_kind'],
  }
  if 'lens' in row:
    out['camera_model'] = row['lens'].model
    out['distortion'] = list(row['lens'].coefficients)
  if 'world_from_camera' in row:
    out['world_from_camera'] = np.asarray(row['world_from_camera']).tolist()
  plain = ('timestamp', 'scene', 'dataset')
  return out | {name: row[name] for name in plain if name in row}
