"""FlashVID's compression of the visual tokens in front of the decoder."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vlm.methods.flashvid import adts, budget, dpc, tstm
from vlm.methods.flashvid.kernels import choice
from vlm.methods.flashvid.kernels import links as links_kernel
from vlm.methods.flashvid.kernels import max_min as max_min_kernel
from vlm.methods.flashvid.reduced import Forest, Reduced
from vlm.methods.flashvid.segments import Segments, segments
from vlm.methods.flashvid.settings import Settings
from vlm.models.partition import over_batch


class _Video(NamedTuple):
  """What every stage looks at; no gradient flows through it.

  Attributes:
    features: [F, N, D].
    valid: bool [F, N], tokens that are there.
    finite: bool [F, N], those of them that do not count as zeros.
    dots: float32 [F, N, N], inner products within a frame.
    norm: float32 [F, N], inf for a token of zeros, whose cosines are 0.
    frames: int32 [], frames that are there.
    tokens: int32 [], tokens of each of them.
  """

  features: jax.Array
  valid: jax.Array
  finite: jax.Array
  dots: jax.Array
  norm: jax.Array
  frames: jax.Array
  tokens: jax.Array


class _Merging(NamedTuple):
  """Where each token goes; tokens are numbered f * N + n.

  Attributes:
    place: int32 [F * N], the token at whose place it is merged; F * N if at
      none.
    weight: float32 [F * N], what it is multiplied by there.
    parents: int32 [F * N], see `Forest`.
  """

  place: jax.Array
  weight: jax.Array
  parents: jax.Array


def unchanged(
  features: Float[Array, 'B F N D'],
  valid: Bool[Array, 'B F N'] | None = None,
) -> Reduced:
  """All tokens that are there, bit for bit."""
  batch, frames, tokens, width = features.shape
  flat = features.reshape(batch, frames * tokens, width)
  index = jnp.arange(frames * tokens, dtype=jnp.int32)
  index = jnp.broadcast_to(index, flat.shape[:2])
  if valid is None:
    counts = jnp.full((batch, frames), tokens, jnp.int32)
    return Reduced(flat, index, jnp.ones(index.shape, bool), counts)
  there = valid.reshape(batch, frames * tokens)
  order = jnp.argsort(~there, axis=1, stable=True).astype(jnp.int32)
  filled = jnp.take_along_axis(there, order, axis=1)
  return Reduced(
    jnp.take_along_axis(flat, order[..., None], axis=1),
    jnp.where(filled, order, frames * tokens),
    filled,
    jnp.sum(valid, axis=2, dtype=jnp.int32),
  )


def compress(
  features: Float[Array, 'B F N D'],
  attention: Float[Array, 'B F N'] | None,
  valid: Bool[Array, 'B F N'] | None,
  settings: Settings,
  with_forest: bool = False,
  noise: Float[Array, 'B F N'] | None = None,
) -> Reduced:
  """Selects and merges the tokens of each video (section 4).

  Args:
    features: visual tokens in the decoder's width, any float dtype. One whose
      squared norm is not finite counts as zeros.
    attention: what each receives in the tower, of any positive scale; what is
      not finite counts as 0.
    valid: which tokens are there, see `Reducer.reduce`.
    settings: retention below 1.
    with_forest: return the forest too.
    noise: in [0, 1), what the released code draws in DPC-kNN.

  Raises:
    ValueError: the selection needs attention and there is none.
  """
  if not settings.needs_attention:
    attention = None
  elif attention is None:
    raise ValueError(
      f'flashvid.selection={settings.selection!r} expected received attention '
      f'of shape {features.shape[:3]}, got none; pass it, or set '
      '--flashvid.selection=div'
    )
  if valid is None:
    valid = jnp.ones(features.shape[:3], bool)
  features, valid = jnp.asarray(features), jnp.asarray(valid)
  # One after another: mapped, both sides of every condition would be computed,
  # and the sums of all videos be held at once.
  one = lambda video: _compress(*video, settings, with_forest)
  each = lambda *videos: jax.lax.map(one, videos)
  return over_batch(each, features, attention, valid, noise)


def _compress(
  features: jax.Array,
  attention: jax.Array | None,
  valid: jax.Array,
  noise: jax.Array | None,
  settings: Settings,
  with_forest: bool,
) -> Reduced:
  """One video."""
  video = _video(jax.lax.stop_gradient(features), valid)
  means = _means(video)
  parts = segments(
    means,
    video.frames,
    settings.segment_threshold,
    settings.min_segments,
    settings.complementary,
    released=settings.mode == 'official',
  )
  times = _selected(video, attention, means, parts, settings)
  merging = _merged(video, times, parts, noise, settings)
  result = _output(features, video, times, merging, settings)
  if not with_forest:
    return result
  return result._replace(forest=_forest(times, merging))


def _video(features: jax.Array, valid: jax.Array) -> _Video:
  dots = jnp.einsum(
    'fnd,fmd->fnm',
    features,
    features,
    precision='highest',
    preferred_element_type=jnp.float32,
  )
  # A product need not be symmetric to the last bit, but ties depend on it.
  dots = (dots + jnp.swapaxes(dots, 1, 2)) / 2
  square = jnp.diagonal(dots, axis1=1, axis2=2)
  finite = valid & jnp.isfinite(square)
  dots = jnp.where(finite[:, :, None] & finite[:, None], dots, 0)
  square = jnp.where(finite, square, 0)
  norm = jnp.where(square > 0, jnp.sqrt(square), jnp.inf)
  frames = jnp.sum(valid[:, 0], dtype=jnp.int32)
  tokens = jnp.sum(valid[0], dtype=jnp.int32)
  return _Video(features, valid, finite, dots, norm, frames, tokens)


def _means(video: _Video) -> jax.Array:
  """float32 [F, D], mean token of each frame; zeros for one not there."""
  used = video.finite.astype(jnp.float32)
  product = functools.partial(
    jnp.einsum,
    'fn,fnd->fd',
    precision='highest',
    preferred_element_type=jnp.float32,
  )
  # As a product, which would spread what is not finite, it is several times
  # faster.
  total = jax.lax.cond(
    jnp.all(video.finite),
    lambda x: product(used, x),
    lambda x: product(used, jnp.where(video.finite[..., None], x, 0)),
    video.features,
  )
  return total / jnp.maximum(video.tokens, 1)


def _selected(
  video: _Video,
  attention: jax.Array | None,
  means: jax.Array,
  parts: Segments,
  settings: Settings,
) -> jax.Array:
  """int32 [F, N], how often ADTS selects each token."""
  table = settings.budget(video.valid.shape[1]).selected
  steps = int(table.max())
  count = jnp.asarray(table)[video.tokens]
  if not steps:
    return jnp.zeros(video.valid.shape, jnp.int32)
  weight = jnp.ones(video.valid.shape, jnp.float32)
  if attention is not None:
    weight = jax.lax.stop_gradient(attention).astype(jnp.float32)
    weight = jnp.where(jnp.isfinite(weight), weight, 0)
  if settings.selection == 'attn':
    chosen = adts.highest(weight, video.valid, steps)
  else:
    again = settings.mode == 'official'
    again &= settings.selection == 'attn_div_v2'
    if settings.selection == 'attn_div_v2':
      event = adts.relevance(
        video.features,
        means,
        parts,
        video.frames,
        settings.relevance == 'video',
      )
      weight = weight * jnp.where(video.finite, event, 0)
    chosen = _spread_out(video, weight, steps, again, settings)
  times = adts.times_chosen(chosen, count, video.valid.shape[1])
  return jnp.where(video.valid, times, 0)


def _spread_out(
  video: _Video,
  weight: jax.Array,
  steps: int,
  again: bool,
  settings: Settings,
) -> jax.Array:
  """int32 [F, K], the farthest points of each frame."""
  if choice.use_kernels(settings.kernels, video.features.dtype):
    return max_min_kernel.max_min(
      video.features, video.norm, weight, video.valid, steps, again
    )
  cosine = video.dots / (video.norm[:, :, None] * video.norm[:, None])
  return adts.max_min(cosine, weight, video.valid, steps, again)


def _merged(
  video: _Video,
  times: jax.Array,
  parts: Segments,
  noise: jax.Array | None,
  settings: Settings,
) -> _Merging:
  """TSTM and DPC-kNN on the tokens that were not selected."""
  frames, tokens = video.valid.shape
  none = frames * tokens
  table = settings.budget(tokens)
  total, merged = (
    jnp.asarray(x)[video.tokens] for x in (table.total, table.merged)
  )
  if not table.merged.any():
    nowhere = jnp.full(none, none, jnp.int32)
    return _Merging(nowhere, jnp.zeros(none), jnp.full(none, -1, jnp.int32))
  free = video.valid & (times == 0) & (merged > 0)
  joined, parent = _joined(video, free, total, parts, settings)
  forest = tstm.trees(parent, joined, settings.mean_trees)
  candidate = free & ~joined
  if settings.mode == 'official':
    alone = (parts.length == 1)[:, None] & (merged > 0)
    candidate |= video.valid & alone
  of_frame = jnp.sum(candidate, axis=1, dtype=jnp.int32)
  counts = (
    budget.released_counts
    if settings.mode == 'official'
    else budget.exact_counts
  )
  count = counts(of_frame, merged * parts.length, parts)
  dots = tstm.products(
    video.dots, video.features, video.finite, forest, candidate
  )
  distance = dpc.squared_distances(dots, video.features.shape[2])
  centre = dpc.cluster(distance, candidate, count, noise)
  start = jnp.arange(frames, dtype=jnp.int32)[:, None] * tokens
  place = jnp.where(centre < tokens, start + centre, none).reshape(-1)
  members = jnp.zeros(none + 1).at[place].add(1.0)
  weight = 1 / (forest.divisor * members[place])
  return _Merging(place[forest.roots], weight[forest.roots], forest.parents)


def _joined(
  video: _Video,
  free: jax.Array,
  total: jax.Array,
  parts: Segments,
  settings: Settings,
) -> tuple[jax.Array, jax.Array]:
  """Which tokens are linked, and to which of the frame before."""
  match = tstm.links if settings.parents == 'best' else tstm.same_place
  if match is tstm.links and choice.use_kernels(
    settings.kernels, video.features.dtype
  ):
    match = links_kernel.links
  best, parent = match(
    video.features, video.norm, free & video.finite, parts.follows
  )
  most = (video.tokens - total) * parts.length
  strict = settings.mode == 'official'
  joined = tstm.linked(best, most, parts, settings.tau, strict)
  # A cosine of -1 stands for no match and is no link at any tau.
  return joined & free & (best > -1), parent


def _output(
  features: jax.Array,
  video: _Video,
  times: jax.Array,
  merging: _Merging,
  settings: Settings,
) -> Reduced:
  """The tokens in order of place; at one place selected ones come first."""
  frames, tokens, width = features.shape
  room = settings.room(frames, tokens)
  centre = jnp.zeros(frames * tokens + 1, jnp.int32).at[merging.place].set(1)
  centre = centre[:-1]
  here = times.reshape(-1) + centre
  end = jnp.cumsum(here)
  slot = jnp.arange(room)
  place = jnp.searchsorted(end, slot, side='right').astype(jnp.int32)
  valid = slot < end[-1]
  at = jnp.minimum(place, frames * tokens - 1)
  is_merged = (slot == end[at] - 1) & (centre[at] > 0)

  to = jnp.append(end - 1, room)[merging.place]
  merged = _sums(features, video.finite, merging.weight, to, room)
  kept = features.reshape(-1, width)[at]
  kept = jnp.where(video.finite.reshape(-1)[at, None], kept, 0)
  picked = jnp.where(is_merged[:, None], merged.astype(features.dtype), kept)
  return Reduced(
    jnp.where(valid[:, None], picked, 0),
    jnp.where(valid, place, frames * tokens),
    valid,
    jnp.sum(here.reshape(frames, tokens), axis=1, dtype=jnp.int32),
  )


def _sums(
  features: jax.Array,
  finite: jax.Array,
  weight: jax.Array,
  to: jax.Array,
  room: int,
) -> jax.Array:
  """float32 [room, D], weighted sums of the tokens that go to each slot."""
  by_frame = lambda x: x.reshape(finite.shape)

  def frame(total, args):
    x, finite, weight, to = args
    x = jnp.where(finite[:, None], x, 0).astype(jnp.float32)
    return total.at[to].add(x * weight[:, None], mode='drop'), None

  inputs = features, finite, by_frame(weight), by_frame(to)
  start = jnp.zeros((room, features.shape[2]), jnp.float32)
  return jax.lax.scan(frame, start, inputs)[0]


def _forest(times: jax.Array, merging: _Merging) -> Forest:
  own = jnp.arange(times.size, dtype=jnp.int32)
  place = jnp.where(merging.place < times.size, merging.place, -1)
  roots = jnp.where(times.reshape(-1) > 0, own, place)
  return Forest(
    merging.parents.reshape(times.shape), roots.reshape(times.shape)
  )
