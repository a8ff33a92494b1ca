"""Metric-depth rows: the published DepthLM files, and rendered rooms.

A row on disk is one object of a JSON list or one line of a jsonl file:

  {"image": "a/b.png",                        relative to the image folder
   "intrinsics": [fx, fy, cx, cy, W, H],      pixels
   "pixel_coords": [[x, y], ...],             integers
   "depth": [metres, ...],                    one per pixel
   "depth_kind": "range"}                     ours; published files have none

`DepthRows` reads such files, `RoomRows` renders rooms, and both give the same
decoded row, `image` being uint8 [H, W, 3], so that worlds and files go through
one transform (`vlm.methods.depthlm.sample`). Both are random-access sources.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from data.image import open_image
from data.records import BadRecord, require
from data.sources import middlebury
from data.sources.jsonl import JsonlSource, JsonSource
from data.worlds import rooms
from vlm.methods.depthlm import camera, sample

DEPTH_KINDS = ('range', 'z')


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
    row: as on disk, but `image` is uint8 [H, W, 3].
    depth_kind: used where the row does not say; '' demands that it does.

  Returns:
    A new row with repaired intrinsics and int64, float64 label arrays.

  Raises:
    BadRecord: 'wrong type', 'bad intrinsics', 'mismatched labels', 'pixel
      outside' or 'bad depth'.
  """
  numbers = require(row, 'intrinsics', list)
  if not all(_is_number(n) for n in numbers):
    raise BadRecord('wrong type', f'intrinsics {numbers}, expected numbers')
  height, width = row['image'].shape[:2]
  try:
    intrinsics = camera.repaired(numbers)
  except ValueError as e:
    raise BadRecord('bad intrinsics', str(e)) from e
  if intrinsics[4:] != (width, height):
    raise BadRecord(
      'bad intrinsics',
      f'they are for {intrinsics.width} x {intrinsics.height} pixels but the '
      f'image has {width} x {height}',
    )
  require(row, 'pixel_coords', list)
  require(row, 'depth', list)
  _check_labels(row, width, height)
  kind = row.get('depth_kind', depth_kind)
  if kind not in DEPTH_KINDS:
    raise BadRecord(
      'wrong type',
      f'depth_kind {kind!r}, expected one of {DEPTH_KINDS}; files without '
      'that field need the depth_kind argument',
    )
  return {
    'image': row['image'],
    'intrinsics': intrinsics,
    'pixel_coords': np.array(row['pixel_coords'], np.int64),
    'depth': np.array(row['depth'], np.float64),
    'depth_kind': kind,
  }


class DepthRows:
  """Rows of one .jsonl or JSON-list file, decoded when asked for.

  Args:
    path: the file; local or gs://.
    images: folder the `image` fields are relative to; the file's own folder
      when left out. A leading slash of the field is dropped, as published.
    depth_kind: 'range' or 'z' for rows that do not say. Published files are
      mixed (spec 2.4), so there is no default.
  """

  def __init__(self, path, images=None, depth_kind: str = ''):
    self.path = epath.Path(path)
    self._images = epath.Path(images) if images else self.path.parent
    self._kind = depth_kind
    reader = JsonlSource if self.path.suffix == '.jsonl' else JsonSource
    self._rows = reader(self.path)

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """The decoded, checked row.

    Raises:
      BadRecord: also 'missing image', 'corrupt image' and 'malformed json'.
    """
    try:
      return self._decode(self._rows[index])
    except BadRecord as e:
      raise e.at(f'{self.path}, row {index}') from e

  def _decode(self, row):
    name = require(row, 'image', str).lstrip('/')
    image = np.asarray(open_image(self._images / name))
    return check_row({**row, 'image': image}, self._kind)


def write_rows(folder, rows: Iterable[dict[str, Any]]) -> epath.Path:
  """Writes decoded rows as folder/rows.jsonl and folder/images/*.png.

  Returns:
    The path of the jsonl file, for `DepthRows`.
  """
  folder = epath.Path(folder)
  (folder / 'images').mkdir(parents=True, exist_ok=True)
  lines = []
  for index, row in enumerate(rows):
    name = f'images/{index:06d}.png'
    with (folder / name).open('wb') as f:
      Image.fromarray(row['image']).save(f, format='PNG')
    record = {
      'image': name,
      'intrinsics': [float(v) for v in row['intrinsics'][:4]]
      + [int(v) for v in row['intrinsics'][4:]],
      'pixel_coords': np.asarray(row['pixel_coords']).tolist(),
      'depth': np.asarray(row['depth'], np.float64).tolist(),
      'depth_kind': row['depth_kind'],
    }
    lines.append(json.dumps(record) + '\n')
  path = folder / 'rows.jsonl'
  path.write_text(''.join(lines))
  return path


def label_frame(
  frame: rooms.Frame | middlebury.DepthPhoto,
  rng: np.random.Generator,
  labels: int,
  arms: Sequence[sample.SampleSettings] = (),
  depth_kind: str = 'range',
) -> dict[str, Any] | None:
  """A row with `labels` random pixels of a frame.

  Pixels are uniform over those that have a depth and are usable under every
  one of `arms`, so that arms can be compared on the same queries.

  Returns:
    A decoded row, or None when fewer than `labels` pixels qualify.
  """
  depth = frame.range if depth_kind == 'range' else frame.z
  allowed = np.isfinite(depth) & (depth > 0)
  for settings in arms:
    allowed &= sample.usable_mask(frame.intrinsics, settings)
  places = np.flatnonzero(allowed)
  if len(places) < labels:
    return None
  chosen = rng.choice(places, labels, replace=False)
  y, x = np.divmod(chosen, depth.shape[1])
  return {
    'image': frame.rgb,
    'intrinsics': camera.Intrinsics(*frame.intrinsics),
    'pixel_coords': np.stack([x, y], 1),
    'depth': depth[y, x].astype(np.float64),
    'depth_kind': depth_kind,
  }


class RoomRows:
  """Rendered rooms as decoded rows; row i is a pure function of (seed, i).

  Args:
    seed: of the world; another seed means other rooms.
    count: number of rooms.
    settings: how rooms look; its `views` must be 1.
    labels: labelled pixels per image.
    arms: every label is usable under all of these.
  """

  def __init__(
    self,
    seed: int,
    count: int,
    settings: rooms.RoomSettings,
    labels: int = 1,
    arms: Sequence[sample.SampleSettings] = (),
  ):
    if settings.views != 1:
      raise ValueError(
        f'RoomRows needs settings.views == 1, got {settings.views}'
      )
    self.seed, self.settings = seed, settings
    self._count, self._labels, self._arms = count, labels, tuple(arms)

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < self._count:
      raise IndexError(f'row {index} of {self._count}')
    (frame,) = rooms.render_batch(self.seed, [index], self.settings)
    rng = rooms.stream(self.seed, index, rooms.LABELS)
    row = label_frame(frame, rng, self._labels, self._arms)
    if row is None:
      raise ValueError(
        f'room {index} of seed {self.seed} has fewer than {self._labels} '
        'pixels that are usable under every arm; ask for fewer labels or a '
        'larger image'
      )
    return row
