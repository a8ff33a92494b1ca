"""The visual prompt: a nine-pixel red arrow whose tip touches the query.

  . . # . . .        shaft (x-1 .. x-5, y), head (x-2, y±1), (x-3, y±2);
  . . . # . .        the query pixel Q keeps its colour.
# # # # # Q .
  . . . # . .
  . . # . . .

Shape, size and colour vary for the ablation. Every shape leaves the query free
and obeys the arrow's margin, so that arms are asked about the same pixels.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

RED = (255, 0, 0)
MARGIN = 5
_SHAFT = [(-k, 0) for k in range(1, 6)]
_HEAD = [(-2, -1), (-2, 1), (-3, -2), (-3, 2)]
_ARMS = [(k, 0) for k in (-3, -2, -1, 1, 2, 3)]
_RING = [(x, y) for x in range(-2, 3) for y in range(-2, 3)]
_CELLS = {
  'arrow': [*_SHAFT, *_HEAD],
  'cross': [*_ARMS, *((y, x) for x, y in _ARMS)],
  'square': [c for c in _RING if max(map(abs, c)) == 2],
}
SHAPES = tuple(_CELLS)


@dataclasses.dataclass(frozen=True)
class Marker:
  """What is drawn at a query.

  Attributes:
    shape: 'arrow' (published), 'cross' or 'square', open in the middle.
    size: side of the block that stands for each of its pixels (published: 1).
    colour: red, green, blue in 0..255 (published: 255, 0, 0).

  Raises:
    ValueError: another shape, a size below 1, or a colour out of range.
  """

  shape: str = 'arrow'
  size: int = 1
  colour: tuple[int, int, int] = RED

  def __post_init__(self):
    if self.shape not in SHAPES:
      raise ValueError(
        f'marker shape must be one of {SHAPES}, got {self.shape!r}'
      )
    if self.size < 1:
      raise ValueError(f'marker size must be at least 1, got {self.size}')
    whole = len(self.colour) == 3 and all(0 <= c <= 255 for c in self.colour)
    if not whole:
      raise ValueError(
        f'marker colour must be three numbers in 0..255, got {self.colour}'
      )

  @property
  def margin(self) -> int:
    """Pixels a query must keep from every edge."""
    return MARGIN * self.size

  @functools.cached_property
  def offsets(self) -> np.ndarray:
    """Painted pixels relative to the query, [K, 2] (dx, dy)."""
    painted = {
      (dx, dy)
      for x, y in _CELLS[self.shape]
      for dx in _block(x, self.size)
      for dy in _block(y, self.size)
    }
    return np.array(sorted(painted - {(0, 0)}))

  def fits(self, pixels: ArrayLike, width: int, height: int) -> np.ndarray:
    """[N] bool: pixels [N, 2] at least `margin` away from every edge."""
    x, y = np.asarray(pixels).T
    inside = (x >= self.margin) & (x < width - self.margin)
    return inside & (y >= self.margin) & (y < height - self.margin)

  def apart(self, pixels: ArrayLike, others: ArrayLike) -> np.ndarray:
    """[N] bool: markers at two lists of pixels [N, 2] stay clear of each other.

    Decided on their bounding boxes, query included.
    """
    spots = np.concatenate([self.offsets, [[0, 0]]])
    span = spots.max(0) - spots.min(0)
    return (np.abs(np.asarray(pixels) - others) > span).any(-1)

  def draw(self, image: np.ndarray, pixel: Sequence[int]) -> np.ndarray:
    """A copy of `image` uint8 [H, W, 3] marked at `pixel` (x, y).

    Raises:
      ValueError: when the marker does not fit.
    """
    height, width = image.shape[:2]
    if not self.fits(np.array([pixel]), width, height)[0]:
      raise ValueError(
        f'the {self.shape} at {tuple(pixel)} needs {self.margin} pixels on '
        f'every side of a {width} x {height} image'
      )
    marked = image.copy()
    x, y = (np.array(pixel) + self.offsets).T
    marked[y, x] = self.colour
    return marked


def _block(cell: int, size: int) -> range:
  """Pixels of a cell; those beside the query's own row are centred on it."""
  if cell > 0:
    return range((cell - 1) * size + 1, cell * size + 1)
  if cell < 0:
    return range(cell * size, (cell + 1) * size)
  return range(-((size - 1) // 2), size - (size - 1) // 2)


ARROW = Marker()
