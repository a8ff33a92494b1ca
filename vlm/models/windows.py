"""Host plans of towers that take images at their own size (Qwen2.5-VL).

A tower sees a row's patches as windows of fixed size. What fills them is
decided here, in numpy, so that nothing under jit depends on an image's size:

    grids of patches   [(t, h, w), ...]  ->  arrays over W windows of S slots

A window covers `side` x `side` merge blocks; a block holds `merge` x `merge`
patches, which later become one visual token. A window that reaches over the
border of its image keeps its empty slots. (The published code packs windows of
several lengths instead; attention inside a window is the same.)
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

Grid = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class WindowLayout:
  """Facts of a checkpoint that decide its windows.

  Attributes:
    patch: side of a patch, pixels.
    merge: patches along one side of a merge block.
    window: side of a window, pixels.
  """

  patch: int = 14
  merge: int = 2
  window: int = 112

  @property
  def side(self) -> int:
    """Merge blocks along one side of a window."""
    return self.window // self.patch // self.merge

  @property
  def slots(self) -> int:
    """Patches a window has room for."""
    return (self.side * self.merge) ** 2


def count_windows(grids: Sequence[Grid], layout: WindowLayout) -> int:
  """Windows of a row's images and videos."""
  return sum(t * math.prod(_windows(h, w, layout)) for t, h, w in grids)


def count_tokens(grids: Sequence[Grid], layout: WindowLayout) -> int:
  """Visual tokens of a row: one per merge block."""
  return sum(t * h * w for t, h, w in grids) // layout.merge**2


def plan_windows(
  grids: Sequence[Grid], layout: WindowLayout, windows: int
) -> dict[str, np.ndarray]:
  """Lays a row's patches into a static number of windows.

  Args:
    grids: (frames, rows, columns) of patches of each image or video, in the
      order of the prompt; rows and columns are whole merge blocks.
    layout: the checkpoint's.
    windows: W, the row's bucket.

  Returns:
    source int32 [W * S]: the patch in a slot, counted in the published order
      (image, frame, block row by row, patch inside its block); -1 is empty.
    position int32 [W * S, 2]: row and column of the patch in its image.
    frame int32 [W * S]: 1.. numbers the frames of the row, 0 is empty.
    token int32 [M]: for each visual token, its place among the W * S / merge^2
      blocks.
    grid int32 [M, 3]: (t, h, w) of each visual token.

  Raises:
    ValueError: when a grid is not made of merge blocks, or W is too small.
  """
  needed = count_windows(grids, layout)
  if needed > windows:
    raise ValueError(f'the images fill {needed} windows, expected <= {windows}')
  merge, side, per_block = layout.merge, layout.side, layout.merge**2
  source = np.full(windows * layout.slots, -1, np.int32)
  position = np.zeros((len(source), 2), np.int32)
  frame = np.zeros(len(source), np.int32)
  tokens, coordinates = [], []
  window = patches = frames = 0
  for t, h, w in grids:
    if h % merge or w % merge:
      raise ValueError(
        f'a grid of {h} x {w} patches, expected multiples of {merge}'
      )
    at = np.indices((t, h // merge, w // merge)).reshape(3, -1)
    time, row, column = at
    down, across = _windows(h, w, layout)
    number = window + (time * down + row // side) * across + column // side
    block = (number * side + row % side) * side + column % side
    slot = (block[:, None] * per_block + np.arange(per_block)).ravel()
    inner = np.indices((merge, merge)).reshape(2, 1, -1)
    outer = merge * at[1:, :, None]
    source[slot] = patches + np.arange(len(slot))
    position[slot] = (outer + inner).reshape(2, -1).T
    frame[slot] = np.repeat(frames + 1 + time, per_block)
    tokens.append(block)
    coordinates.append(at.T)
    window += t * down * across
    patches += len(slot)
    frames += t
  return {
    'source': source,
    'position': position,
    'frame': frame,
    'token': np.concatenate([np.zeros(0, int), *tokens]).astype(np.int32),
    'grid': np.concatenate([np.zeros((0, 3), int), *coordinates]).astype(
      np.int32
    ),
  }


def _windows(h: int, w: int, layout: WindowLayout) -> tuple[int, int]:
  """Windows down and across an image of h x w patches."""
  blocks = layout.side * layout.merge
  return math.ceil(h / blocks), math.ceil(w / blocks)
