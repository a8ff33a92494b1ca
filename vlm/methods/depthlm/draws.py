"""Every random choice of a training sample, drawn first and kept.

`draw` looks at a row's geometry and labels, never at its pixels, and returns a
`Draw`: plain numbers, from which `sample.build` makes the sample without a
generator. A sample carries its draw as JSON, so it can be made again.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlm.methods.depthlm import camera, labels
from vlm.methods.depthlm.settings import SampleSettings
from vlm.methods.depthlm.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class View:
  """What training does to one image after the rescale; None does nothing.

  Attributes:
    crop: (x, y, width, height) in the rescaled image.
    stretch: r, for a height of W / r.
  """

  crop: tuple[int, int, int, int] | None = None
  stretch: float | None = None


@dataclasses.dataclass(frozen=True)
class Draw:
  """The choices of one sample.

  Attributes:
    task: a key of `tasks.TASKS`.
    labels: indices in the row, one per arrow.
    mirror: whether the row is seen in a mirror.
    views: one per image.
    given: what the question states; None if nothing.
  """

  task: str = 'distance'
  labels: tuple[int, ...] = ()
  mirror: bool = False
  views: tuple[View, ...] = (View(),)
  given: float | None = None

  def record(self) -> dict[str, Any]:
    """As JSON values, exact."""
    views = [
      {'crop': view.crop and list(view.crop), 'stretch': view.stretch}
      for view in self.views
    ]
    fields = dataclasses.asdict(self)
    return fields | {'labels': list(self.labels), 'views': views}

  @classmethod
  def from_record(cls, record: Mapping[str, Any]) -> 'Draw':
    """The draw of `record`, also after a trip through JSON."""
    views = tuple(
      View(view['crop'] and tuple(view['crop']), view['stretch'])
      for view in record['views']
    )
    indices = tuple(record['labels'])
    return cls(**{**record, 'views': views, 'labels': indices})


def geometry(
  intrinsics: Sequence[float | int],
  settings: SampleSettings,
  view: View = View(),
) -> camera.Geometry:
  """Rescale, training stretch or crop, static size, whole patches."""
  source = camera.repaired(intrinsics)
  moved = camera.normalise(source, settings.focal, settings.focal_mode)
  if view.stretch is not None:
    moved = moved.stretch(int(moved.target.width / view.stretch))
  if view.crop is not None:
    x, y, width, height = view.crop
    moved = moved.crop(width, height, (x, y))
  if settings.size is not None:
    moved = moved.crop(settings.size[1], settings.size[0])
  if settings.multiple > 1:
    width, height = (n + -n % settings.multiple for n in moved.target[4:])
    moved = moved.crop(width, height)
  return moved


def draw_view(
  row: Mapping[str, Any], rng: np.random.Generator, settings: SampleSettings
) -> View:
  """The training crop, or the stretch of data sets with noisy cameras."""
  if row.get('dataset') in settings.stretched:
    return _stretched(row, float(rng.uniform(*settings.stretch)), settings)
  if settings.crop_height is None:
    return View()
  width, height = geometry(row['intrinsics'], _uncut(settings)).target[4:]
  # Height first, then width: the published order of draws.
  tall = int(min(height, rng.uniform(*settings.crop_height)))
  wide = int(min(width, rng.uniform(*settings.crop_width)))
  if settings.crop_place == 'random':
    x = int(rng.integers(width - wide, endpoint=True))
    y = int(rng.integers(height - tall, endpoint=True))
  else:
    x, y = (width - wide) // 2, (height - tall) // 2
  return View(crop=(x, y, wide, tall))


def _stretched(row, ratio: float, settings: SampleSettings) -> View:
  """Stretched, and cut only where it exceeds the largest crop of the others.

  Upstream does not cut, and overflows its token budget (spec 10.2).
  """
  view = View(stretch=ratio)
  if settings.crop_height is None:
    return view
  width, height = geometry(row['intrinsics'], _uncut(settings), view).target[4:]
  wide = int(min(width, settings.crop_width[1]))
  tall = int(min(height, settings.crop_height[1]))
  if (wide, tall) == (width, height):
    return view
  return View(((width - wide) // 2, (height - tall) // 2, wide, tall), ratio)


def _uncut(settings: SampleSettings) -> SampleSettings:
  return dataclasses.replace(settings, size=None, multiple=1)


def draw_task(rng: np.random.Generator, settings: SampleSettings) -> str:
  """A task of one image, by weight."""
  names, weights = zip(*settings.tasks, strict=True)
  if len(names) == 1:
    return names[0]
  shares = np.array(weights, np.float64)
  return names[rng.choice(len(names), p=shares / shares.sum())]


def draw_given(
  task: str, rng: np.random.Generator, settings: SampleSettings
) -> float | None:
  """The time or speed a question states, to one decimal as it is written."""
  name = TASKS[task].given
  return (
    round(float(rng.uniform(*getattr(settings, name))), 1) if name else None
  )


def usable_labels(
  row: Mapping[str, Any], view: View, settings: SampleSettings
) -> np.ndarray:
  """[N] bool: the labels of an undistorted row that can be asked about."""
  moved = geometry(row['intrinsics'], settings, view)
  mapped = moved.map_pixels(row['pixel_coords'])
  inside = (np.asarray(row['pixel_coords']) >= 0).all(1) & moved.shows(mapped)
  return settings.marker.fits(mapped, *moved.target[4:]) & inside


def draw_labels(
  row: Mapping[str, Any],
  task: str,
  view: View,
  rng: np.random.Generator,
  settings: SampleSettings,
) -> tuple[int, ...] | None:
  """Labels for the task's arrows; None when the row has none that fit."""
  usable = usable_labels(row, view, settings)
  choices = np.flatnonzero(usable)
  if not choices.size:
    return None
  if TASKS[task].arrows == 2:
    first, second = np.nonzero(usable_pairs(row, view, settings))
    if not first.size:
      return None
    chosen = rng.integers(first.size)
    return int(first[chosen]), int(second[chosen])
  if settings.label_law == 'usable':
    return (int(choices[rng.integers(choices.size)]),)
  wanted = rng.integers(len(usable))
  # argmin keeps the first of equals: ties go to the lower index.
  return (int(choices[np.argmin(np.abs(choices - wanted))]),)


def usable_pairs(
  row: Mapping[str, Any], view: View, settings: SampleSettings
) -> np.ndarray:
  """[N, N] bool: pairs (a, b), a < b, whose arrows fit and points lie apart."""
  usable = usable_labels(row, view, settings)
  points = labels.points(row)
  moved = geometry(row['intrinsics'], settings, view)
  mapped = moved.map_pixels(row['pixel_coords'])
  gap = np.linalg.norm(points[:, None] - points, axis=-1)
  clear = settings.marker.apart(mapped[:, None], mapped[None])
  pairs = usable[:, None] & usable & clear & (gap >= settings.separation)
  return np.triu(pairs, 1)


def draw(
  row: Mapping[str, Any], rng: np.random.Generator, settings: SampleSettings
) -> Draw | None:
  """The choices of one training sample.

  Args:
    row: undistorted; or a pair of posed frames, {'views': (first, second)}.
    rng: the only source of chance.
    settings: its laws.

  Returns:
    None when nothing about the row can be asked.
  """
  mirror = bool(settings.mirror and rng.random() < 0.5)
  if 'views' in row:
    views = tuple(draw_view(view, rng, settings) for view in row['views'])
    return Draw('pose', (), mirror, views)
  task = draw_task(rng, settings)
  seen = mirrored(row) if mirror else row
  view = draw_view(seen, rng, settings)
  chosen = draw_labels(seen, task, view, rng, settings)
  if chosen is None:
    return None
  given = draw_given(task, rng, settings)
  return Draw(task, chosen, mirror, (view,), given)


def mirrored(row: Mapping[str, Any]) -> Mapping[str, Any]:
  """An undistorted row seen in a mirror: left is right, distances stay."""
  fx, fy, cx, cy, width, height = camera.repaired(row['intrinsics'])
  pixels = np.array(row['pixel_coords'])
  pixels[:, 0] = np.where(pixels[:, 0] < 0, -1, width - 1 - pixels[:, 0])
  out = {
    **row,
    'intrinsics': (fx, fy, width - cx, cy, width, height),
    'pixel_coords': pixels,
  }
  if 'image' in row:
    out['image'] = row['image'][:, ::-1]
  if 'directions' in row:
    out['directions'] = row['directions'] * (-1, 1, 1)
  return out
