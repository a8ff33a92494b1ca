"""PruneVID: static places averaged over a scene, clusters in each frame."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vlm.methods.flashvid.peers import budgets, clusters, runs, selection
from vlm.methods.flashvid.peers.peer import PruningPeer

NEIGHBOURS = 7


@dataclasses.dataclass(frozen=True)
class PruneVID(PruningPeer):
  """PruneVID (arXiv 2412.16117).

  Frames are clustered by their mean token into int(gamma F) scenes, which are
  made contiguous. In a scene a place is static where its mean cosine over pairs
  of frames exceeds `threshold`; static tokens are averaged over the scene and
  stand in its first frame. The static tokens of a scene, and the others of each
  frame, are then clustered to the share beta = `expansion` R of them, unless
  they are few. Inside the decoder, layer K keeps `share` of what is left.

  The published beta is such that (K + (L - K) share) beta / L = R at K = 10 and
  L = 28, which are the defaults; `aligned` has the same for other depths. How
  many tokens are left depends on the video: fewer than beta F N where places
  are static, more where groups are `small`. The original prunes by the largest
  attention over heads and question tokens and shortens earlier caches too;
  `Prune` has the mean over heads of the last token, from layer K on.

  Attributes:
    gamma: scenes per frame.
    threshold: tau, of the mean cosine.
    small: groups of at most so many tokens are left as they are.
    expansion: beta / R.
    layer: K.
    share: alpha, of visual tokens that stay from layer K on.
  """

  gamma: float = 0.25
  threshold: float = 0.8
  small: int = 14
  expansion: float = budgets.expansion(10, 0.4, budgets.PUBLISHED_DEPTH)
  layer: int = 10
  share: float = 0.4

  def __post_init__(self):
    super().__post_init__()
    self._expect(0 < self.gamma <= 1, 'gamma', 'a share in (0, 1]')
    self._expect(-1 <= self.threshold <= 1, 'threshold', 'a cosine')
    self._expect(self.small >= 0, 'small', 'at least 0')

  def _video(self, video):
    scene = runs.stretches(self._starts(video))
    static = self._static(video, scene)
    spans = jnp.where(static[..., None], video.x, 0)
    means = runs.per_stretch(spans, scene.number)[scene.number]
    means = means / scene.length[:, None, None]
    x = jnp.where(static[..., None], means, video.x)
    first = (scene.first == jnp.arange(len(x)))[:, None]
    merge = lambda groups: _merged(*groups, self._counts(x.shape[1]))
    x, background = jax.lax.map(merge, (x, static & first))
    x, moving = jax.lax.map(merge, (x, video.live & ~static))
    return x, background | moving

  def _starts(self, video):
    """bool [F]: where scenes begin."""
    means = video.x.sum(1) / jnp.maximum(video.tokens, 1)
    live = video.live[:, 0]
    table = budgets.floored(self.gamma, np.arange(len(live) + 1))
    found = clusters.cluster(
      means,
      live,
      jnp.maximum(budgets.at(table, video.frames), 1),
      NEIGHBOURS,
      NEIGHBOURS,
    )
    return runs.changes(_contiguous(found.home, live))

  def _static(self, video, scene):
    """bool [F, N]: mean cosine over pairs of frames above the threshold."""
    unit = selection.unit(video.x)
    whole = runs.per_stretch(unit, scene.number)
    whole = jnp.sum(whole**2, -1)
    alone = runs.per_stretch(jnp.sum(unit**2, -1), scene.number)
    pairs = (scene.length * (scene.length - 1))[:, None]
    cosine = (whole - alone)[scene.number] / jnp.maximum(pairs, 1)
    return video.live & (pairs > 0) & (cosine > self.threshold)

  def _counts(self, tokens: int) -> np.ndarray:
    """int32 [tokens + 1]: clusters of a group of n."""
    group = np.arange(tokens + 1)
    merged = budgets.floored(self._entering(), group)
    merged = np.maximum(merged, 1)
    return np.where(group <= self.small, group, merged).astype(np.int32)

  def _room(self, frames, tokens):
    counts = self._counts(tokens)
    split = lambda n: (counts[: n + 1] + counts[n::-1]).max()
    return frames * int(max(split(n) for n in range(tokens + 1)))


def _merged(x, live, table):
  """Clusters a group to the count in the table: (x, centres) of a frame."""
  found = clusters.cluster(
    x, live, budgets.at(table, live.sum()), NEIGHBOURS, NEIGHBOURS
  )
  means, sizes = selection.averages(x, found.home, len(x))
  return jnp.where((sizes > 1)[:, None], means, x), found.centre


def _contiguous(labels, live):
  """Scenes in one piece each: labels int [F] of frames -> labels int32 [F].

  The longest stretches of every label stay, unless single frames. Others go,
  from the first on, to the longer of the scenes beside them, ties to the left.
  """
  run = runs.stretches(runs.changes(labels))
  longest = jax.ops.segment_max(run.length, labels, num_segments=len(labels))
  stays = live & (run.length == longest[labels]) & (run.length > 1)
  follow = _following(stays)
  right = jnp.where(
    follow < len(labels), run.length.at[follow].get(mode='clip'), 0
  )
  rightward = labels.at[follow].get(mode='clip')

  def step(carry, frame):
    label, length, gap = carry
    stays, own, right, rightward = frame
    leftward = (length >= right) & (length > 0)
    filled = jnp.where(leftward, label, jnp.where(right > 0, rightward, 0))
    new = jnp.where(stays, own, jnp.where(gap, label, filled))
    length = jnp.where(new == label, length + 1, 1)
    return (new, length, ~stays), new

  start = (jnp.int32(-1), jnp.int32(0), jnp.bool(False))
  frames = (stays, labels.astype(jnp.int32), right, rightward.astype(jnp.int32))
  _, scenes = jax.lax.scan(step, start, frames)
  return jnp.where(live, scenes, -1)


def _following(stays):
  """int [F]: the first frame from each on that stays; F where none does."""
  frame = jnp.where(stays, jnp.arange(len(stays)), len(stays))
  return jax.lax.cummin(frame, reverse=True)
