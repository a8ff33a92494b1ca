"""Which two frames of a scene make a pose question.

Frames of one scene share a world frame. A pair is worth asking when the camera
moved by a sensible length and both saw enough of the same: of each frame's
labelled points, the share that falls into the other's picture. Occlusion is not
looked at; labels are sparse.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from vlm.methods.depthlm import camera, labels
from vlm.methods.depthlm.lens import PINHOLE


@dataclasses.dataclass(frozen=True)
class PairSettings:
  """Laws of a pair (spec 2.8).

  Attributes:
    baseline: (least, most) distance of the two camera centres, metres.
    overlap: least share of labelled points seen by the other frame, both ways.
    window: how many later frames of its scene a frame is paired with.
  """

  baseline: tuple[float | int, float | int] = (0.3, 10.0)
  overlap: float | int = 0.3
  window: int = 50

  def __post_init__(self):
    if not 0 < self.baseline[0] <= self.baseline[1]:
      raise ValueError(
        f'baseline must be (low, high) with 0 < low <= high: {self.baseline}'
      )
    if not 0 <= self.overlap <= 1:
      raise ValueError(f'overlap must lie in [0, 1], got {self.overlap}')


USUAL = PairSettings()


def baseline(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
  """|C_1 - C_2|, metres the camera moved between two posed frames."""
  move = first['world_from_camera'] - second['world_from_camera']
  return float(np.linalg.norm(move[:3, 3]))


def seen_by(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
  """Share of the first frame's labelled points in the second's picture."""
  points = labels.points(first)
  pose = first['world_from_camera']
  world = points @ pose[:3, :3].T + pose[:3, 3]
  pose = second['world_from_camera']
  rays = (world - pose[:3, 3]) @ pose[:3, :3]
  intrinsics = camera.repaired(second['intrinsics'])
  places = second.get('lens', PINHOLE).distort(rays)
  places = places * intrinsics[:2] + intrinsics[2:4]
  with np.errstate(invalid='ignore'):
    inside = ((places >= 0) & (places < intrinsics[4:])).all(1)
  return float(inside.mean())


def find_pairs(
  rows: Iterable[Mapping[str, Any]], settings: PairSettings = USUAL
) -> Iterator[tuple[int, int]]:
  """Yields (earlier, later) indices of the frames that make good pairs.

  Args:
    rows: with 'scene' and 'world_from_camera', labels and camera; pictures are
      not looked at. Rows without a pose or a scene take no part. In a scene
      they are ordered by 'timestamp', or as they come where one has none.
    settings: laws of a pair.
  """
  scenes = defaultdict(list)
  for number, row in enumerate(rows):
    if 'scene' in row and 'world_from_camera' in row:
      scenes[row['scene']].append((number, row))
  for frames in scenes.values():
    if all('timestamp' in row for _, row in frames):
      frames = sorted(frames, key=lambda frame: frame[1]['timestamp'])
    for place, (number, row) in enumerate(frames):
      for later, other in frames[place + 1 : place + 1 + settings.window]:
        if _is_good(row, other, settings):
          yield number, later


def _is_good(row, other, settings: PairSettings) -> bool:
  low, high = settings.baseline
  if not low <= baseline(row, other) <= high:
    return False
  shared = min(seen_by(row, other), seen_by(other, row))
  return shared >= settings.overlap
