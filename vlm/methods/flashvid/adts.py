"""Attention- and diversity-based token selection, ADTS (eq. 7-9, Alg. 3)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vlm.methods.flashvid.segments import Segments


def relevance(
  features: Float[Array, 'F N D'],
  means: Float[Array, 'F D'],
  segments: Segments,
  count: Int[Array, ''],
  whole_video: bool,
) -> Float[Array, 'F N']:
  """Event relevance: the mean over frames c of <x, g_c>, which is <x, mean g>.

  Args:
    features: tokens of any float dtype.
    means: g_c, float32; zero for a frame that is not there.
    segments: the frames that c runs over, unless `whole_video`.
    count: frames that are there.
    whole_video: c runs over all of them.
  """
  if whole_video:
    event = jnp.broadcast_to(jnp.sum(means, axis=0) / count, means.shape)
  else:
    share = segments.same / jnp.maximum(segments.length, 1)[:, None]
    event = jnp.einsum('fc,cd->fd', share, means, precision='highest')
  return jnp.einsum(
    'fnd,fd->fn',
    features,
    event,
    precision='highest',
    preferred_element_type=jnp.float32,
  )


def max_min(
  cosine: Float[Array, 'F N N'],
  weight: Float[Array, 'F N'],
  valid: Bool[Array, 'F N'],
  steps: int,
  again: bool = False,
) -> Int[Array, 'F K']:
  """Greedy farthest points of each frame under D_w(i <- j) = w_i (1 - cos_ij).

  The first has the largest min over j of D_w(i <- j), each next one the largest
  min over those chosen before it. Ties go to the lowest index.

  Args:
    cosine: float32.
    weight: w, float32, of any sign.
    valid: tokens that can be chosen.
    steps: K, how many to choose of each frame.
    again: a token's distance to itself counts too, and a token may be chosen
      twice, as released for 'attn_div_v2'.

  Returns:
    int32 tokens in the order in which they are chosen.
  """
  if not steps:
    return jnp.zeros((weight.shape[0], 0), jnp.int32)
  best = jnp.where(valid, _nearest(cosine, weight, valid, again), -jnp.inf)
  minimum = jnp.where(valid, jnp.inf, -jnp.inf)
  chosen = jnp.zeros((weight.shape[0], steps), jnp.int32)
  frames = jnp.arange(weight.shape[0])

  def choose(step, carry):
    chosen, minimum, pick = carry
    row = jnp.take_along_axis(cosine, pick[:, None, None], axis=1)[:, 0]
    minimum = jnp.minimum(minimum, weight * (1 - row))
    if not again:
      minimum = minimum.at[frames, pick].set(-jnp.inf)
    next_pick = jnp.argmax(minimum, axis=-1)
    return chosen.at[:, step].set(pick), minimum, next_pick

  carry = chosen, minimum, jnp.argmax(best, axis=-1)
  return jax.lax.fori_loop(0, steps, choose, carry)[0]


def _nearest(
  cosine: jax.Array, weight: jax.Array, valid: jax.Array, again: bool
) -> jax.Array:
  """min over j of w_i D_ij: over all others, or the second of all if `again`.

  With a negative weight the least product is that of the largest distance.
  """
  distance = jnp.where(valid[:, None], 1 - cosine, jnp.inf)
  apart = jnp.where(valid[:, None], 1 - cosine, -jnp.inf)
  own = jnp.eye(cosine.shape[1], dtype=bool)
  skip = lambda x: own
  if again:
    column = jnp.arange(cosine.shape[1])
    skip = lambda place: column == place[..., None]
  near = jnp.where(skip(jnp.argmin(distance, axis=-1)), jnp.inf, distance)
  far = jnp.where(skip(jnp.argmax(apart, axis=-1)), -jnp.inf, apart)
  near, far = jnp.min(near, axis=-1), jnp.max(far, axis=-1)
  # A token that is alone has nothing to be far from.
  near, far = (jnp.where(jnp.isfinite(x), x, 1) for x in (near, far))
  return weight * jnp.where(weight < 0, far, near)


def highest(
  weight: Float[Array, 'F N'], valid: Bool[Array, 'F N'], steps: int
) -> Int[Array, 'F K']:
  """The K tokens of each frame with the largest weights, ties lowest first."""
  weight = jnp.where(valid, weight, -jnp.inf)
  return jax.lax.top_k(weight, steps)[1].astype(jnp.int32)


def times_chosen(
  chosen: Int[Array, 'F K'], count: Int[Array, ''], tokens: int
) -> Int[Array, 'F N']:
  """How often each token is among the first `count` that were chosen."""
  frames, steps = chosen.shape
  once = jnp.broadcast_to(jnp.arange(steps) < count, chosen.shape)
  times = jnp.zeros((frames, tokens), jnp.int32)
  return times.at[jnp.arange(frames)[:, None], chosen].add(
    once.astype(jnp.int32)
  )
