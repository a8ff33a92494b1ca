"""From a row or a rendered frame to images, question and answer.

  row = {'image': uint8 [H, W, 3], 'intrinsics': [fx, fy, cx, cy, W, H],
         'pixel_coords': [[x, y], ...], 'depth': [metres, ...],
         'depth_kind': 'range' or 'z'}

and what else data/sources/depth.py lists; a pair of posed frames is
{'views': (row, row)}.

Training draws, `make_sample(row, rng, settings)`; evaluation asks for label k,
`make_query(row, k, settings)`, and walks image by image, label by label. A
label is usable when its pixel is inside the final image and the arrow fits
there; both functions return None otherwise, and the caller counts it. The rule
is the same for every arm, so arms see the same queries.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vlm.methods.depthlm import camera, draws, labels, tasks
from vlm.methods.depthlm.draws import Draw, View, geometry, mirrored
from vlm.methods.depthlm.labels import ranges
from vlm.methods.depthlm.rectify import rectified
from vlm.methods.depthlm.settings import SampleSettings

__all__ = [
  'SampleSettings',
  'build',
  'enumerate_queries',
  'geometry',
  'make_query',
  'make_sample',
  'marked',
  'mirrored',
  'picture',
  'ranges',
  'replay',
  'usable',
  'usable_mask',
]


def usable(
  pixels: ArrayLike,
  intrinsics: Sequence[float | int],
  settings: SampleSettings,
) -> np.ndarray:
  """[N] bool: which source pixels [N, 2] evaluation can ask about."""
  moved = geometry(intrinsics, settings)
  return settings.marker.fits(moved.map_pixels(pixels), *moved.target[4:])


def usable_mask(
  intrinsics: Sequence[float | int], settings: SampleSettings
) -> np.ndarray:
  """`usable` for every pixel of the source image, [H, W] bool."""
  moved, margin = geometry(intrinsics, settings), settings.marker.margin
  width, height = moved.source[4:]
  axes = np.arange(max(width, height))
  mapped = moved.map_pixels(np.stack([axes, axes], 1))
  # x and y map independently, so one pass over each axis is enough.
  fits = [
    (mapped[:n, k] >= margin) & (mapped[:n, k] < m - margin)
    for k, (n, m) in enumerate(zip((width, height), moved.target[4:]))
  ]
  return fits[1][:, None] & fits[0]


def build(
  row: Mapping[str, Any], draw: Draw, settings: SampleSettings
) -> dict[str, Any]:
  """The sample that a draw describes; nothing here is random.

  Returns:
    'images', a list of uint8 [h, w, 3]; 'question' and 'answer'; 'task' and
    'value', the quantity asked for in metres, m/s or s; 'intrinsics' of the
    first image; 'replay', the draw as JSON values; and for a row with labels
    'image', the first of them, 'depth' (range) and 'z' in metres, 'pixel' (x,
    y) in that image, 'pixels' of all arrows, 'label', its index in the row.
    Of a row without its image, everything but 'images' and 'image'.
  """
  if 'views' in row:
    return _build_pair(row, draw, settings)
  row = rectified(row)
  row = mirrored(row) if draw.mirror else row
  (view,) = draw.views
  moved = geometry(row['intrinsics'], settings, view)
  mapped = moved.map_pixels(row['pixel_coords'])
  places = [(int(mapped[k, 0]), int(mapped[k, 1])) for k in draw.labels]
  points = labels.points(row)[list(draw.labels)]
  first = draw.labels[0]
  metres = float(ranges(row)[first])
  # The label itself, where it is what is asked: no rounding by the ray.
  value = metres
  if draw.task != 'distance':
    value = tasks.quantity(draw.task, points, draw.given)
  facts = {
    'depth': metres,
    'z': float(labels.axial(row)[first]),
    'pixel': places[0],
    'pixels': places,
    'label': int(first),
    **_worded(draw, moved, value, settings, metres, places, points),
  }
  if 'image' not in row:
    return facts
  image = marked(_shown(row, moved, settings), places, settings)
  return {'image': image, **facts, 'images': [image]}


def picture(row: Mapping[str, Any], settings: SampleSettings) -> np.ndarray:
  """What evaluation shows of a row before an arrow is drawn, uint8 [h, w, 3].

  Made once for all queries of an image, each of which `marked` then finishes.
  """
  row = rectified(row)
  return _shown(row, geometry(row['intrinsics'], settings), settings)


def marked(
  image: np.ndarray,
  pixels: Sequence[tuple[int, int]],
  settings: SampleSettings,
) -> np.ndarray:
  """A copy of a picture with a marker at each pixel, if there are any."""
  for pixel in pixels if settings.mark else ():
    image = settings.marker.draw(image, pixel)
  return np.ascontiguousarray(image)


def _build_pair(pair, draw, settings) -> dict[str, Any]:
  """Two images without arrows; the answer is how far the camera moved."""
  images, centres, moves = [], [], []
  for row, view in zip(pair['views'], draw.views, strict=True):
    row = rectified(row)
    row = mirrored(row) if draw.mirror else row
    moved = geometry(row['intrinsics'], settings, view)
    moves.append(moved)
    images.append(np.ascontiguousarray(_shown(row, moved, settings)))
    centres.append(row['world_from_camera'][:3, 3])
  value = tasks.quantity('pose', np.array(centres, np.float64))
  return _worded(draw, moves[0], value, settings) | {'images': images}


def _shown(row, moved: camera.Geometry, settings) -> np.ndarray:
  """The moved picture, its values drawn towards mid-grey."""
  image = moved.apply(row['image'])
  if settings.contrast == 1:
    return image
  return np.rint(127.5 + settings.contrast * (image - 127.5)).astype(np.uint8)


def _worded(draw, moved, value, settings, metres=0.0, places=(), points=()):
  """Question and answer, and what the sample is."""
  target, wording = moved.target, settings.wording_of(draw.task)
  (x, y), (x2, y2) = (*places, (0, 0), (0, 0))[:2]
  given = {'given': draw.given} if draw.given is not None else {}
  ray = {}
  if len(points):
    rx, ry = points[0][:2] / points[0][2]
    ray = {'rx': float(rx), 'ry': float(ry)}
  return {
    'question': wording.ask(
      x, y, target.fx, target.width, target.height, x2=x2, y2=y2, **given
    ),
    'answer': wording.reply(metres, value=value, **given, **ray),
    'task': draw.task,
    'value': value,
    'intrinsics': target,
    'replay': draw.record(),
  }


def make_sample(
  row: Mapping[str, Any],
  rng: np.random.Generator,
  settings: SampleSettings,
) -> dict[str, Any] | None:
  """One training sample: a random crop, task and label.

  Returns:
    What `build` returns, or None when nothing can be asked.
  """
  row = _straight(row)
  draw = draws.draw(row, rng, settings)
  return None if draw is None else build(row, draw, settings)


def replay(
  row: Mapping[str, Any], record: Mapping[str, Any], settings: SampleSettings
) -> dict[str, Any]:
  """Makes a sample again, bit for bit, from its row and its 'replay'."""
  return build(_straight(row), Draw.from_record(record), settings)


def _straight(row):
  """The row, or both rows of a pair, undistorted once."""
  if 'views' in row:
    return {**row, 'views': tuple(rectified(view) for view in row['views'])}
  return rectified(row)


def make_query(
  row: Mapping[str, Any],
  label: int,
  settings: SampleSettings,
  task: str = 'distance',
  seed: int = 0,
) -> dict[str, Any] | None:
  """The evaluation sample of label `label`, or None when it is unusable.

  What a task needs beside the label (a second point, a stated time or speed) is
  a function of `seed` and the label alone.
  """
  row = _straight(row)
  if 'views' in row:
    return build(row, Draw('pose', views=(View(), View())), settings)
  if not draws.usable_labels(row, View(), settings)[label]:
    return None
  rng = np.random.default_rng([seed, label])
  chosen = (int(label),)
  if tasks.TASKS[task].arrows == 2:
    pairs = draws.usable_pairs(row, View(), settings)
    others = np.flatnonzero(pairs[label] | pairs[:, label])
    if not others.size:
      return None
    chosen = (int(label), int(others[rng.integers(others.size)]))
  given = draws.draw_given(task, rng, settings)
  return build(row, Draw(task, chosen, given=given), settings)


def enumerate_queries(
  rows: Any,
  settings: SampleSettings,
  task: str = 'distance',
) -> Iterator[tuple[int, int, dict[str, Any] | None]]:
  """(image, label, sample or None) of every label of a source, image-major.

  A pair of frames has the one query 0.
  """
  for number in range(len(rows)):
    row = _straight(rows[number])
    for label in range(1 if 'views' in row else len(row['depth'])):
      yield number, label, make_query(row, label, settings, task, number)
