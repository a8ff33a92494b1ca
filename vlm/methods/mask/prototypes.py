"""Prototypes: the mean of each word's regions, and how far they spread.

    v_k = mean of mu_j over the regions j of word k                   (Eq. 2)

`Moments` reads any number of regions in chunks and keeps three arrays, in
float64: counts, means and sums of squared deviations, put together by Chan's
formula, which loses nothing where the mean is large beside the spread. What it
gives is that of one pass over everything. Hosts may read a part each, and
`merge`.

While the encoder is trained, the loss reads a `Bank` that follows the codes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import sparse

# Numbers of each region at a time: what is brought to float64 stays in a cache.
COLUMNS = 128


class Groups(NamedTuple):
  """Moments of a chunk's regions, word by word.

  Attributes:
    words: [U], no two alike; -1 is padding.
    counts: [U] regions.
    means: [U, Z].
    squares: [U, Z], sums of squared deviations from the means.
  """

  words: Any
  counts: Any
  means: Any
  squares: Any


class Moments:
  """Means and variances of the regions of K words, read in chunks.

  Attributes:
    counts: int64 [K], regions read.
    means: float64 [K, Z]; 0 for words without a region.
    squares: float64 [K, Z], sums of squared deviations.
    skipped: pairs whose region held NaN or infinity, and that were left out.

  Args:
    words: K.
    width: Z.
  """

  def __init__(self, words: int, width: int):
    self.counts = np.zeros(words, np.int64)
    self.means = np.zeros((words, width))
    self.squares = np.zeros((words, width))
    self.skipped = 0

  def add(
    self,
    codes: Float[np.ndarray, 'R Z'],
    regions: Int[np.ndarray, 'Q'],
    words: Int[np.ndarray, 'Q'],
  ) -> None:
    """Reads pairs of a region of `codes` and a word of it.

    Raises:
      ValueError: for a region or a word that does not exist, or codes of
        another width.
    """
    self._check(codes, regions, words)
    finite = np.isfinite(codes).all(axis=1)[regions]
    self.skipped += int(np.count_nonzero(~finite))
    regions, words = regions[finite], words[finite]
    if not len(words):
      return
    numbers, slots, counts = np.unique(
      words, return_inverse=True, return_counts=True
    )
    shape = len(numbers), len(codes)
    chosen = sparse.csr_array((np.ones(len(words)), (slots, regions)), shape)
    divisor = counts[:, None]
    for part in self._columns():
      # Near the codes a square loses nothing that float64 can hold.
      origin = codes[regions[0], part].astype(np.float64)
      x = codes[:, part] - origin
      means = chosen @ x / divisor
      squares = chosen @ np.square(x) - divisor * np.square(means)
      np.maximum(squares, 0, out=squares)
      self._fold(numbers, counts, means + origin, squares, part)
    self.counts[numbers] += counts

  def add_groups(self, groups: Groups) -> None:
    """Adds what was computed of a chunk, as by `sharded_groups`."""
    kept = (np.asarray(groups.words) >= 0) & (np.asarray(groups.counts) > 0)
    words, counts, means, squares = (np.asarray(x)[kept] for x in groups)
    for part in self._columns():
      self._fold(words, counts, means[:, part], squares[:, part], part)
    self.counts[words] += counts

  def merge(self, other: 'Moments') -> None:
    """Adds what another has read, of other regions of the same words."""
    if other.means.shape != self.means.shape:
      raise ValueError(
        f'moments of {other.means.shape} words and numbers, expected '
        f'{self.means.shape}'
      )
    words = np.flatnonzero(other.counts)
    self.skipped += other.skipped
    self.add_groups(
      Groups(
        words, other.counts[words], other.means[words], other.squares[words]
      )
    )

  def prototypes(self) -> Float[np.ndarray, 'K Z']:
    """float32; 0 for words without a region, which no matcher uses."""
    return self.means.astype(np.float32)

  def variance(self) -> Float[np.ndarray, 'K Z']:
    """Of the regions of each word (over their number), float32."""
    counts = np.maximum(self.counts, 1)[:, None]
    return (self.squares / counts).astype(np.float32)

  def _columns(self) -> list[slice]:
    width = self.means.shape[1]
    return [slice(i, i + COLUMNS) for i in range(0, width, COLUMNS)]

  def _fold(self, words, counts, means, squares, part: slice) -> None:
    """Chan's formula, for some columns; counts are still the old ones."""
    old, new = self.counts[words][:, None], counts[:, None]
    gap = means - self.means[words, part]
    self.means[words, part] += gap * (new / (old + new))
    squares = squares + np.square(gap) * (old * (new / (old + new)))
    self.squares[words, part] += squares

  def _check(self, codes, regions, words) -> None:
    if codes.shape[1] != self.means.shape[1]:
      raise ValueError(
        f'codes of {codes.shape[1]} numbers, expected {self.means.shape[1]}'
      )
    for name, index, count in (
      ('region', regions, len(codes)),
      ('word', words, len(self.counts)),
    ):
      if len(index) and not 0 <= index.min() <= index.max() < count:
        raise ValueError(
          f'{name} numbers {index.min()} to {index.max()}, expected 0 to '
          f'{count - 1}'
        )


def sharded_groups(
  codes: Float[Array, 'R Z'],
  regions: Int[Array, 'Q'],
  slots: Int[Array, 'Q'],
  words: Int[Array, 'U'],
) -> Groups:
  """Moments of a chunk whose codes are on devices, float32; to be jitted.

  Rows may be spread over a mesh, whose devices then sum what is theirs. Only
  the sums within a chunk are rounded to float32; `Moments` adds them exactly.

  Args:
    codes: of the chunk.
    regions: row of each pair's region; -1 is padding.
    slots: place of each pair's word in `words`.
    words: numbers of the chunk's words; -1 is padding.
  """
  there = regions >= 0
  slots = jnp.where(there, slots, len(words))  # out of range: dropped
  x = codes.astype(jnp.float32)[regions]
  total = lambda values: jax.ops.segment_sum(values, slots, len(words))
  counts = total(there.astype(jnp.int32))
  divisor = jnp.maximum(counts, 1)[:, None]
  means = total(x) / divisor
  # The first mean is rounded; what it misses is the mean of what is left.
  rest = x - means[slots]
  means += total(rest) / divisor
  return Groups(words, counts, means, total(jnp.square(x - means[slots])))


class Bank(NamedTuple):
  """Prototypes that follow the encoder while it learns.

  Attributes:
    vectors: float32 [K, Z], without a gradient.
    seen: bool [K], words of which any region was seen.
  """

  vectors: jax.Array
  seen: jax.Array


def empty_bank(words: int, width: int) -> Bank:
  """Of K words, none of which was seen."""
  return Bank(jnp.zeros((words, width)), jnp.zeros(words, bool))


def refreshed(moments: Moments) -> Bank:
  """The bank after a pass over all regions."""
  return Bank(
    jnp.asarray(moments.prototypes()), jnp.asarray(moments.counts > 0)
  )


def followed(
  bank: Bank,
  codes: Float[Array, 'P Z'],
  words: Int[Array, 'P'],
  *,
  decay: float = 0.99,
) -> Bank:
  """The bank after a step: words of the batch move towards its means.

  v_k <- decay v_k + (1 - decay) mean of the batch's codes of k; a word that was
  not seen before takes the mean itself. Words of -1 are padding.
  """
  means, here = _means(jax.lax.stop_gradient(codes), words, len(bank.seen))
  moved = decay * bank.vectors + (1 - decay) * means
  vectors = jnp.where(bank.seen[:, None], moved, means)
  return Bank(jnp.where(here[:, None], vectors, bank.vectors), bank.seen | here)


def batch_means(
  codes: Float[Array, 'P Z'], words: Int[Array, 'P'], count: int
) -> Float[Array, 'P Z']:
  """The mean of each pair's word within the batch, with its gradient.

  Args:
    codes: of the pairs.
    words: their words' numbers below `count`; rows of -1 get 0.
    count: K.
  """
  means, _ = _means(codes, words, count)
  return jnp.where((words >= 0)[:, None], means[words], 0)


def _means(
  codes: jax.Array, words: jax.Array, count: int
) -> tuple[Float[Array, 'K Z'], Bool[Array, 'K']]:
  there = words >= 0
  slots = jnp.where(there, words, count)
  total = lambda values: jax.ops.segment_sum(values, slots, count)
  counts = total(there.astype(jnp.int32))
  codes = jnp.where(there[:, None], codes, 0).astype(jnp.float32)
  return total(codes) / jnp.maximum(counts, 1)[:, None], counts > 0
