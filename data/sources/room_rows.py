"""Rendered rooms as decoded depth rows, and labels of any rendered frame."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.sources.depth_photo import DepthPhoto
from data.worlds import rooms
from vlm.methods.depthlm import camera, sample


def label_frame(
  frame: rooms.Frame | DepthPhoto,
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
  return labelled_at(frame, x, y, depth_kind)


def labelled_at(
  frame: rooms.Frame | DepthPhoto,
  x: np.ndarray,
  y: np.ndarray,
  depth_kind: str = 'range',
) -> dict[str, Any]:
  """A decoded row whose labels are the pixels x, y [N] of a frame."""
  depth = frame.range if depth_kind == 'range' else frame.z
  return {
    'image': frame.rgb,
    'intrinsics': camera.Intrinsics(*frame.intrinsics),
    'pixel_coords': np.stack([x, y], 1),
    'depth': depth[y, x].astype(np.float64),
    'depth_kind': depth_kind,
  }


class RoomRows:
  """Rendered rooms as decoded rows; row i is a pure function of (seed, i).

  With several views per room, row i is view i % views of room i // views, and
  rows have scene, pose and time (one second from view to view).

  Args:
    seed: of the world; another seed means other rooms.
    count: number of rows.
    settings: how rooms look.
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
    self.seed, self.settings = seed, settings
    self._count, self._labels, self._arms = count, labels, tuple(arms)

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < self._count:
      raise IndexError(f'row {index} of {self._count}')
    views = self.settings.views
    room, view = divmod(index, views)
    cameras = rooms.make_cameras(self.seed, room, self.settings)
    scene = rooms.make_scene(self.seed, room, self.settings)
    frame = rooms.render(scene, cameras[view])
    rng = rooms.stream(self.seed, index, rooms.LABELS)
    row = label_frame(frame, rng, self._labels, self._arms)
    if row is None:
      raise ValueError(
        f'room {index} of seed {self.seed} has fewer than {self._labels} '
        'pixels that are usable under every arm; ask for fewer labels or a '
        'larger image'
      )
    if views == 1:
      return row
    place = {'world_from_camera': frame.camera.world_from_camera}
    return row | place | posed(self.seed, index, views)


def posed(seed: int, index: int, views: int) -> dict[str, Any]:
  """Scene and time of a row of rooms with several views."""
  room, view = divmod(index, views)
  return {'scene': f'{seed}-{room}', 'timestamp': float(view)}
