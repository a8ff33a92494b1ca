"""Controls that look at nothing: random tokens, a stride, whole frames."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vlm.methods.flashvid.peers import budgets, selection
from vlm.methods.flashvid.peers.peer import Peer


def _spaced(place, count, total):
  """Whether `place` of `total` is one of ceil(i total / count), i < count."""
  return (place * count) % jnp.maximum(total, 1) < count


@dataclasses.dataclass(frozen=True)
class RandomTokens(Peer):
  """m = round(R N) uniformly random tokens of every frame, in their order.

  The draw depends on seed, frame and place alone: every video, padded or not,
  in whatever batch, loses the same places.

  Attributes:
    seed: of the draw.
  """

  seed: int = 0

  def _video(self, video):
    draw = jax.vmap(jax.random.fold_in, (None, 0))
    frames, tokens = map(jnp.arange, video.live.shape)
    keys = jax.vmap(draw, (0, None))(
      draw(jax.random.key(self.seed), frames), tokens
    )
    scores = jax.vmap(jax.vmap(jax.random.uniform))(keys)
    return video.x, selection.best(scores, video.live, self._per_frame(video))


@dataclasses.dataclass(frozen=True)
class Stride(Peer):
  """Every (1 / R)-th token of a frame: ceil(i N / m), m = round(R N)."""

  def _video(self, video):
    place = jnp.arange(video.live.shape[1])
    kept = _spaced(place, self._per_frame(video), video.tokens)
    return video.x, video.live & kept


@dataclasses.dataclass(frozen=True)
class FrameDrop(Peer):
  """Every (1 / R)-th frame whole: ceil(i F / k), k = round(R F), at least 1."""

  def _video(self, video):
    total = len(video.live)
    table = budgets.shared(self.retention, np.arange(total + 1))
    kept = _spaced(
      jnp.arange(total), budgets.at(table, video.frames), video.frames
    )
    return video.x, video.live & kept[:, None]

  def _room(self, frames, tokens):
    return int(budgets.shared(self.retention, frames)) * tokens
