"""Stretches of consecutive frames, described by where they start."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Stretches(NamedTuple):
  """Per frame: the stretch it lies in. All int32 [F].

  Attributes:
    number: 0 for the first stretch.
    first: its first frame.
    last: its last frame.
    length: its frames.
  """

  number: jax.Array
  first: jax.Array
  last: jax.Array
  length: jax.Array


def stretches(starts: jax.Array) -> Stretches:
  """Stretches of which each begins at a True of bool [F]; frame 0 always."""
  total = len(starts)
  starts = starts.at[0].set(True)
  number = jnp.cumsum(starts) - 1
  length = jnp.zeros(total, jnp.int32).at[number].add(1)[number]
  first = jax.lax.cummax(jnp.where(starts, jnp.arange(total), 0))
  return Stretches(number, first, first + length - 1, length)


def changes(labels: jax.Array) -> jax.Array:
  """bool [F]: where a label differs from the one before; True at frame 0."""
  head = jnp.ones(1, bool)
  return jnp.concatenate([head, labels[1:] != labels[:-1]])


def links(x: jax.Array) -> jax.Array:
  """Cosine of each token with the one at its place a frame earlier.

  Args:
    x: unit vectors [F, N, D].

  Returns:
    [F, N]; -1 in frame 0.
  """
  cosines = jnp.einsum('fnd,fnd->fn', x[1:], x[:-1], precision='highest')
  return jnp.concatenate([-jnp.ones_like(x[:1, :, 0]), cosines])


def per_stretch(values: jax.Array, number: jax.Array) -> jax.Array:
  """Sums of [F, ...] over each stretch, at its number: [F, ...]."""
  return jax.ops.segment_sum(values, number, num_segments=len(values))
