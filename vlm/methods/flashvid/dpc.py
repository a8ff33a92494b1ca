"""Density peaks by nearest neighbours, DPC-kNN, within each frame (4.1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

NEIGHBOURS = 7


def squared_distances(
  dots: Float[Array, 'F N N'], width: int
) -> Float[Array, 'F N N']:
  """||v_i - v_j||^2 / D from the inner products of the vectors."""
  square = jnp.diagonal(dots, axis1=1, axis2=2)
  distance = square[:, :, None] + square[:, None] - 2 * dots
  own = jnp.eye(dots.shape[1], dtype=bool)
  return jnp.where(own, 0, jnp.maximum(distance, 0)) / width


def cluster(
  distance: Float[Array, 'F N N'],
  candidate: Bool[Array, 'F N'],
  count: Int[Array, ' F'],
  noise: Float[Array, 'F N'] | None = None,
) -> Int[Array, 'F N']:
  """Puts the candidates of each frame into `count` clusters.

  dens_i = exp(-mean of the k = min(count, 7) smallest d_ij^2, own 0 included);
  delta_i = the least d_ij to a denser candidate, or the frame's largest
  distance; the centres are the largest dens_i delta_i. With one cluster every
  density is 1 and the first candidate is the centre.

  Args:
    distance: d_ij^2, float32.
    candidate: the tokens to cluster.
    count: clusters of each frame, at most its candidates.
    noise: in [0, 1); 1e-6 of it is added to the densities, as released. Without
      it ties go to the lowest index.

  Returns:
    int32, the token that is the centre of each candidate's cluster; N for other
    tokens, and for all in a frame of no clusters.
  """
  tokens = distance.shape[1]
  pairs = candidate[:, :, None] & candidate[:, None]
  distance = jnp.where(pairs, distance, jnp.inf)
  density = _density(distance, count)
  if noise is not None:
    density = density + 1e-6 * noise
  score = jnp.sqrt(_to_denser(distance, density, pairs)) * density
  rank = _rank(jnp.where(candidate, score, -jnp.inf))
  centre = candidate & (rank < count[:, None])

  to_centre = jnp.where(centre[:, None], distance, jnp.inf)
  nearest = jnp.min(to_centre, axis=-1, keepdims=True)
  # Of equally near centres the better one.
  tied = centre[:, None] & (to_centre == nearest)
  label = jnp.min(jnp.where(tied, rank[:, None], tokens), axis=-1)
  label = jnp.where(centre, rank, label)
  by_rank = jnp.argsort(rank, axis=-1).astype(jnp.int32)
  label = jnp.minimum(label, tokens - 1)
  place = jnp.take_along_axis(by_rank, label, axis=-1)
  return jnp.where(candidate & (count > 0)[:, None], place, tokens)


def _density(distance: jax.Array, count: jax.Array) -> jax.Array:
  """[F, N], from the distances to the nearest neighbours."""
  most = min(NEIGHBOURS, distance.shape[1])
  near = -jax.lax.top_k(-distance, most)[0]
  k = jnp.clip(count, 1, most)[:, None]
  near = jnp.where(jnp.arange(most) < k[..., None], near, 0)
  return jnp.exp(-jnp.sum(near, axis=-1) / k)


def _to_denser(
  distance: jax.Array, density: jax.Array, pairs: jax.Array
) -> jax.Array:
  """[F, N], the least distance to a denser one, or the frame's largest."""
  largest = jnp.max(jnp.where(pairs, distance, 0), axis=(1, 2), keepdims=True)
  denser = pairs & (density[:, None] > density[:, :, None])
  return jnp.min(jnp.where(denser, distance, largest), axis=-1)


def _rank(score: jax.Array) -> jax.Array:
  """int32 [F, N], place by descending score, ties lowest index first."""
  token = jnp.arange(score.shape[1])
  tie = (score[:, None] == score[:, :, None]) & (token < token[:, None])
  above = (score[:, None] > score[:, :, None]) | tie
  return jnp.sum(above, axis=-1, dtype=jnp.int32)
