"""HoliTom: windows by dynamic programming, static places averaged in each."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from vlm.methods.flashvid.peers import budgets, clusters, runs, selection
from vlm.methods.flashvid.peers.peer import PruningPeer

NEIGHBOURS = 7


@dataclasses.dataclass(frozen=True)
class HoliTom(PruningPeer):
  """HoliTom (arXiv 2505.21334).

  A place is static between two frames where its cosine exceeds `threshold`.
  Windows are chosen to maximise the sum of (places static throughout) (length -
  1), the tokens that averaging static places over their window saves. Of M =
  round(expansion R F N) tokens and U that are left then, a group of n keeps
  about n M / U: the others of each frame the ceil(n M / U) most attended; the
  static tokens of a window, in its first frame, round(n M / U) cluster centres
  (at least 1, unlike the release, so that no window loses its background),
  moved to weight centre + (1 - weight) mean of the others of the cluster. The
  total is M within 1 per frame and 1 per window.

  As published R counts tokens before the decoder (expansion 1) and layer 18
  then keeps half; `aligned` grows M so that the average over layers is R. The
  original averages what layer 18 drops into what it keeps; `Prune` only drops.

  Attributes:
    threshold: tau; None is 0.65 up to R = 0.1 and 0.8 above, as released.
    weight: beta.
    expansion: M / (R F N).
    layer: in front of which it prunes.
    share: of visual tokens that stay there.
  """

  threshold: float | None = None
  weight: float = 0.6
  expansion: float = 1.0
  layer: int = 18
  share: float = 0.5

  needs_attention: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    whole = self.threshold is None or -1 <= self.threshold <= 1
    self._expect(whole, 'threshold', 'a cosine')
    self._expect(0 <= self.weight <= 1, 'weight', 'a share in [0, 1]')

  def _video(self, video):
    threshold = self.threshold
    if threshold is None:
      threshold = 0.65 if self.retention <= 0.1 else 0.8
    linked = runs.links(selection.unit(video.x)) > threshold
    began = _began(linked & video.live)
    starts, saved = _windows(began, video.live)
    window = runs.stretches(starts)
    static = began[window.last] <= window.first[:, None]
    static &= video.live & (window.length > 1)[:, None]
    left = video.frames * video.tokens - saved
    dynamic = self._dynamic(video, static, left)
    x, centres = self._static(video, static, window, left)
    return x, dynamic | centres

  def _budget(self, video):
    """M, uint32."""
    share = self._entering()
    table = budgets.shared(share, budgets.places(*video.live.shape))
    return budgets.at(table, video.frames, video.tokens).astype(jnp.uint32)

  def _dynamic(self, video, static, left):
    dynamic = video.live & ~static
    # Unsigned: the product passes 2^31 at 256 frames of 4096 tokens.
    count = dynamic.sum(1).astype(jnp.uint32)
    left = jnp.maximum(left, 1).astype(jnp.uint32)
    kept = (count * self._budget(video) + left - 1) // left
    return selection.best(
      video.attention, dynamic, jnp.minimum(kept, count).astype(jnp.int32)
    )

  def _static(self, video, static, window, left):
    first = (window.first == jnp.arange(len(static)))[:, None]
    spans = jnp.where(static[..., None], video.x, 0)
    means = runs.per_stretch(spans, window.number)[window.number]
    means = means / window.length[:, None, None]
    x = jnp.where(static[..., None], means, video.x)
    group = static & first
    count = group.sum(1).astype(jnp.uint32)
    left = jnp.maximum(left, 1).astype(jnp.uint32)
    kept = (count * self._budget(video) + left // 2) // left
    kept = jnp.clip(kept, jnp.minimum(count, 1), count).astype(jnp.int32)
    return jax.lax.map(self._clustered, (x, group, kept))

  def _clustered(self, frame):
    x, group, count = frame
    found = clusters.cluster(
      x, group, count, jnp.minimum(NEIGHBOURS, count), NEIGHBOURS
    )
    others = jnp.where(found.centre, -1, found.home)
    means, sizes = selection.averages(x, others, len(x))
    moved = self.weight * x + (1 - self.weight) * means
    return jnp.where((sizes > 0)[:, None], moved, x), found.centre

  def _room(self, frames, tokens):
    share = self._entering()
    most = int(budgets.shared(share, frames * tokens))
    return most + frames + frames // 2


def _began(linked):
  """int32 [F, N]: the frame since which a place has been static."""
  frame = jnp.arange(len(linked))[:, None]
  return jax.lax.cummax(jnp.where(linked, 0, frame))


def _windows(began, live):
  """(where the best windows begin, bool [F]; tokens they save, int32).

  Ties prefer the shorter last window.
  """
  total = len(began)
  first = jnp.arange(total)

  def extend(last, carry):
    best, begins = carry
    static = (began[last] <= first[:, None]) & live[last]
    gain = best[:-1] + static.sum(1, dtype=jnp.int32) * (last - first)
    gain = jnp.where(first <= last, gain, -1)
    begin = total - 1 - gain[::-1].argmax()
    return best.at[last + 1].set(gain[begin]), begins.at[last].set(begin)

  best = jnp.zeros(total + 1, jnp.int32)
  begins = jnp.zeros(total, jnp.int32)
  best, begins = jax.lax.fori_loop(0, total, extend, (best, begins))

  def mark(_, carry):
    starts, last = carry
    begin = begins[last]
    return starts.at[begin].set(True), jnp.maximum(begin - 1, 0)

  carry = (jnp.zeros(total, bool), jnp.int32(total - 1))
  starts, _ = jax.lax.fori_loop(0, total, mark, carry)
  return starts, best[-1]
