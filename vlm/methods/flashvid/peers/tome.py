"""ToMe: bipartite soft matching, repeated until a frame has m tokens."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vlm.methods.flashvid.peers import budgets, selection
from vlm.methods.flashvid.peers.peer import Peer


class _Frame(NamedTuple):
  x: jax.Array
  size: jax.Array
  live: jax.Array


@dataclasses.dataclass(frozen=True)
class ToMe(Peer):
  """ToMe (arXiv 2210.09461) as a reduction of each frame to m = round(R N).

  Tokens are dealt alternately to A and B in the order of their places; each of
  A finds its best match in B, the best pairs are merged by mean weighted by
  size, at B's place; again until m are left, at most halving each time. The
  original spreads the rounds over the tower's layers, matches its keys and
  deals in the order the last round left; here it is features and places.
  """

  def _video(self, video):
    rounds = self._rounds(video.live.shape[1])
    size = jnp.ones(video.live.shape, jnp.float32)
    frames = _Frame(video.x, size, video.live)
    if rounds:
      target = self._per_frame(video)
      step = lambda _, frame: _round(frame, target)
      frames = jax.lax.map(
        lambda frame: jax.lax.fori_loop(0, rounds, step, frame), frames
      )
    return frames.x, frames.live

  def _rounds(self, tokens: int) -> int:
    """The most rounds that a frame of at most `tokens` tokens needs."""
    most = 0
    for count in range(tokens + 1):
      target = int(budgets.shared(self.retention, count))
      rounds = 0
      while count > target:
        count -= min(count // 2, count - target)
        rounds += 1
      most = max(most, rounds)
    return most


def _round(frame: _Frame, target) -> _Frame:
  x, size, live = frame
  count = live.sum()
  order = selection.front(live)
  a, b = order[0::2], order[1::2]
  near = selection.similarities(x[a], x[b])
  near = jnp.where(2 * jnp.arange(len(b)) + 1 < count, near, -jnp.inf)
  merges = jnp.minimum(count // 2, jnp.maximum(count - target, 0))
  gone = selection.best(near.max(1), 2 * jnp.arange(len(a)) < count, merges)
  into = jnp.where(gone, b[near.argmax(1)], len(x))
  mass = (x * size[:, None]).at[into].add(x[a] * size[a, None], mode='drop')
  grown = size.at[into].add(size[a], mode='drop')
  means = jnp.where((grown > size)[:, None], mass / grown[:, None], x)
  gone = jnp.where(gone, a, len(x))
  return _Frame(means, grown, live.at[gone].set(False, mode='drop'))
