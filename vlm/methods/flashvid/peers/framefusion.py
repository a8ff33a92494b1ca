"""FrameFusion: merge what repeats at a place, then prune by importance."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from vlm.methods.flashvid.peers import budgets, runs, selection
from vlm.methods.flashvid.peers.peer import Peer


@dataclasses.dataclass(frozen=True)
class FrameFusion(Peer):
  """FrameFusion (arXiv 2501.01986) on visual tokens, in one step.

  A token whose cosine with its place a frame earlier is at least `threshold`
  joins that token's run; a run is averaged into its first token. Of those, the
  round(R F N) that receive most attention stay (a run has its members' mean),
  or all where merging left fewer. The original merges layer after layer inside
  the decoder, on hidden states, and prunes there by the decoder's attention;
  `Prune` cannot say that, so the tower's features and attention stand in.

  Attributes:
    threshold: of the cosine.
  """

  threshold: float = 0.6

  needs_attention: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    self._expect(-1 <= self.threshold <= 1, 'threshold', 'a cosine')

  def _video(self, video):
    near = runs.links(selection.unit(video.x))
    first = video.live & ~(near >= self.threshold)
    vectors = _fused(video.x, first, video.live)
    attention = _fused(video.attention[..., None], first, video.live)
    table = budgets.shared(self.retention, budgets.places(*video.live.shape))
    kept = selection.best(
      attention.ravel(),
      first.ravel(),
      budgets.at(table, video.frames, video.tokens),
    )
    return vectors, kept.reshape(first.shape)

  def _room(self, frames, tokens):
    return int(budgets.shared(self.retention, frames * tokens))


def _fused(x, first, live):
  """[F, N, D] -> the same with each run's mean at its first token."""
  frames, tokens = first.shape
  frame = jnp.arange(frames)[:, None]
  began = jax.lax.cummax(jnp.where(first, frame, 0))
  home = jnp.where(live, began * tokens + jnp.arange(tokens), -1)
  means, sizes = selection.averages(
    x.reshape(frames * tokens, -1), home.ravel(), frames * tokens
  )
  merged = (sizes > 1).reshape(frames, tokens, 1)
  return jnp.where(merged, means.reshape(x.shape), x)
