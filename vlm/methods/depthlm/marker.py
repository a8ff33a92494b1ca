"""The visual prompt: a nine-pixel red arrow whose tip touches the query.

  . . # . . .        shaft (x-1 .. x-5, y), head (x-2, y±1), (x-3, y±2);
  . . . # . .        the query pixel Q keeps its colour.
# # # # # Q .
  . . . # . .
  . . # . . .
"""

import numpy as np
from numpy.typing import ArrayLike

RED = (255, 0, 0)
MARGIN = 5
_SHAFT = [(-k, 0) for k in range(1, 6)]
_HEAD = [(-2, -1), (-2, 1), (-3, -2), (-3, 2)]
OFFSETS = np.array(_SHAFT + _HEAD)  # [9, 2] (dx, dy)


def fits(pixels: ArrayLike, width: int, height: int) -> np.ndarray:
  """[N] bool: 5 <= x < W - 5 and 5 <= y < H - 5 for pixels [N, 2]."""
  x, y = np.asarray(pixels).T
  inside = (x >= MARGIN) & (x < width - MARGIN)
  return inside & (y >= MARGIN) & (y < height - MARGIN)


def draw(image: np.ndarray, pixel, colour=RED) -> np.ndarray:
  """A copy of `image` uint8 [H, W, 3] with the arrow for `pixel` (x, y).

  Raises:
    ValueError: when the arrow does not fit.
  """
  height, width = image.shape[:2]
  if not fits(np.array([pixel]), width, height)[0]:
    raise ValueError(
      f'the arrow at {tuple(pixel)} needs {MARGIN} pixels on every side of a '
      f'{width} x {height} image'
    )
  marked = image.copy()
  x, y = (np.array(pixel) + OFFSETS).T
  marked[y, x] = colour
  return marked
