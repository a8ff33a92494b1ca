"""What a reader gives: scenes, frames and the pixels that were labelled.

Pixels follow `vlm.methods.depthlm.camera`: pixel i covers [i, i + 1). Most
calibrations count from pixel centres instead, so their principal point moves
by half a pixel (`centred`); each reader says which convention it follows.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath

from data.records import BadRecord
from vlm.methods.depthlm import camera
from vlm.methods.depthlm.camera import Intrinsics
from vlm.methods.depthlm.lens import PINHOLE, Lens

# Candidates per wanted label: some are lost when an image is straightened.
SPARE = 4


@dataclasses.dataclass(frozen=True)
class Scene:
  """A piece of a corpus that one worker reads from start to end.

  Attributes:
    name: unique in the corpus; becomes a path.
    data: whatever its reader needs; small, plain and picklable.
  """

  name: str
  data: Any = None


class LabelDraw:
  """The random choice of labelled pixels of one frame.

  Args:
    rng: a generator of this frame alone, so that no order of work matters.
    count: labels wanted.
  """

  def __init__(self, rng: np.random.Generator, count: int):
    self._rng, self.count = rng, count

  def among(self, number: int) -> np.ndarray:
    """Up to SPARE * count indices below `number`, in random order, int64."""
    wanted = min(number, SPARE * self.count)
    return self._rng.choice(number, wanted, replace=False)

  def pixels(self, allowed: np.ndarray) -> np.ndarray:
    """Random pixels (x, y) where bool [H, W] `allowed` holds, int64 [N, 2]."""
    places = np.flatnonzero(allowed)
    y, x = np.divmod(places[self.among(len(places))], allowed.shape[1])
    return np.stack([x, y], 1)


@dataclasses.dataclass(frozen=True)
class DepthFrame:
  """An image, its camera and labelled pixels.

  Attributes:
    image: the published bytes of an image file, or uint8 [H, W, 3].
    intrinsics: of the stored pixels of `image`.
    pixels: int64 [N, 2] (x, y), in random order; may hold more than wanted.
    depth: float64 [N] metres.
    depth_kind: 'range' or 'z'.
    lens: what bends the image.
    pose: world from camera, float64 [4, 4] metres; the camera looks along +z,
      y points down, unless its reader says otherwise.
    timestamp: seconds, on the corpus's clock.
  """

  image: bytes | np.ndarray
  intrinsics: Intrinsics
  pixels: np.ndarray
  depth: np.ndarray
  depth_kind: str = 'range'
  lens: Lens = PINHOLE
  pose: np.ndarray | None = None
  timestamp: float | None = None


Read = Callable[[LabelDraw], DepthFrame]


@dataclasses.dataclass(frozen=True)
class Corpus:
  """How one corpus is read.

  Attributes:
    layout: what --source must hold, for messages.
    splits: names for --split, the default first.
    scenes: (source, split) -> scenes in a fixed order.
    frames: (source, scene, official) -> (frame name, how to read it); reading
      raises BadRecord for a bad frame, and the next one can still be read.
    official: whether scripts were released whose labels can be repeated.
    every: read each n-th frame; videos repeat themselves.
    max_focal: pixels; images with a longer focal length are shrunk to it, as
      training would; 0 keeps them.
  """

  layout: str
  splits: tuple[str, ...]
  scenes: Callable[[epath.Path, str], list[Scene]]
  frames: Callable[[epath.Path, Scene, bool], Iterator[tuple[str, Read]]]
  official: bool = True
  every: int = 1
  max_focal: float = 0.0


def chunks(names: list[str], size: int) -> list[Scene]:
  """Scenes of `size` frames for a corpus that has no scenes of its own."""
  starts = range(0, len(names), size)
  return [
    Scene(f'part-{number:04d}', names[start : start + size])
    for number, start in enumerate(starts)
  ]


def find(source: epath.Path, pattern: str, levels: int) -> list[str]:
  """Paths that match `pattern` up to `levels` folders down, relative, sorted.

  Archives of one corpus unpack to different depths.
  """
  found = set()
  for level in range(levels + 1):
    for path in source.glob('*/' * level + pattern):
      found.add(path.relative_to(source).as_posix())
  return sorted(found)


def read_bytes(path: epath.Path, reason: str = 'missing image') -> bytes:
  """The bytes of a file.

  Raises:
    BadRecord: with `reason`, when there is no such file.
  """
  try:
    return path.read_bytes()
  except FileNotFoundError as e:
    raise BadRecord(reason, f'{path} does not exist') from e


def stated(
  fx: float, fy: float, cx: float, cy: float, width: int, height: int
) -> Intrinsics:
  """Intrinsics as they are; a focal length of 0 takes the other's value.

  Raises:
    BadRecord: 'bad intrinsics' when no positive focal length or size is left.
  """
  try:
    return camera.repaired((fx, fy, cx, cy, width, height))
  except ValueError as e:
    raise BadRecord('bad intrinsics', str(e)) from e


def centred(
  fx: float, fy: float, cx: float, cy: float, width: int, height: int
) -> Intrinsics:
  """Our intrinsics from ones whose (0, 0) is the centre of the first pixel."""
  return stated(fx, fy, cx + 0.5, cy + 0.5, width, height)


def require_size(depth: np.ndarray, width: int, height: int) -> np.ndarray:
  """Returns a depth map [H, W] of the image's size.

  Raises:
    BadRecord: 'mismatched labels'.
  """
  if depth.shape != (height, width):
    raise BadRecord(
      'mismatched labels',
      f'a depth map of {depth.shape[1]} x {depth.shape[0]} for an image of '
      f'{width} x {height}',
    )
  return depth


def between(depth: np.ndarray, low: float, high: float) -> np.ndarray:
  """Where low < depth < high; NaN and infinity are not."""
  with np.errstate(invalid='ignore'):
    return np.isfinite(depth) & (depth > low) & (depth < high)


def at(values: np.ndarray, pixels: np.ndarray) -> np.ndarray:
  """values [H, W] at pixels [N, 2] (x, y), float64 [N]."""
  return values[pixels[:, 1], pixels[:, 0]].astype(np.float64)


def ranges(
  z: np.ndarray,
  pixels: np.ndarray,
  intrinsics: Intrinsics,
  lens: Lens = PINHOLE,
) -> np.ndarray:
  """Depth along the axis -> distance to the camera centre, metres [N].

  NaN where no ray of the lens meets the pixel.
  """
  if lens.is_pinhole:
    return z * intrinsics.rays(pixels)
  points = (pixels + 0.5 - intrinsics[2:4]) / intrinsics[:2]
  return z / lens.undistort(points)[:, 2]


def official_ranges(
  z: np.ndarray, pixels: np.ndarray, intrinsics: Intrinsics
) -> np.ndarray:
  """`ranges` as the released scripts have it: a pixel is its left top edge."""
  x, y = ((pixels - intrinsics[2:4]) / intrinsics[:2]).T
  return z * np.sqrt(1 + x**2 + y**2)
