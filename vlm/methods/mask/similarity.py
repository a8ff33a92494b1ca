"""What regions and words say together, without all their cosines at once.

Captions are rows of numbers of words, filled up with the number of a zero
vector, with which everything has a cosine of 0; images are the last axis of
what is gathered, so that a caption gathers whole rows. Codes and tables are of
unit length. `V` is the number of words with that zero vector behind them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from vlm.methods.mask.directions import product


def best_regions(
  codes: Float[Array, 'n I Z'],
  valid: Bool[Array, 'n I'],
  table: Float[Array, 'V Z'],
  *,
  tile: int,
) -> Float[Array, 'V n']:
  """The largest cosine of each word with an image's regions.

  Args:
    codes: of the regions.
    valid: which there are; -inf where an image has none.
    table: of the words.
    tile: images at a time; divides n.
  """

  def best(part):
    cosine, there = _cosines(part, table)
    return jnp.max(jnp.where(there, cosine, -jnp.inf), axis=-1)

  return _over_images(best, (codes, valid), tile)


def word_means(
  best: Float[Array, 'V n'],
  ids: Int[Array, 'C J'],
  lengths: Int[Array, 'C'],
  *,
  block: int,
) -> Float[Array, 'C n']:
  """t2i: the mean of a caption's words, each with its best region.

  Args:
    best: from `best_regions`.
    ids: of the words, V - 1 behind the last one.
    lengths: words of each caption; -inf where there are none.
    block: captions at a time; divides C.
  """

  def means(ids, lengths):
    total = _gathered(best, ids, lengths, jnp.add)
    return total / jnp.maximum(lengths, 1)[:, None]

  return _over_captions(means, ids, lengths, block)


def region_means(
  codes: Float[Array, 'n I Z'],
  valid: Bool[Array, 'n I'],
  table: Float[Array, 'V Z'],
  ids: Int[Array, 'C J'],
  lengths: Int[Array, 'C'],
  *,
  tile: int,
  block: int,
) -> Float[Array, 'C n']:
  """i2t: the mean of an image's regions, each with its best word.

  Args:
    codes, valid, table, tile: see `best_regions`.
    ids, lengths, block: see `word_means`.
  """
  # A word twice changes no maximum.
  ids = jnp.where(jnp.arange(ids.shape[1]) < lengths[:, None], ids, ids[:, :1])

  def of_tile(part):
    cosine, there = _cosines(part, table)
    images, regions = there.shape
    flat = cosine.reshape(len(table), -1)
    count = jnp.sum(there, axis=1)

    def means(ids, lengths):
      best = _gathered(flat, ids, lengths, jnp.maximum)
      best = best.reshape(len(ids), images, regions)
      total = jnp.sum(best, axis=2, where=there)
      return jnp.where(count > 0, total / count, -jnp.inf)

    return _over_captions(means, ids, lengths, block)

  return _over_images(of_tile, (codes, valid), tile)


def overall_means(
  codes: Float[Array, 'n I Z'],
  valid: Bool[Array, 'n I'],
  table: Float[Array, 'V Z'],
  ids: Int[Array, 'C J'],
  lengths: Int[Array, 'C'],
  *,
  block: int,
) -> Float[Array, 'C n']:
  """The mean over all regions and words: a product of two means.

  Args:
    codes, valid, table: see `best_regions`.
    ids, lengths, block: see `word_means`.
  """
  count = jnp.sum(valid, axis=1)[:, None]
  images = jnp.sum(jnp.where(valid[..., None], codes, 0), axis=1)
  images = images / jnp.maximum(count, 1)

  def means(ids, lengths):
    words = _gathered(table, ids, lengths, jnp.add)
    words = words / jnp.maximum(lengths, 1)[:, None]
    return jnp.where(
      count[:, 0] > 0, product('CZ,nZ->Cn', words, images), -jnp.inf
    )

  return _over_captions(means, ids, lengths, block)


def _cosines(part, table) -> tuple[jax.Array, jax.Array]:
  """([V, t, I], [t, I] valid) of a tile of t images."""
  codes, valid = part
  return product('VZ,tIZ->VtI', table, codes), valid


def _gathered(
  rows: Float[Array, 'V R'],
  ids: Int[Array, 'c J'],
  lengths: Int[Array, 'c'],
  combine: Callable,
) -> Float[Array, 'c R']:
  """Rows of each caption's words, put together one word after another.

  As many rounds as the longest caption of the block has words, not J.
  """

  def add(j, total):
    words = lax.dynamic_index_in_dim(ids, j, axis=1, keepdims=False)
    return combine(total, rows[words])

  return lax.fori_loop(1, jnp.max(lengths), add, rows[ids[:, 0]])


def _over_images(run: Callable, images: tuple, tile: int) -> jax.Array:
  """[..., n] from `run`, which gives [..., tile] of a tile of images."""
  tiles = jax.tree.map(lambda x: x.reshape(-1, tile, *x.shape[1:]), images)
  found = jnp.moveaxis(lax.map(run, tiles), 0, 1)  # [C or V, tiles, tile]
  return found.reshape(len(found), -1)


def _over_captions(run: Callable, ids, lengths, block: int) -> jax.Array:
  """[C, ...] from `run`, which gives [block, ...]; -inf for no words."""
  blocks = ids.reshape(-1, block, ids.shape[1]), lengths.reshape(-1, block)

  def of_block(part):
    ids, lengths = part
    return jnp.where((lengths > 0)[:, None], run(ids, lengths), -jnp.inf)

  found = lax.map(of_block, blocks)
  return found.reshape(-1, *found.shape[2:])
