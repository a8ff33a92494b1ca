"""Static plans: which patch features make up which visual token.

A tower sees tiles of one size; images and videos come in any size. Everything
that depends on the size is decided here, on the host, with numpy, so that a
jitted function only ever gathers with index arrays of bucketed shapes:

    token[m] = sum_k weight[m, k] * bank[index[m, k]]
    bank     = tile features flattened [I * P], then the newline vector

Sources of the rules: LLaVA-OneVision (arXiv 2408.03326, section 3.2: anyres
up to 9 tiles' worth of tokens with bilinear shrinking, base view first) and
LLaVA-Video (arXiv 2410.02713; its published configuration: bilinear pooling
with stride 2, newline position `grid`).
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

NEWLINE = -1  # stands for the newline vector until the tile count is known


@dataclasses.dataclass(frozen=True)
class Still:
  """An image of `height` x `width` pixels."""

  height: int
  width: int


@dataclasses.dataclass(frozen=True)
class Clip:
  """A video of `frames` sampled frames; each frame is one tile."""

  frames: int


Visual = Still | Clip


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a checkpoint lays visual tokens out.

  Attributes:
    tile: side of the square tile the tower sees, in pixels.
    side: patches along one side of a tile.
    resolutions: (height, width) canvases in pixels an image may be fitted to;
      without any, every image is its base view.
    max_tiles: tokens of the high-resolution view are shrunk to about
      `max_tiles * side**2` (the 9 of `anyres_max_9`).
    newline: where a video gets the newline vector: once at its end
      (LLaVA-OneVision), after each row of each frame (LLaVA-Video), or after
      each frame (where frames lose tokens and have no rows).
    pool: stride with which the frames of a video are pooled; 1 leaves them.
  """

  tile: int
  side: int
  resolutions: tuple[tuple[int, int], ...]
  max_tiles: int = 9
  newline: Literal['end', 'grid', 'frame'] = 'end'
  pool: int = 2

  @property
  def patches(self) -> int:
    """Patches in one tile."""
    return self.side**2

  @property
  def pooled(self) -> int:
    """Side of a video frame after pooling."""
    return math.ceil(self.side / self.pool)


@dataclasses.dataclass(frozen=True, eq=False)
class RowPlan:
  """The plan of one row before padding.

  Attributes:
    tiles: number of tiles the row needs.
    index: int32 [M, K], positions in the bank, `NEWLINE` for the newline.
    weight: float32 [M, K].
    grid: int32 [M, 3], see `plan_row`.
    spans: tokens of each visual, in order; their sum is M. A prompt needs
      exactly this many placeholders per visual.
  """

  tiles: int
  index: np.ndarray
  weight: np.ndarray
  grid: np.ndarray
  spans: tuple[int, ...]


def best_resolution(
  height: int, width: int, resolutions: Sequence[tuple[int, int]]
) -> tuple[int, int]:
  """Picks the canvas that keeps most pixels and then wastes least.

  Args:
    height: of the image, pixels.
    width: of the image, pixels.
    resolutions: candidate (height, width), pixels; the first wins a tie.

  Raises:
    ValueError: the image is so thin that no canvas keeps a pixel of it.
  """

  def merit(canvas: tuple[int, int]) -> tuple[int, int]:
    scale = min(canvas[1] / width, canvas[0] / height)
    kept = min(int(width * scale) * int(height * scale), width * height)
    return kept, kept - canvas[0] * canvas[1]

  best = max(resolutions, key=merit)
  if merit(best)[0] == 0:
    raise ValueError(
      f'an image of {height} x {width} pixels is too thin: scaled to fit any '
      f'of the canvases up to {max(resolutions)} it has no pixel left'
    )
  return tuple(best)


def tile_grid(layout: Layout, still: Still) -> tuple[int, int]:
  """Rows and columns of tiles in the high-resolution view of an image."""
  height, width = best_resolution(still.height, still.width, layout.resolutions)
  return height // layout.tile, width // layout.tile


def count_tiles(layout: Layout, visuals: Sequence[Visual]) -> int:
  """Tiles a row needs: one per frame, one or base + grid per image."""
  total = 0
  for visual in visuals:
    if isinstance(visual, Clip):
      total += visual.frames
    elif has_single_view(layout, visuals):
      total += 1
    else:
      total += 1 + math.prod(tile_grid(layout, visual))
  return total


def has_single_view(layout: Layout, visuals: Sequence[Visual]) -> bool:
  """Whether the images of a row get the base view only.

  A row with several images gives each of them one padded square tile; only
  the image that is alone in its row is cut into tiles, if the layout has any
  canvas for it.
  """
  several = sum(isinstance(v, Still) for v in visuals) > 1
  return several or not layout.resolutions


def plan_row(layout: Layout, visuals: Sequence[Visual]) -> RowPlan:
  """Plans one row: all its images and videos, in the order of the prompt.

  An image alone in its row is its base view (`side**2` tokens), then the rows
  of the unpadded high-resolution view, each followed by the newline:

      b b        base, 2 x 2 patches
      b b
      x x x x n  one row of a 1 x 2 tile grid, then the newline
      x x x x n

  One of several images is its base view and one newline. A video is its
  frames pooled bilinearly to `ceil(side / pool)` and newlines per
  `layout.newline`.

  `grid` holds (t, h, w): t numbers the views of the row (a frame, a base view
  or a high-resolution view each count one), h and w are the place within the
  view. A newline has w = -1, and h = -1 (t = -1) where it ends no row (view).

  Args:
    layout: the checkpoint's layout.
    visuals: images and videos of the row; may be empty.

  Raises:
    ValueError: an image too thin for every canvas, or a video of no frame.
  """
  single = has_single_view(layout, visuals)
  index, weight, grid, spans = [], [], [], []
  tiles = views = 0
  for visual in visuals:
    part = _plan_visual(layout, visual, single)
    offset = tiles * layout.patches
    index.append(np.where(part.index < 0, NEWLINE, part.index + offset))
    weight.append(part.weight)
    grid.append(part.grid + np.array([views, 0, 0]) * (part.grid[:, :1] >= 0))
    spans.append(len(part.index))
    tiles += part.tiles
    views += 1 + int(part.grid[:, 0].max(initial=-1))
  taps = max([w.shape[1] for w in weight], default=1)
  return RowPlan(
    tiles,
    _stack([_widen(i, taps) for i in index], (0, taps), np.int32),
    _stack([_widen(w, taps) for w in weight], (0, taps), np.float32),
    _stack(grid, (0, 3), np.int32),
    tuple(spans),
  )


def pack_plans(
  rows: Sequence[RowPlan], layout: Layout, tiles: int, tokens: int, taps: int
) -> dict[str, np.ndarray]:
  """Pads the plans of a batch to one static shape.

  Args:
    rows: B plans.
    layout: the layout they were made with.
    tiles: I, tiles per row in the batch's `pixels` (see `bucket`).
    tokens: M, visual tokens per row.
    taps: K, 1 (no interpolation anywhere) or 4.

  Returns:
    {index int32 [B, M, K], weight float32 [B, M, K], valid bool [B, M],
    grid int32 [B, M, 3]}; unused slots have weight 0, valid False, grid -1.

  Raises:
    ValueError: a row does not fit; names the row and what it needs.
  """
  plan = {
    'index': np.zeros((len(rows), tokens, taps), np.int32),
    'weight': np.zeros((len(rows), tokens, taps), np.float32),
    'valid': np.zeros((len(rows), tokens), bool),
    'grid': np.full((len(rows), tokens, 3), -1, np.int32),
  }
  for number, row in enumerate(rows):
    count, need = row.index.shape
    if row.tiles > tiles or count > tokens or need > taps:
      raise ValueError(
        f'row {number} needs {row.tiles} tiles, {count} visual tokens and '
        f'{need} taps; the batch has room for {tiles}, {tokens} and {taps}: '
        'choose larger buckets'
      )
    newline = tiles * layout.patches
    filled = np.where(row.index == NEWLINE, newline, row.index)
    plan['index'][number, :count, :need] = filled
    plan['weight'][number, :count, :need] = row.weight
    plan['valid'][number, :count] = True
    plan['grid'][number, :count] = row.grid
  return plan


def bucket(count: int, buckets: Sequence[int], name: str) -> int:
  """The smallest bucket that holds `count`.

  Args:
    count: what has to fit.
    buckets: allowed static sizes, in any order.
    name: what is counted, and where its buckets are set, for the message.

  Raises:
    ValueError: `count` is beyond the largest bucket.
  """
  fitting = [size for size in buckets if size >= count]
  if not fitting:
    raise ValueError(
      f'{name}: {count} does not fit the largest bucket of {sorted(buckets)}'
    )
  return min(fitting)


@functools.lru_cache(maxsize=128)  # a long video takes about 1 MB
def _plan_visual(layout: Layout, visual: Visual, single: bool) -> RowPlan:
  if isinstance(visual, Clip):
    return _plan_clip(layout, visual.frames)
  base = _view(0, _tile_cells(layout, 1, 1), newline=False)
  if single:
    return _join([base, _newline((0, -1, -1))], tiles=1)
  rows, columns = tile_grid(layout, visual)
  cells = layout.patches + _tile_cells(layout, rows, columns)
  cells = _unpad(cells, visual)
  height, width = cells.shape
  ratio = math.sqrt(height * width / (layout.max_tiles * layout.patches))
  if ratio > 1.1:  # the threshold below which shrinking is not worth the blur
    view = _shrunk_view(1, cells, int(height // ratio), int(width // ratio))
  else:
    view = _view(1, cells, newline=True)
  return _join([base, view], tiles=1 + rows * columns)


def _plan_clip(layout: Layout, frames: int) -> RowPlan:
  if frames < 1:
    raise ValueError(f'a video needs at least one frame, got {frames}')
  cells = _tile_cells(layout, 1, 1)
  parts = []
  for t in range(frames):
    parts.append(_frame_view(layout, t, cells + t * layout.patches))
    if layout.newline == 'frame':
      parts.append(_newline((t, -1, -1)))
  if layout.newline == 'end':
    parts.append(_newline((-1, -1, -1)))
  return _join(parts, tiles=frames)


def _frame_view(layout: Layout, t: int, cells: np.ndarray) -> RowPlan:
  rows, side = layout.newline == 'grid', layout.pooled
  if layout.pool == 1:
    return _view(t, cells, rows)
  return _shrunk_view(t, cells, side, side, rows)


def _tile_cells(layout: Layout, rows: int, columns: int) -> np.ndarray:
  """Bank positions of a canvas of tiles [rows * side, columns * side]."""
  cells = np.arange(rows * columns * layout.patches).reshape(
    rows, columns, layout.side, layout.side
  )
  return cells.transpose(0, 2, 1, 3).reshape(
    rows * layout.side, columns * layout.side
  )


def _unpad(cells: np.ndarray, still: Still) -> np.ndarray:
  """Cuts the bands that exist only because the canvas has another shape."""
  height, width = cells.shape
  if still.width / still.height > width / height:
    used = int(round(still.height * (width / still.width), 7))
    band = (height - used) // 2
    return cells[band : height - band]
  used = int(round(still.width * (height / still.height), 7))
  band = (width - used) // 2
  return cells[:, band : width - band]


def _view(t: int, cells: np.ndarray, newline: bool) -> RowPlan:
  """The cells as they are, row by row."""
  return _assemble(t, cells[..., None], np.ones((*cells.shape, 1)), newline)


def _shrunk_view(
  t: int, cells: np.ndarray, height: int, width: int, newline: bool = True
) -> RowPlan:
  """The cells resized bilinearly (half-pixel centres, no antialiasing)."""
  top, bottom, down = _linear_taps(cells.shape[0], height)
  left, right, across = _linear_taps(cells.shape[1], width)
  taps = [
    cells[np.ix_(rows, columns)]
    for rows in (top, bottom)
    for columns in (left, right)
  ]
  weight = [
    np.outer(a, b) for a in (1 - down, down) for b in (1 - across, across)
  ]
  return _assemble(t, np.stack(taps, -1), np.stack(weight, -1), newline)


def _linear_taps(
  source: int, target: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Neighbours and the weight of the second when `source` becomes `target`.

  In float32, in which torch's interpolation computes positions too.
  """
  scale = np.float32(source / target)
  place = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale
  place = np.maximum(place - np.float32(0.5), 0)
  first = place.astype(int)
  return first, np.minimum(first + 1, source - 1), place - first


def _assemble(
  t: int, index: np.ndarray, weight: np.ndarray, newline: bool
) -> RowPlan:
  """A view [h, w, K] as tokens, with a newline after each row if asked."""
  height, width, taps = index.shape
  grid = np.stack(
    np.meshgrid(t, np.arange(height), np.arange(width), indexing='ij'), -1
  )[0]
  if newline:
    end = np.broadcast_to(grid[:, :1] * [1, 1, 0] - [0, 0, 1], (height, 1, 3))
    grid = np.concatenate([grid, end], axis=1)
    last = np.zeros((height, 1, taps))
    last[..., 0] = 1
    weight = np.concatenate([weight, last], axis=1)
    index = np.pad(index, ((0, 0), (0, 1), (0, 0)), constant_values=NEWLINE)
  index = index.reshape(-1, taps)
  return RowPlan(
    0, index, weight.reshape(-1, taps), grid.reshape(-1, 3), (len(index),)
  )


def _newline(grid: tuple[int, int, int]) -> RowPlan:
  return RowPlan(
    0, np.array([[NEWLINE]]), np.ones((1, 1)), np.array([grid]), (1,)
  )


def _join(parts: Sequence[RowPlan], tiles: int) -> RowPlan:
  taps = max(part.weight.shape[1] for part in parts)
  return RowPlan(
    tiles,
    _stack([_widen(p.index, taps) for p in parts], (0, taps), np.int32),
    _stack([_widen(p.weight, taps) for p in parts], (0, taps), np.float32),
    _stack([p.grid for p in parts], (0, 3), np.int32),
    (sum(p.spans[0] for p in parts),),
  )


def _widen(values: np.ndarray, taps: int) -> np.ndarray:
  return np.pad(values, ((0, 0), (0, taps - values.shape[1])))


def _stack(parts: list, empty: tuple[int, int], dtype) -> np.ndarray:
  return np.concatenate([np.zeros(empty), *parts]).astype(dtype)
