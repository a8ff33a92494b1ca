"""Scores of images and captions through regions and words (Eq. 10).

With S the cosines of an image's regions and a caption's words:

    t2i   mean over words of the best region: every word must find a region
    i2t   mean over regions of the best word: every region must find a word
    sum   both added
    mean  mean over both, an ablation

All region-word cosines of 5,000 images and 25,000 captions of ten words would
be 4.5e10 numbers; they never exist. Captions share words, so cosines are taken
with the W distinct ones. For t2i what is left is the best region for each word
and image, [W, n], computed once, of which a caption gathers its rows; for i2t
regions cannot be left out before the words are known, and a tile of images
meets a block of captions at a time (`similarity`).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from vlm.methods.mask import similarity
from vlm.methods.mask.directions import unit
from vlm.metrics import retrieval
from vlm.sharding.mesh import BATCH_AXES, batch_shards

POOLINGS = ('t2i', 'i2t', 'sum', 'mean')
CAPTION_AXIS = 'tensor'
SPECS = {
  'codes': P(BATCH_AXES),
  'valid': P(BATCH_AXES),
  'best': P(None, BATCH_AXES),
  'table': P(),
  'ids': P(CAPTION_AXIS),
  'lengths': P(CAPTION_AXIS),
}
# What a program of each pooling reads of the images.
READS = {
  't2i': ('best',),
  'i2t': ('codes', 'valid'),
  'sum': ('codes', 'valid', 'best'),
  'mean': ('codes', 'valid'),
}

# Compiled, so that each device does its own part.
_unit = jax.jit(unit)


class Matcher:
  """Scores of n images and C captions under one pooling.

  A region that is not valid, or whose code is zero, is not there; nor is a word
  whose row of the table is zero. A caption without words and an image without
  regions score -inf. A word said twice counts twice in a mean.

  Attributes:
    lengths: int [C], words of each caption; 0 scores -inf.
    bare: bool [n], images without a region; they score -inf.

  Args:
    codes: of the images' regions, of any length.
    valid: which regions there are.
    table: prototypes of the W distinct words of the captions.
    ids: each caption's words, rows of the table; -1 is padding, anywhere.
    pooling: 't2i', 'i2t', 'sum' or 'mean'.
    mesh: spreads images over 'data' and 'fsdp', captions over 'tensor'.
    image_tile: images whose cosines with all words a device holds at once.
    caption_block: captions that meet them at a time.

  Raises:
    ValueError: for shapes that do not belong together, another pooling, numbers
      of words out of range, and NaN or infinity, naming where.
  """

  def __init__(
    self,
    codes: Float[Array, 'n I Z'] | Float[np.ndarray, 'n I Z'],
    valid: Bool[Array, 'n I'] | Bool[np.ndarray, 'n I'],
    table: Float[Array, 'W _'] | Float[np.ndarray, 'W _'],
    ids: Int[np.ndarray, 'C J'],
    *,
    pooling: str = 't2i',
    mesh: Mesh | None = None,
    image_tile: int = 8,
    caption_block: int = 64,
  ):
    codes, valid, table = (np.asarray(x) for x in (codes, valid, table))
    _check(codes, valid, table, ids, pooling)
    self.pooling, self.mesh = pooling, mesh
    self.image_tile, self.caption_block = image_tile, caption_block
    codes = np.where(valid[..., None], codes, 0)
    valid = valid & (codes != 0).any(axis=-1)
    self._ids, self.lengths = _packed(ids, (table != 0).any(axis=-1))
    self.bare = ~valid.any(axis=1)
    fill = -len(codes) % (self._image_ways * image_tile)
    self._arrays = {
      'codes': _unit(self._put('codes', _padded(codes, fill))),
      'valid': self._put('valid', _padded(valid, fill)),
      # The zero vector behind the words is what padding gathers.
      'table': _unit(self._put('table', _padded(table, 1))),
    }

  def score(
    self, rows: Int[np.ndarray, 'R'], columns: Int[np.ndarray, 'M']
  ) -> Float[np.ndarray, 'R M']:
    """float32 scores of images and captions; a `retrieval.Score`."""
    if not len(rows) or not len(columns):
      return np.zeros((len(rows), len(columns)), np.float32)
    fill = -len(rows) % (self._image_ways * self.image_tile)
    order, place = self._order(self.lengths[columns])
    chosen = columns[order]
    found = scores_program(
      self._arrays | {'best': self._best},
      np.r_[rows, np.repeat(rows[:1], fill)],
      self._put('ids', self._ids[chosen]),
      self._put('lengths', self.lengths[chosen]),
      pooling=self.pooling,
      tile=self.image_tile,
      block=self.caption_block,
      mesh=self.mesh,
    )
    if not found.is_fully_addressable:
      found = multihost_utils.process_allgather(found, tiled=True)
    return np.asarray(found)[place, : len(rows)].T

  @property
  def _image_ways(self) -> int:
    return batch_shards(self.mesh) if self.mesh else 1

  @property
  def _caption_ways(self) -> int:
    return self.mesh.shape[CAPTION_AXIS] if self.mesh else 1

  def _order(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Captions by length, dealt out to the devices, and where each went.

    Captions of one block are of like length, and every device has as many
    words to do. The shortest fill up the last block.
    """
    ways = self._caption_ways
    order = np.argsort(lengths, kind='stable')
    fill = -len(order) % (ways * self.caption_block)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(fill, fill + len(order))
    order = np.r_[np.repeat(order[:1], fill), order]
    share = len(order) // ways
    place = place % ways * share + place // ways
    return order.reshape(share, ways).T.reshape(-1), place

  @functools.cached_property
  def _best(self) -> jax.Array | None:
    if 'best' not in READS[self.pooling]:
      return None
    images = (self._arrays[name] for name in ('codes', 'valid', 'table'))
    return best_program(*images, tile=self.image_tile, mesh=self.mesh)

  def _put(self, name: str, array) -> jax.Array:
    if self.mesh is None:
      return jnp.asarray(array)
    return jax.device_put(array, NamedSharding(self.mesh, SPECS[name]))


@functools.partial(jax.jit, static_argnames=('tile', 'mesh'))
def best_program(codes, valid, table, *, tile: int, mesh: Mesh | None):
  """`similarity.best_regions` of all images [W + 1, n], over a mesh."""
  run = functools.partial(similarity.best_regions, tile=tile)
  takes = SPECS['codes'], SPECS['valid'], SPECS['table']
  return _spread(run, mesh, takes, SPECS['best'])(codes, valid, table)


@functools.partial(
  jax.jit, static_argnames=('pooling', 'tile', 'block', 'mesh')
)
def scores_program(
  arrays: dict[str, jax.Array | None],
  rows: Int[Array, 'R'] | Int[np.ndarray, 'R'],
  ids: Int[Array, 'C J'],
  lengths: Int[Array, 'C'],
  *,
  pooling: str,
  tile: int,
  block: int,
  mesh: Mesh | None,
) -> Float[Array, 'C R']:
  """Scores of captions and chosen images, over a mesh.

  Args:
    arrays: 'table', and what `READS` names for the pooling, of all images.
    rows: images; a multiple of the mesh's image ways times `tile`.
    ids, lengths: see `similarity.word_means`; a multiple of the mesh's caption
      ways times `block`.
    pooling, tile, block, mesh: see `Matcher`.
  """
  run = functools.partial(_scores, pooling=pooling, tile=tile, block=block)
  chosen = {name: arrays[name] for name in READS[pooling]}
  for name in chosen:
    axis = SPECS[name].index(BATCH_AXES)
    chosen[name] = jnp.take(chosen[name], rows, axis=axis)
  chosen['table'] = arrays['table']
  takes = (
    {name: SPECS[name] for name in chosen},
    SPECS['ids'],
    SPECS['lengths'],
  )
  gives = P(CAPTION_AXIS, BATCH_AXES)
  return _spread(run, mesh, takes, gives)(chosen, ids, lengths)


def _scores(arrays, ids, lengths, *, pooling, tile, block) -> jax.Array:
  """What a device computes of its own images and captions."""
  images = [arrays.get(name) for name in ('codes', 'valid', 'table')]
  if pooling == 'mean':
    return similarity.overall_means(*images, ids, lengths, block=block)
  parts = []
  if pooling in ('t2i', 'sum'):
    parts.append(
      similarity.word_means(arrays['best'], ids, lengths, block=block)
    )
  if pooling in ('i2t', 'sum'):
    parts.append(
      similarity.region_means(*images, ids, lengths, tile=tile, block=block)
    )
  return sum(parts[1:], parts[0])


def _spread(run: Callable, mesh: Mesh | None, takes, gives) -> Callable:
  if mesh is None:
    return run
  return jax.shard_map(
    run, mesh=mesh, in_specs=takes, out_specs=gives, check_vma=False
  )


def matched_ranks(
  images_of_texts: retrieval.Score,
  texts_of_images: retrieval.Score,
  owners: Int[np.ndarray, 'M'],
  **settings: int,
) -> retrieval.Ranks:
  """Ranks where each direction has its own scores.

  'matched' pooling is the t2i principle where images are looked for, and i2t
  where texts are; the published tables have i2t in both.

  Args:
    images_of_texts: scores that rank images for a text.
    texts_of_images: scores that rank texts for an image.
    owners, settings: see `retrieval.ranks`.
  """
  images = retrieval.ranks(images_of_texts, owners, **settings)
  texts = retrieval.ranks(texts_of_images, owners, **settings)
  return texts._replace(images=images.images)


def _packed(
  ids: np.ndarray, usable: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Usable words first, then the zero vector's number; and how many."""
  there = (ids >= 0) & usable[ids]
  order = np.argsort(~there, axis=1, kind='stable')
  lengths = there.sum(axis=1).astype(np.int32)
  ids = np.take_along_axis(np.where(there, ids, len(usable)), order, axis=1)
  width = max(int(lengths.max(initial=0)), 1)
  if ids.shape[1] < width:
    ids = np.full((len(ids), width), len(usable))
  return ids[:, :width].astype(np.int32), lengths


def _padded(x: np.ndarray, rows: int) -> np.ndarray:
  return np.pad(x, ((0, rows), *((0, 0),) * (x.ndim - 1)))


def _check(codes, valid, table, ids, pooling) -> None:
  if pooling not in POOLINGS:
    raise ValueError(f'pooling={pooling!r}, expected one of {POOLINGS}')
  if valid.shape != codes.shape[:2] or codes.shape[2] != table.shape[1]:
    raise ValueError(
      f'codes {codes.shape}, valid {valid.shape} and table {table.shape}, '
      'expected [n, I, Z], [n, I] and [W, Z]'
    )
  if ids.size and not -1 <= ids.min() <= ids.max() < len(table):
    raise ValueError(
      f'numbers of words {ids.min()} to {ids.max()}, expected -1 to '
      f'{len(table) - 1}'
    )
  bad = np.argwhere(valid & ~np.isfinite(codes).all(axis=-1))
  if len(bad):
    image, region = bad[0]
    raise ValueError(
      f'region {region} of image {image} holds NaN or infinity ({len(bad)} '
      'regions do)'
    )
  bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
  if len(bad):
    raise ValueError(
      f'the prototype of word {bad[0]} holds NaN or infinity ({len(bad)} do)'
    )
