"""Host plans of towers that see an image's patches as they lie (Pixtral).

The patches of a row's images follow each other, row by row of each image, in a
static number of slots; what is left over stays empty:

    grids of patches   [(t, h, w), ...]  ->  arrays over S slots

The arrays have the names and meanings of those in `windows.py`, where a token
is a block of several patches; here it is one.
"""

from collections.abc import Sequence

import numpy as np

from vlm.models.windows import Grid


def count_patches(grids: Sequence[Grid]) -> int:
  """Patches, and visual tokens, of a row's images."""
  return sum(t * h * w for t, h, w in grids)


def plan_patches(grids: Sequence[Grid], slots: int) -> dict[str, np.ndarray]:
  """Lays a row's patches into a static number of slots.

  Args:
    grids: (frames, rows, columns) of patches of each image, in the order of the
      prompt; an image has one frame.
    slots: S, the row's bucket.

  Returns:
    source int32 [S]: the patch in a slot; -1 is empty.
    position int32 [S, 2]: row and column of the patch in its image.
    frame int32 [S]: 1.. numbers the images and frames of the row, 0 is empty.
    token int32 [M]: the slot of each visual token.
    grid int32 [M, 3]: (t, h, w) of each visual token.

  Raises:
    ValueError: when S is too small.
  """
  count = count_patches(grids)
  if count > slots:
    raise ValueError(f'the images have {count} patches, expected <= {slots}')
  token = np.arange(count, dtype=np.int32)
  source = np.full(slots, -1, np.int32)
  source[:count] = token
  position = np.zeros((slots, 2), np.int32)
  frame = np.zeros(slots, np.int32)
  coordinates, frames, start = [np.zeros((0, 3), np.int32)], 0, 0
  for t, h, w in grids:
    at = np.indices((t, h, w)).reshape(3, -1)
    place = slice(start, start + t * h * w)
    position[place] = at[1:].T
    frame[place] = frames + 1 + at[0]
    coordinates.append(at.T)
    frames += t
    start += t * h * w
  return {
    'source': source,
    'position': position,
    'frame': frame,
    'token': token,
    'grid': np.concatenate(coordinates).astype(np.int32),
  }
