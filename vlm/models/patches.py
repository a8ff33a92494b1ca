"""Host plans of towers that see whole frames at their own size.

Qwen3-VL merges blocks of patches and has learned positions, Pixtral neither.

A row's patches lie one image after another, in the published order, and padding
fills the row up to its bucket; see `windows` for towers that attend in windows.

    grids of patches   [(t, h, w), ...]  ->  arrays over S slots

Learned positions form a square grid, stretched over every image. Where a patch
falls between four of them is decided here too, so that nothing under jit
depends on an image's size.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vlm.models.windows import Grid


@dataclasses.dataclass(frozen=True)
class PatchLayout:
  """Facts of a checkpoint that decide where its patches lie.

  Attributes:
    patch: side of a patch, pixels.
    merge: patches along one side of a merge block.
    side: learned positions along one side of their square; 0 without any.
  """

  patch: int = 16
  merge: int = 2
  side: int = 48


def count_patches(grids: Sequence[Grid]) -> int:
  """Patches of a row's images and videos."""
  return sum(t * h * w for t, h, w in grids)


def count_tokens(grids: Sequence[Grid], layout: PatchLayout) -> int:
  """Visual tokens of a row: one per merge block."""
  return count_patches(grids) // layout.merge**2


def plan_patches(
  grids: Sequence[Grid], layout: PatchLayout, slots: int
) -> dict[str, np.ndarray]:
  """Lays a row's patches into a static number of slots.

  Args:
    grids: (frames, rows, columns) of patches of each image or video, in the
      order of the prompt; rows and columns are whole merge blocks.
    layout: the checkpoint's.
    slots: S, the row's bucket, whole merge blocks.

  Returns:
    source int32 [S]: the patch in a slot, counted in the published order
      (image, frame, block row by row, patch inside its block); -1 is empty.
    position int32 [S, 2]: row and column of the patch in its image.
    frame int32 [S]: 1.. numbers the frames of the row, 0 is empty.
    token int32 [M]: for each visual token, its place among the S / merge^2
      blocks.
    grid int32 [M, 3]: (t, h, w) of each visual token.
    taps int32 [S, 4]: the learned positions around a patch, if there are any.
    tap_weight float32 [S, 4]: their shares; all 0 in an empty slot.

  Raises:
    ValueError: when a grid is not made of merge blocks, or S does not fit.
  """
  merge, used = layout.merge, count_patches(grids)
  for _, h, w in grids:
    if h % merge or w % merge:
      raise ValueError(
        f'a grid of {h} x {w} patches, expected multiples of {merge}'
      )
  if used > slots or slots % merge**2:
    raise ValueError(
      f'the images have {used} patches, expected <= {slots} slots, and those '
      f'a multiple of {merge**2}'
    )
  parts = [_plan_visual(grid, layout) for grid in grids]
  frames = np.repeat(
    1 + np.arange(sum(t for t, _, _ in grids)),
    [h * w for t, h, w in grids for _ in range(t)],
  )
  # Pads to whole slots, and gives an empty row its shapes.
  fill = lambda name, *shape: np.concatenate(
    [part[name] for part in parts] + [np.zeros((slots - used, *shape))]
  )
  tokens = used // merge**2
  grid = [part['grid'] for part in parts]
  plan = {
    'source': np.where(np.arange(slots) < used, np.arange(slots), -1),
    'position': fill('position', 2),
    'frame': np.pad(frames, (0, slots - used)),
    'token': np.arange(tokens),
    'grid': np.concatenate([np.zeros((0, 3)), *grid]),
  }
  plan = {name: value.astype(np.int32) for name, value in plan.items()}
  if layout.side:
    plan['taps'] = fill('taps', 4).astype(np.int32)
    plan['tap_weight'] = fill('tap_weight', 4).astype(np.float32)
  return plan


def _plan_visual(grid: Grid, layout: PatchLayout) -> dict[str, np.ndarray]:
  """One image or video: its patches in the published order."""
  t, h, w = grid
  merge = layout.merge
  blocks = np.indices((t, h // merge, w // merge)).reshape(3, -1)
  inner = np.indices((merge, merge)).reshape(2, 1, -1)
  position = (merge * blocks[1:, :, None] + inner).reshape(2, -1)
  part = {'position': position.T, 'grid': blocks.T}
  if not layout.side:
    return part
  taps, shares = zip(
    *(_between(at, n, layout.side) for at, n in zip(position, (h, w)))
  )
  return part | {
    'taps': _outer(np.add, taps[0] * layout.side, taps[1]),
    'tap_weight': _outer(np.multiply, *shares),
  }


def _between(at: np.ndarray, count: int, side: int):
  """The two learned positions around each place along one axis, and shares.

  The first and the last of `count` places fall on the first and the last of
  `side` positions. float32, as published: the rounding decides the floor.
  """
  place = at.astype(np.float32) * np.float32(side - 1)
  place = place / np.float32(max(count - 1, 1))
  taps = np.floor(place)[:, None] + np.arange(2, dtype=np.float32)
  shares = 1 - np.abs(place[:, None] - taps)
  return np.minimum(taps, side - 1).astype(int), shares


def _outer(operation, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """All four pairs of a row's tap and a column's tap, [S, 4]."""
  return operation(rows[:, :, None], columns[:, None]).reshape(-1, 4)
