"""Tree-based spatiotemporal token merging, TSTM (spec: links and trees)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vlm.methods.flashvid.segments import Segments


def links(
  features: Float[Array, 'F N D'],
  norm: Float[Array, 'F N'],
  free: Bool[Array, 'F N'],
  follows: Bool[Array, ' F'],
) -> tuple[Float[Array, 'F N'], Int[Array, 'F N']]:
  """The best match of every token in the frame before.

  Args:
    features: tokens of any float dtype.
    norm: float32, of each token, inf for one of zeros.
    free: tokens that have matches and may be one.
    follows: frames that continue the segment of the frame before.

  Returns:
    The largest cosine, float32, -1 where there is none; and the token of the
    frame before that it is of, int32, the lowest of equals.
  """
  frames, tokens, _ = features.shape
  if frames == 1:
    return jnp.full((1, tokens), -1.0), jnp.zeros((1, tokens), jnp.int32)

  def match(f):
    dots = jnp.einsum(
      'nd,md->nm',
      features[f],
      features[f - 1],
      precision='highest',
      preferred_element_type=jnp.float32,
    )
    cosine = dots / (norm[f][:, None] * norm[f - 1][None])
    both = free[f][:, None] & free[f - 1][None]
    cosine = jnp.where(both, cosine, -1)
    return jnp.max(cosine, axis=-1), jnp.argmax(cosine, axis=-1).astype('int32')

  def frame(f):
    none = jnp.full(tokens, -1.0), jnp.zeros(tokens, jnp.int32)
    # Outside a batch, frames that follow a cut cost nothing.
    return jax.lax.cond(follows[f], match, lambda _: none, f)

  best, parent = jax.lax.map(frame, jnp.arange(frames))
  return best, parent


def same_place(
  features: Float[Array, 'F N D'],
  norm: Float[Array, 'F N'],
  free: Bool[Array, 'F N'],
  follows: Bool[Array, ' F'],
) -> tuple[Float[Array, 'F N'], Int[Array, 'F N']]:
  """What `links` gives if each token's only match is at its own place (TTM)."""
  before = functools.partial(jnp.roll, shift=1, axis=0)
  dots = jnp.sum(
    features.astype(jnp.float32) * before(features).astype(jnp.float32), axis=-1
  )
  both = free & before(free) & follows[:, None]
  cosine = jnp.where(both, dots / (norm * before(norm)), -1)
  place = jnp.arange(features.shape[1], dtype=jnp.int32)
  return cosine, jnp.broadcast_to(place, cosine.shape)


def linked(
  best: Float[Array, 'F N'],
  most: Int[Array, ' F'],
  segments: Segments,
  tau: float,
  strict: bool,
) -> Bool[Array, 'F N']:
  """Which tokens join their match.

  Args:
    best: cosine of the match, -1 where there is none.
    most: tokens of each frame's segment that may join without leaving fewer
      than the budget. Where more would, the threshold is raised to the most-th
      largest cosine of the segment, which has to be exceeded.
    segments: which frames belong together.
    tau: T_tau.
    strict: tau has to be exceeded too (released), not just reached.
  """
  wish = best > tau if strict else best >= tau
  count = jnp.sum(wish, axis=1, dtype=jnp.int32)
  theta = jnp.maximum(_largest(best, most, segments), -1 + 1e-6)
  raised = segments.total(count) > most
  return jnp.where(raised[:, None], best > theta[:, None], wish)


def _largest(
  x: Float[Array, 'F N'], k: Int[Array, ' F'], segments: Segments
) -> Float[Array, ' F']:
  """The k-th largest x of each frame's segment, inf for k = 0.

  Found bit by bit, which is exact and takes less than to sort a video's tokens.
  """
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
  top = jnp.uint32(1 << 31)
  # Unsigned integers in the order of the floats.
  order = jnp.where(bits < top, bits | top, ~bits)

  def next_bit(step, low):
    high = low | (top >> step.astype(jnp.uint32))
    reached = jnp.sum(order >= high[:, None], axis=1, dtype=jnp.int32)
    return jnp.where(segments.total(reached) >= k, high, low)

  low = jnp.zeros(x.shape[0], jnp.uint32)
  low = jax.lax.fori_loop(0, 32, next_bit, low)
  bits = jnp.where(low >= top, low & ~top, ~low)
  value = jax.lax.bitcast_convert_type(bits, jnp.float32)
  return jnp.where(k > 0, value, jnp.inf)


class Trees(NamedTuple):
  """A forest of tokens numbered f * N + n.

  Attributes:
    parents: int32 [F * N], -1 for a root.
    roots: int32 [F * N], each token's earliest ancestor, itself for a root.
    divisor: float32 [F * N], at a root what the sum of its tree is divided by.
  """

  parents: jax.Array
  roots: jax.Array
  divisor: jax.Array


def trees(
  parent: Int[Array, 'F N'], joined: Bool[Array, 'F N'], mean: bool
) -> Trees:
  """Follows the links to the roots, in log2(F) doublings.

  Args:
    parent: token of the frame before.
    joined: tokens that are linked to it.
    mean: a tree's sum is divided by its size, else by one plus the number of
      its root's children, as released.
  """
  frames, tokens = parent.shape
  own = jnp.arange(frames * tokens, dtype=jnp.int32)
  joined = joined.reshape(-1)
  above = (jnp.arange(frames, dtype=jnp.int32)[:, None] - 1) * tokens + parent
  above = jnp.where(joined, above.reshape(-1), own)
  roots = above
  for _ in range(max(frames - 2, 0).bit_length()):
    roots = roots[roots]
  counted = roots if mean else above
  size = (
    jnp.zeros(frames * tokens)
    .at[counted]
    .add(1.0 if mean else joined.astype(jnp.float32))
  )
  return Trees(
    jnp.where(joined, above, -1), roots, size if mean else 1.0 + size
  )


def vectors(
  features: Float[Array, 'F N D'], finite: Bool[Array, 'F N'], forest: Trees
) -> Float[Array, 'F N D']:
  """float32 vectors of the trees, at their roots.

  Args:
    features: tokens of any float dtype.
    finite: tokens that do not count as zeros.
    forest: how they are linked.
  """
  frames, tokens, _ = features.shape
  # Below the first frame nothing is linked; each frame adds to the one before.
  by_frame = lambda x: x.reshape(frames, tokens)
  parent, divisor = by_frame(forest.parents), by_frame(forest.divisor)

  def frame(children, args):
    x, used, parent, divisor = args
    total = jnp.where(used[:, None], x, 0).astype(jnp.float32) + children
    scattered = jax.lax.cond(
      jnp.any(parent >= 0),
      lambda: (
        jnp.zeros_like(total)
        .at[jnp.where(parent >= 0, parent % tokens, tokens)]
        .add(total, mode='drop')
      ),
      lambda: jnp.zeros_like(total),
    )
    return scattered, total / jnp.maximum(divisor, 1)[:, None]

  start = jnp.zeros(features.shape[1:], jnp.float32)
  inputs = features, finite, parent, divisor
  return jax.lax.scan(frame, start, inputs, reverse=True)[1]
