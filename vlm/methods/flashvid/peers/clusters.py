"""DPC-kNN: centres are dense and far from anything denser (no noise, ties to
the lowest index; FlashVID's specification, section 2.5).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vlm.methods.flashvid.peers import selection


class Clusters(NamedTuple):
  """Clusters of N tokens.

  Attributes:
    centre: bool [N].
    home: int32 [N], the centre each goes to; -1 for what is not there.
  """

  centre: jax.Array
  home: jax.Array


def distances(x: jax.Array) -> jax.Array:
  """|x_i - x_j| / sqrt(D) of float32 [N, D]: [N, N]."""
  gram = jnp.einsum('nd,md->nm', x, x, precision='highest')
  gram = (gram + gram.T) / 2  # Mutual neighbours must tie in density.
  squares = jnp.sum(x * x, -1)
  apart = jnp.maximum(squares[:, None] + squares - 2 * gram, 0)
  apart = jnp.where(jnp.eye(len(x), dtype=bool), 0, apart)
  return jnp.sqrt(apart / x.shape[-1])


def scores(dist: jax.Array, live: jax.Array, near, most: int) -> jax.Array:
  """Density times the distance to the nearest denser one: [N].

  Density is exp(- mean of the squared distances to the `near` nearest, itself
  among them). What has nothing denser takes the largest distance there is.

  Args:
    dist: [N, N].
    live: bool [N].
    near: int scalar, at most `most`; fewer where fewer are live.
    most: host int.
  """
  among = jnp.where(live, dist**2, jnp.inf)
  nearest = -jax.lax.top_k(-among, min(most, len(dist)))[0]
  near = jnp.maximum(jnp.minimum(near, live.sum()), 1)
  use = jnp.arange(nearest.shape[1]) < near
  density = jnp.exp(-jnp.where(use, nearest, 0).sum(1) / near)
  denser = (density > density[:, None]) & live
  farthest = jnp.where(live & live[:, None], dist, 0).max()
  return density * jnp.where(denser, dist, farthest).min(1)


def cluster(x: jax.Array, live: jax.Array, count, near, most: int) -> Clusters:
  """`count` clusters of the live rows of [N, D].

  Centres are the `count` best by `scores`; everything goes to its nearest
  centre, ties to the better one, and a centre to itself.
  """
  dist = distances(x)
  rank = selection.order(scores(dist, live, near, most), live)
  taken = jnp.arange(len(x)) < jnp.minimum(count, live.sum())
  centre = jnp.zeros(len(x), bool).at[rank].set(taken)
  home = rank[jnp.where(taken, dist[:, rank], jnp.inf).argmin(1)]
  home = jnp.where(centre, jnp.arange(len(x)), home)
  return Clusters(centre, jnp.where(live, home, -1))
