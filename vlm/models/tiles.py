"""Host plans of models that see an image as square tiles (InternVL).

An image is resized to a canvas of whole tiles, which follow each other row by
row; a thumbnail of the whole image comes last if there is more than one tile.
A frame of a video is one tile. Every tile gives `side`^2 tokens, and all of
them stand in the prompt in their order, here for a canvas of 1 x 2 tiles of
side 2:

    0 1 | 4 5     thumbnail   8  9
    2 3 | 6 7                10 11
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vlm.models.plan import Clip, RowPlan


@dataclasses.dataclass(frozen=True)
class Canvas:
  """An image of `rows` x `columns` tiles."""

  rows: int
  columns: int

  @property
  def tiles(self) -> int:
    """Tiles of the canvas, and the thumbnail if it has several."""
    count = self.rows * self.columns
    return count + (count > 1)


def count_tiles(visuals: Sequence[Canvas | Clip]) -> int:
  """Tiles of a row's images and videos."""
  return sum(
    visual.tiles if isinstance(visual, Canvas) else visual.frames
    for visual in visuals
  )


def plan_tiles(side: int, visuals: Sequence[Canvas | Clip]) -> RowPlan:
  """Plans one row: all its images and videos, in the order of the prompt.

  `grid` holds (t, h, w): t numbers the views of the row (a canvas, a thumbnail
  or a frame each count one), h and w are the place within the view.

  Args:
    side: tokens along one side of a tile.
    visuals: images and videos of the row; may be empty.

  Returns:
    Index and weight with one tap per token. A video's span is that of all its
    frames, each `side`^2 tokens.

  Raises:
    ValueError: an image of no tile, or a video of no frame.
  """
  grids, spans, views = [np.zeros((0, 3), int)], [], 0
  for visual in visuals:
    if min(dataclasses.astuple(visual)) < 1:
      raise ValueError(f'{visual}: expected at least one tile or frame')
    grid = _grid(side, visual)
    grids.append(grid + [views, 0, 0])
    spans.append(len(grid))
    views += 1 + int(grid[-1, 0])
  grid = np.concatenate(grids).astype(np.int32)
  return RowPlan(
    count_tiles(visuals),
    np.arange(len(grid), dtype=np.int32)[:, None],
    np.ones((len(grid), 1), np.float32),
    grid,
    tuple(spans),
  )


def _grid(side: int, visual: Canvas | Clip) -> np.ndarray:
  """(t, h, w) of the tokens of one image or video, tile by tile."""
  if isinstance(visual, Clip):
    return _cells(visual.frames, 1, 1, side)
  canvas = _cells(1, visual.rows, visual.columns, side)
  if visual.tiles == 1:
    return canvas
  return np.concatenate([canvas, _cells(1, 1, 1, side) + [1, 0, 0]])


def _cells(views: int, rows: int, columns: int, side: int) -> np.ndarray:
  at = np.indices((views, rows, columns, side, side)).reshape(5, -1)
  view, row, column, h, w = at
  return np.stack([view, row * side + h, column * side + w], axis=1)
