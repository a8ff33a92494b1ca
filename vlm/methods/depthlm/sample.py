"""From a row or a rendered frame to image, question and answer.

  row = {'image': uint8 [H, W, 3], 'intrinsics': [fx, fy, cx, cy, W, H],
         'pixel_coords': [[x, y], ...], 'depth': [metres, ...],
         'depth_kind': 'range' or 'z'}

Training draws one usable label, `make_sample(row, rng, settings)`; evaluation
asks for label k, `make_query(row, k, settings)`, and walks image by image,
label by label. A label is usable when its pixel is inside the final image and
the arrow fits there; both functions return None otherwise, and the caller
counts it. The rule is the same for every arm, so arms see the same queries.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vlm.methods.depthlm import camera, marker, text


@dataclasses.dataclass(frozen=True)
class SampleSettings:
  """How a row becomes a query.

  Attributes:
    focal: common focal length in pixels (published: 1000 and 750).
    focal_mode: 'aniso', 'iso' or 'none'; see `camera`.
    crop_height: (low, high) of the training crop's height in pixels, drawn
      uniformly (published: 700, 1200); None does not crop.
    crop_width: the same for its width (published: 1000, 1400).
    crop_place: 'centre' (published) or 'random'.
    mirror: in training, show every other image as in a mirror.
    size: (H, W) of the static image a model needs: centre cut or zero pad,
      in training and evaluation; None keeps the size.
    contrast: share of the picture's contrast that is kept before the arrow is
      drawn. 1 changes nothing; a small tower trained from scratch finds the
      arrow many times sooner in a quiet picture.
    mark: draw the arrow; without it the question must hold the coordinates.
    prompt: wording, a key of `text.PROMPTS` or a `text.PromptFormat`.
  """

  focal: float | int = 1000.0
  focal_mode: str = 'aniso'
  crop_height: tuple[int, int] | None = None
  crop_width: tuple[int, int] | None = None
  crop_place: str = 'centre'
  mirror: bool = False
  size: tuple[int, int] | None = None
  contrast: float | int = 1.0
  mark: bool = True
  prompt: str | text.PromptFormat = 'marker'

  def __post_init__(self):
    if self.focal_mode not in camera.FOCAL_MODES:
      raise ValueError(
        f'focal_mode must be one of {camera.FOCAL_MODES}, got '
        f'{self.focal_mode!r}'
      )
    if not 0 < self.contrast <= 1:
      raise ValueError(f'contrast must lie in (0, 1], got {self.contrast}')
    if self.crop_place not in ('centre', 'random'):
      raise ValueError(
        f"crop_place must be 'centre' or 'random', got {self.crop_place!r}"
      )
    if (self.crop_height is None) != (self.crop_width is None):
      raise ValueError('give both crop_height and crop_width, or neither')
    if isinstance(self.prompt, str) and self.prompt not in text.PROMPTS:
      raise ValueError(
        f'prompt must be one of {sorted(text.PROMPTS)} or a PromptFormat, got '
        f'{self.prompt!r}'
      )

  @property
  def wording(self) -> text.PromptFormat:
    if isinstance(self.prompt, str):
      return text.PROMPTS[self.prompt]
    return self.prompt


def geometry(
  intrinsics: Sequence[float | int],
  settings: SampleSettings,
  rng: np.random.Generator | None = None,
) -> camera.Geometry:
  """Rescale, training crop (only with `rng`), then the static size."""
  source = camera.repaired(intrinsics)
  moved = camera.normalise(source, settings.focal, settings.focal_mode)
  if rng is not None and settings.crop_height is not None:
    width, height = moved.target[4:]
    # Height first, then width: the published order of draws.
    tall = int(min(height, rng.uniform(*settings.crop_height)))
    wide = int(min(width, rng.uniform(*settings.crop_width)))
    place = None
    if settings.crop_place == 'random':
      place = (
        int(rng.integers(width - wide, endpoint=True)),
        int(rng.integers(height - tall, endpoint=True)),
      )
    moved = moved.crop(wide, tall, place)
  if settings.size is not None:
    moved = moved.crop(settings.size[1], settings.size[0])
  return moved


def usable(
  pixels: ArrayLike,
  intrinsics: Sequence[float | int],
  settings: SampleSettings,
) -> np.ndarray:
  """[N] bool: which source pixels [N, 2] evaluation can ask about."""
  moved = geometry(intrinsics, settings)
  return marker.fits(moved.map_pixels(pixels), *moved.target[4:])


def usable_mask(
  intrinsics: Sequence[float | int], settings: SampleSettings
) -> np.ndarray:
  """`usable` for every pixel of the source image, [H, W] bool."""
  moved = geometry(intrinsics, settings)
  width, height = moved.source[4:]
  axes = np.arange(max(width, height))
  mapped = moved.map_pixels(np.stack([axes, axes], 1))
  # x and y map independently, so one pass over each axis is enough.
  fits = [
    (mapped[:n, k] >= marker.MARGIN) & (mapped[:n, k] < m - marker.MARGIN)
    for k, (n, m) in enumerate(zip((width, height), moved.target[4:]))
  ]
  return fits[1][:, None] & fits[0]


def mirrored(row: Mapping[str, Any]) -> Mapping[str, Any]:
  """The row seen in a mirror: left is right, distances stay."""
  fx, fy, cx, cy, width, height = camera.repaired(row['intrinsics'])
  pixels = np.array(row['pixel_coords'])
  pixels[:, 0] = width - 1 - pixels[:, 0]
  return {
    **row,
    'image': row['image'][:, ::-1],
    'intrinsics': (fx, fy, width - cx, cy, width, height),
    'pixel_coords': pixels,
  }


def ranges(row: Mapping[str, Any]) -> np.ndarray:
  """The labels of a row as distances to the camera centre, [N] metres."""
  depth = np.asarray(row['depth'], np.float64)
  kind = row['depth_kind']
  if kind == 'range':
    return depth
  if kind == 'z':
    source = camera.repaired(row['intrinsics'])
    return camera.z_to_range(depth, row['pixel_coords'], source)
  raise ValueError(f"depth_kind must be 'range' or 'z', got {kind!r}")


def _quietened(image: np.ndarray, contrast: float) -> np.ndarray:
  """Moves every value towards mid-grey."""
  if contrast == 1:
    return image
  return np.rint(127.5 + contrast * (image - 127.5)).astype(np.uint8)


def _finish(row, moved, mapped, label, settings) -> dict[str, Any]:
  image = _quietened(moved.apply(row['image']), settings.contrast)
  x, y = (int(v) for v in mapped[label])
  if settings.mark:
    image = marker.draw(image, (x, y))
  target, wording = moved.target, settings.wording
  metres = float(ranges(row)[label])
  return {
    'image': np.ascontiguousarray(image),
    'question': wording.ask(x, y, target.fx, target.width, target.height),
    'answer': wording.reply(metres),
    'depth': metres,
    'pixel': (x, y),
    'intrinsics': target,
    'label': int(label),
  }


def make_sample(
  row: Mapping[str, Any],
  rng: np.random.Generator,
  settings: SampleSettings,
) -> dict[str, Any] | None:
  """One training sample: a random crop and a uniformly drawn usable label.

  Upstream replaces a label outside the crop by the nearest usable index, which
  favours labels next to unusable ones; drawing among the usable ones does not.

  Returns:
    {'image' uint8 [h, w, 3], 'question' str, 'answer' str, 'depth' range in
    metres, 'pixel' (x, y) in that image, 'intrinsics' of that image, 'label'
    index in the row}, or None when no label is usable.
  """
  if settings.mirror and rng.random() < 0.5:
    row = mirrored(row)
  moved = geometry(row['intrinsics'], settings, rng)
  mapped = moved.map_pixels(row['pixel_coords'])
  choices = np.flatnonzero(marker.fits(mapped, *moved.target[4:]))
  if not choices.size:
    return None
  label = choices[rng.integers(choices.size)]
  return _finish(row, moved, mapped, label, settings)


def make_query(
  row: Mapping[str, Any], label: int, settings: SampleSettings
) -> dict[str, Any] | None:
  """The evaluation sample of label `label`, or None when it is unusable."""
  moved = geometry(row['intrinsics'], settings)
  mapped = moved.map_pixels(row['pixel_coords'])
  if not marker.fits(mapped[label : label + 1], *moved.target[4:])[0]:
    return None
  return _finish(row, moved, mapped, label, settings)


def enumerate_queries(
  rows: Sequence[Mapping[str, Any]], settings: SampleSettings
) -> Iterator[tuple[int, int, dict[str, Any] | None]]:
  """(image, label, sample or None) of every label, image-major."""
  for number in range(len(rows)):
    row = rows[number]
    for label in range(len(row['depth'])):
      yield number, label, make_query(row, label, settings)
