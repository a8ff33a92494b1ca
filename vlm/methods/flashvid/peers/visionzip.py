"""VisionZip: dominant tokens by attention, contextual ones by merging."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from vlm.methods.flashvid.peers import budgets, selection
from vlm.methods.flashvid.peers.peer import Peer


@dataclasses.dataclass(frozen=True)
class VisionZip(Peer):
  """VisionZip (arXiv 2412.04467) on each frame, behind the pooling.

  Of m = round(R N) tokens, C are contextual: evenly spaced among what the
  m - C most attended leave over; every other goes to the contextual token of
  highest cosine. As released, the mean of what came is added to the token, not
  averaged with it. Similarity is that of features; the original has the keys of
  the tower's attention.

  Attributes:
    contextual: C / m; 10 of 64 as released.
  """

  contextual: float = 10 / 64

  needs_attention: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    self._expect(0 <= self.contextual < 1, 'contextual', 'a share in [0, 1)')

  def _video(self, video):
    sizes = range(video.live.shape[1] + 1)
    totals = budgets.shared(self.retention, sizes)
    table = (totals * self.contextual).round().astype('int32')
    total = budgets.at(totals, video.tokens)
    contextual = budgets.at(table, video.tokens)
    dominant = selection.best(video.attention, video.live, total - contextual)
    rest = video.live & ~dominant
    merge = lambda x, rest: _merged(x, rest, contextual, int(table.max()))
    vectors, targets = jax.vmap(merge)(video.x, rest)
    return vectors, dominant | targets


def _merged(x, rest, count, most: int):
  """(vectors [N, D], which are targets [N]) of one frame's leftover tokens."""
  if not most:
    return x, jnp.zeros_like(rest)
  count = jnp.minimum(count, rest.sum())
  stride = jnp.maximum(1, rest.sum() // jnp.maximum(count, 1))
  slots = jnp.arange(most)
  places = selection.front(rest)[jnp.minimum(slots * stride, len(x) - 1)]
  places = jnp.where(slots < count, places, len(x))
  target = jnp.zeros(len(x), bool).at[places].set(True, mode='drop')
  near = selection.similarities(x, x.at[places].get(mode='clip'))
  home = jnp.where(slots < count, near, -jnp.inf).argmax(1)
  home = jnp.where(rest & ~target, home, -1)
  means, _ = selection.averages(x, home, most)
  return x.at[places].add(means, mode='drop'), target
