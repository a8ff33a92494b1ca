"""Patches of images of any size, in the slots of a row.

A plan says what fills the slots. `plan_in_order` is that of a tower without
windows; `vlm.models.windows` has that of a tower with windows.
"""

from collections.abc import Sequence

import numpy as np

Grid = tuple[int, int, int]  # frames, rows and columns of patches


def plan_in_order(
  grids: Sequence[Grid], merge: int = 1
) -> dict[str, np.ndarray]:
  """Patches in their published order, one slot each.

  Args:
    grids: whole merge blocks, in the order of the prompt.
    merge: patches along one side of a block; the patches of a block follow one
      another and become one visual token.

  Returns:
    position int32 [S, 2]: row and column of the patch in its image.
    frame int32 [S]: 1.. numbers the frames of the row.
    token int32 [M]: for each visual token, its place among the blocks.
    grid int32 [M, 3]: (t, h, w) of each visual token in its image or video.
  """
  positions, frames = [np.zeros((0, 2), int)], [np.zeros(0, int)]
  coordinates, shown = [np.zeros((0, 3), int)], 0
  for t, h, w in grids:
    blocks = np.indices((t, h // merge, w // merge)).reshape(3, -1)
    inner = np.indices((merge, merge)).reshape(2, 1, -1)
    outer = merge * blocks[1:, :, None]
    positions.append((outer + inner).reshape(2, -1).T)
    frames.append(np.repeat(shown + 1 + blocks[0], merge**2))
    coordinates.append(blocks.T)
    shown += t
  grid = np.concatenate(coordinates).astype(np.int32)
  return {
    'position': np.concatenate(positions).astype(np.int32),
    'frame': np.concatenate(frames).astype(np.int32),
    'token': np.arange(len(grid), dtype=np.int32),
    'grid': grid,
  }


def fill_slots(
  patches: np.ndarray, plan: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Lays patches into the slots of a plan.

  Args:
    patches: uint8 [n, V], in their published order.
    plan: with `frame` [S]; and `source` [S], the patch in each slot or -1, if
      they are not in order.

  Returns:
    pixels uint8 [S, V], zero in empty slots; and the plan without `source`,
    which no model reads.
  """
  pixels = np.zeros((len(plan['frame']), patches.shape[1]), np.uint8)
  source = plan.get('source', np.arange(len(patches)))
  full = np.flatnonzero(source >= 0)
  pixels[full] = patches[source[full]]
  return pixels, {key: plan[key] for key in plan if key != 'source'}
