"""A video is cut where consecutive frames differ (spec: segmentation)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num


class Segments(NamedTuple):
  """Which frames belong together.

  Attributes:
    follows: bool [F], whether a frame continues the segment of the one before.
    same: bool [F, F], whether two frames are of one segment; none is of a frame
      that is not there.
  """

  follows: jax.Array
  same: jax.Array

  @property
  def length(self) -> jax.Array:
    """int32 [F], frames of each frame's segment."""
    return jnp.sum(self.same, axis=1, dtype=jnp.int32)

  def total(self, x: Num[Array, ' F']) -> Num[Array, ' F']:
    """Sum over each frame's segment."""
    return jnp.sum(jnp.where(self.same, x, 0), axis=1, dtype=x.dtype)

  def rank(self, x: Num[Array, ' F']) -> Int[Array, ' F']:
    """Place of each frame in its segment by ascending x, earlier first."""
    return jnp.sum(self.same & _before(x), axis=1, dtype=jnp.int32)


def segments(
  means: Float[Array, 'F D'],
  count: Int[Array, ''],
  threshold: float,
  least: int,
  complementary: bool,
  released: bool,
) -> Segments:
  """Cuts between frames whose means are less alike than `threshold`.

  Args:
    means: float32 mean token of each frame.
    count: frames that are there, from the front.
    threshold: S_tau; a cut is where the cosine is below it.
    least: M_s, segments to reach by cutting at the smallest cosines that are
      left, if `complementary`.
    complementary: see `least`.
    released: cuts that are there count as cosine 1 when the smallest are
      looked for, so that in a still video they may be found once more, as in
      the released code; else they are never looked at.
  """
  frames = means.shape[0]
  norm = jnp.linalg.norm(means, axis=-1, keepdims=True)
  unit = means / jnp.where(norm > 0, norm, 1)
  alike = jnp.sum(unit[:-1] * unit[1:], axis=-1)
  there = jnp.arange(1, frames) < count
  cut = there & (alike < threshold)
  if complementary:
    need = least - 1 - jnp.sum(cut)
    alike = jnp.where(cut, 1.0 if released else jnp.inf, alike)
    alike = jnp.where(there, alike, jnp.inf)
    cut |= there & (jnp.sum(_before(alike), axis=1) < need)
  follows = jnp.concatenate([jnp.zeros(1, bool), there & ~cut])
  return _segments(follows, jnp.arange(frames) < count)


def _segments(follows: Bool[Array, ' F'], there: Bool[Array, ' F']) -> Segments:
  number = jnp.cumsum(~follows)
  same = number[:, None] == number[None]
  return Segments(follows, same & there[:, None] & there[None])


def _before(x: jax.Array) -> jax.Array:
  """bool [F, F]: whether column sorts before row, ascending and stable."""
  place = jnp.arange(x.shape[0])
  tie = (x[None] == x[:, None]) & (place[None] < place[:, None])
  return (x[None] < x[:, None]) | tie
