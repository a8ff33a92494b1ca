"""Uniform average pooling of each frame's grid."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vlm.methods.flashvid.peers import budgets, selection
from vlm.methods.flashvid.peers.peer import Peer


@dataclasses.dataclass(frozen=True)
class Pooling(Peer):
  """Averages the grid over p x q cells, as square as m = round(R N) allows.

  Rows r with floor(r p / h) equal share a cell, columns likewise, so every
  token is averaged once. A cell stands at its middle. p q is at most m, and
  close to it.

  Attributes:
    grid: (h, w) of frames of h w tokens; other frames, and all by default, are
      taken to be as square as their number of tokens allows.
  """

  grid: tuple[int, int] | None = None

  def __post_init__(self):
    super().__post_init__()
    whole = self.grid is None or (len(self.grid) == 2 and min(self.grid) > 0)
    self._expect(whole, 'grid', '(rows, columns)')

  def _video(self, video):
    count = video.live.shape[1]
    table = np.array([self._sizes(n) for n in range(count + 1)])
    h, w, p, q = budgets.at(table, video.tokens)
    place = jnp.arange(count)
    row, column = place // w, place % w
    cell = jnp.where(video.live[0], row * p // h * q + column * q // w, -1)
    means, sizes = jax.vmap(lambda x: selection.averages(x, cell, count))(
      video.x
    )
    middle = (row == _middle(row * p // h, h, p)) & (
      column == _middle(column * q // w, w, q)
    )
    merged = (sizes > 1)[:, cell][..., None]
    vectors = jnp.where(merged, means[:, cell], video.x)
    return vectors, video.live & middle

  def _sizes(self, tokens: int) -> tuple[int, int, int, int]:
    """(h, w, p, q) of a frame of `tokens` tokens."""
    if tokens == 0:
      return 1, 1, 1, 1
    h, w = self._grid(tokens)
    most = int(budgets.shared(self.retention, tokens))
    p = min(h, max(1, int(np.sqrt(most * h / w))))
    rows = [rows for rows in (p, p + 1) if rows <= min(h, most)]
    return (
      h,
      w,
      *max(
        ((p, min(w, most // p)) for p in rows),
        key=lambda cell: cell[0] * cell[1],
      ),
    )

  def _grid(self, tokens: int) -> tuple[int, int]:
    if self.grid is not None and self.grid[0] * self.grid[1] == tokens:
      return self.grid
    h = next(h for h in range(int(tokens**0.5), 0, -1) if tokens % h == 0)
    return h, tokens // h


def _middle(cell, length, cells):
  """The middle of the places r with r cells // length == cell, lower first."""
  start = -(-cell * length // cells)
  stop = -(-(cell + 1) * length // cells)
  return (start + stop - 1) // 2
