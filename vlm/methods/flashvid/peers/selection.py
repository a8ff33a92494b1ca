"""Ranks, unit vectors and means over traced sets: what peers select with."""

import jax
import jax.numpy as jnp


def unit(x: jax.Array) -> jax.Array:
  """x / |x| along the last axis; zero vectors stay zero."""
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def similarities(x: jax.Array, y: jax.Array) -> jax.Array:
  """Cosines of [..., N, D] with [..., M, D]: [..., N, M]."""
  return jnp.einsum('...nd,...md->...nm', unit(x), unit(y), precision='highest')


def order(scores: jax.Array, live: jax.Array) -> jax.Array:
  """Indices of the last axis: live ones first, best first, ties by index."""
  return jnp.lexsort((-scores, ~live))


def front(live: jax.Array) -> jax.Array:
  """Indices of the last axis: live ones first, in their order."""
  return jnp.argsort(~live, stable=True)


def best(scores: jax.Array, live: jax.Array, count) -> jax.Array:
  """bool like `live`: the `count` live ones of highest score on the last axis.

  Args:
    scores: [..., N]; NaN ranks last among the live.
    live: bool [..., N].
    count: int [...], of each row; more than are live takes all.
  """
  rank = jnp.argsort(order(scores, live))
  return live & (rank < jnp.asarray(count)[..., None])


def averages(x: jax.Array, home: jax.Array, slots: int):
  """Means of the rows that share a home.

  Args:
    x: [N, D].
    home: int [N] in 0 .. slots - 1; anything else belongs nowhere.
    slots: how many homes.

  Returns:
    (means [slots, D], 0 where nobody lives; sizes [slots], float32).
  """
  home = jnp.where(home < 0, slots, home)
  sums = jnp.zeros((slots, x.shape[-1]), x.dtype).at[home].add(x, mode='drop')
  sizes = jnp.zeros(slots, jnp.float32).at[home].add(1, mode='drop')
  return sums / jnp.maximum(sizes, 1)[:, None], sizes
