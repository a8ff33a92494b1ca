"""FastVID: density-based anchors in segments of similar frames."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vlm.methods.flashvid.peers import budgets, clusters, runs, selection
from vlm.methods.flashvid.peers.peer import Peer

NEIGHBOURS = 4


@dataclasses.dataclass(frozen=True)
class FastVID(Peer):
  """FastVID (arXiv 2503.11187).

  Of b = int(N R) tokens per frame, at least 1, c = int(b context) are context,
  the others the most attended of each frame. Segments end where the cosine of
  frame embeddings is below `cosine` and at the segments - 1 smallest. In a
  segment of L frames every `spacing`-th frame counted back from its last is an
  anchor; the A anchors have int(c L / A) centres each, by DPC score among the
  tokens left over (or all of these, where they are fewer). Each left-over token
  of the segment goes to its most similar centre in every anchor frame, and a
  centre moves to w centre + (1 - w) mean of what came, itself included, w =
  max(1 / (count + 1), weight).

  Frame embedding and attention are the mean token and the received attention;
  the original has the pooling head of its tower for both.

  Attributes:
    context: d, share of context tokens.
    cosine: tau of the segmentation.
    segments: the fewest segments, where there are as many frames.
    spacing: p.
    weight: beta, the least weight of a centre.
  """

  context: float = 0.4
  cosine: float = 0.9
  segments: int = 8
  spacing: int = 4
  weight: float = 0.6

  needs_attention: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    self._expect(0 <= self.context <= 1, 'context', 'a share in [0, 1]')
    self._expect(-1 <= self.cosine <= 1, 'cosine', 'a cosine')
    self._expect(self.segments >= 1, 'segments', 'at least 1')
    self._expect(self.spacing >= 1, 'spacing', 'at least 1')
    self._expect(0 <= self.weight <= 1, 'weight', 'a share in [0, 1]')

  def _video(self, video):
    total, context = self._counts(video.live.shape[1])
    salient = budgets.at(total - context, video.tokens)
    dominant = selection.best(video.attention, video.live, salient)
    rest = video.live & ~dominant
    most = min(video.live.shape[1], self.spacing * int(context.max()))
    if not most:
      return video.x, dominant
    segment = runs.stretches(self._starts(video))
    back = segment.last - jnp.arange(len(rest))
    anchors = -(-segment.length // self.spacing)
    count = budgets.at(context, video.tokens) * segment.length // anchors
    count = jnp.where(back % self.spacing == 0, count, 0)
    count = jnp.minimum(count, rest.sum(1))
    x, centres = self._merged(video.x, rest, segment.number, count, most)
    return x, dominant | centres

  def _starts(self, video):
    """bool [F]: where segments begin; padding is in segments of its own."""
    means = selection.unit(video.x.sum(1) / jnp.maximum(video.tokens, 1))
    near = jnp.einsum('fd,fd->f', means[1:], means[:-1], precision='highest')
    live = video.live[1:, 0]
    cut = (near < self.cosine) | selection.best(-near, live, self.segments - 1)
    return jnp.concatenate([jnp.ones(1, bool), cut | ~live])

  def _merged(self, x, rest, segment, count, most: int):
    """Centres of every frame, with what the frame's segment gives them."""
    place = jax.lax.map(lambda frame: _ranked(*frame)[:most], (x, rest))
    used = jnp.arange(most) < count[:, None]
    centres = jnp.take_along_axis(x, place[..., None], 1)
    means, sizes = self._given(x, rest, segment, centres, used)
    weight = jnp.maximum(1 / (sizes + 1), self.weight)[..., None]
    moved = weight * centres + (1 - weight) * means
    frame = jnp.arange(len(x))[:, None]
    place = jnp.where(used, place, x.shape[1])
    centre = jnp.zeros(rest.shape, bool).at[frame, place].set(True, mode='drop')
    return x.at[frame, place].set(moved, mode='drop'), centre

  def _given(self, x, rest, segment, centres, used):
    """What centres [F, C, D] are given: (means [F, C, D], counts [F, C])."""
    unit, targets = selection.unit(x), selection.unit(centres)
    there = rest.any(1)[:, None] & used.any(1)
    pairs = (segment[:, None] == segment) & there
    listed = selection.front(pairs.ravel())[: self._pairs(len(x))]

    def give(carry, pair):
      sums, sizes = carry
      giver, taker = pair // len(x), pair % len(x)
      near = jnp.einsum(
        'nd,cd->nc', unit[giver], targets[taker], precision='highest'
      )
      home = jnp.where(used[taker], near, -jnp.inf).argmax(1)
      home = jnp.where(rest[giver] & pairs[giver, taker], home, used.shape[1])
      sums = sums.at[taker, home].add(x[giver], mode='drop')
      return (sums, sizes.at[taker, home].add(1, mode='drop')), None

    start = (jnp.zeros_like(centres), jnp.zeros(used.shape, jnp.float32))
    (sums, sizes), _ = jax.lax.scan(give, start, listed)
    return sums / jnp.maximum(sizes, 1)[..., None], sizes

  def _pairs(self, frames: int) -> int:
    """The most pairs of a frame and an anchor of its segment.

    All cuts but the forced ones missing, and those at one end.
    """
    forced = min(self.segments, frames) - 1
    longest = frames - forced
    return forced + longest * -(-longest // self.spacing)

  def _counts(self, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 [tokens + 1]: tokens, and context tokens, of a frame of n."""
    sizes = np.arange(tokens + 1)
    total = np.maximum(
      budgets.floored(self.retention, sizes), np.minimum(sizes, 1)
    )
    return total, budgets.floored(self.context, total)

  def _room(self, frames, tokens):
    return frames * int(self._counts(tokens)[0][-1])


def _ranked(x, live):
  """Places of the tokens of a frame by DPC score, best first."""
  scores = clusters.scores(clusters.distances(x), live, NEIGHBOURS, NEIGHBOURS)
  return selection.order(scores, live)
