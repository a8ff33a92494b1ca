"""Every second pixel of a few unseen rooms, asked: scan lines, point clouds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.sources.room_rows import labelled_at
from data.worlds import rooms
from vlm.methods.depthlm import sample

SCANNED = 'scanned rooms'
STRIDE = 2


def rows(
  seed: int,
  count: int,
  settings: rooms.RoomSettings,
  arms: Sequence[sample.SampleSettings],
) -> list[dict[str, Any]]:
  """Rows of `count` rooms with all usable pixels of a grid.

  Args:
    seed: of the world.
    count: of rooms.
    settings: how they look.
    arms: every label is usable under all of these.
  """
  frames = rooms.render_batch(seed, range(count), settings)
  return [_scanned(frame, arms) for frame in frames[:: settings.views]]


def _scanned(frame: rooms.Frame, arms) -> dict[str, Any]:
  grid = np.zeros(frame.range.shape, bool)
  grid[::STRIDE, ::STRIDE] = True
  for settings in arms:
    grid &= sample.usable_mask(frame.intrinsics, settings)
  y, x = np.nonzero(grid)
  return labelled_at(frame, x, y)


def longest_line(pixels: np.ndarray, axis: int) -> tuple[int, np.ndarray]:
  """(where, labels in order) of the fullest row (axis 1) or column (axis 0)."""
  values, counts = np.unique(pixels[:, axis], return_counts=True)
  middle = np.median(pixels[:, axis])
  full = values[counts == counts.max()]
  where = int(full[np.argmin(np.abs(full - middle))])
  on = np.flatnonzero(pixels[:, axis] == where)
  return where, on[np.argsort(pixels[on, 1 - axis])]
