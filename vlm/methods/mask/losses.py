"""The three losses of the region encoder (paper, Eq. 4 to 9).

    L = ir_scale L_ir + lambda_1 L_cm + lambda_2 L_cl     (Eq. 14; both are 3)

All are float32 and given term by term, 0 in padding, so that a trainer can sum
them over microbatches. A pair is a region with a word of it; pairs without a
word (-1) are padding. Pairs are compared with all others, one block of columns
at a time; where rows are spread over a mesh, they stay there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from vlm.methods.mask.directions import unit

NEGATIVES = ('others', 'literal', 'multi_positive')
TEMPERATURE = 0.07


class Retention(NamedTuple):
  """L_ir of each region, nats and squared units; both [B, I].

  Attributes:
    divergence: KL(N(mean, variance) || N(0, 1)), summed over the code.
    error: |region - rebuilt|^2, summed over the feature.
  """

  divergence: jax.Array
  error: jax.Array


class CrossModal(NamedTuple):
  """L_cm of each pair; both [P], their means over pairs are Eq. 8 and 9.

  Attributes:
    word: 1 - cos(word, predicted word).
    structure: mean over the other pairs of the squared difference between
      cosines of predicted words and cosines of codes.
  """

  word: jax.Array
  structure: jax.Array


def draw(
  key: jax.Array,
  mean: Float[Array, '*B Z'],
  log_variance: Float[Array, '*B Z'],
) -> Float[Array, '*B Z']:
  """A code from its distribution, by which gradients pass (Eq. 4)."""
  noise = jax.random.normal(key, mean.shape, jnp.float32)
  return mean + jnp.exp(0.5 * log_variance) * noise


def retention(
  regions: Float[Array, 'B I M'],
  rebuilt: Float[Array, 'B I M'],
  mean: Float[Array, 'B I Z'],
  log_variance: Float[Array, 'B I Z'],
  valid: Bool[Array, 'B I'],
) -> Retention:
  """L_ir in its two parts (Eq. 5), summed as written.

  The error is a sum over M numbers: divide the loss by M to give it the size
  of the others.
  """
  mean, log_variance = (x.astype(jnp.float32) for x in (mean, log_variance))
  divergence = 0.5 * jnp.sum(
    jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance, axis=-1
  )
  # What padding holds may not be finite, and would reach the gradient.
  gap = jnp.where(valid[..., None], regions - rebuilt, 0).astype(jnp.float32)
  error = jnp.sum(jnp.square(gap), axis=-1)
  return Retention(jnp.where(valid, divergence, 0), error)


def cross_modal(
  words: Float[Array, 'P N'],
  predicted: Float[Array, 'P N'],
  codes: Float[Array, 'P Z'],
  ids: Int[Array, 'P'],
  *,
  block: int = 1024,
) -> CrossModal:
  """L_cm in its two parts (Eq. 8 and 9).

  Args:
    words: vectors of the pairs' words.
    predicted: what f makes of the codes.
    codes: means of the regions' codes.
    ids: numbers of the words; -1 is padding. Pairs of one word count too.
    block: columns compared at a time.
  """
  there = ids >= 0
  predicted, codes = unit(predicted), unit(codes)
  word = 1 - jnp.sum(unit(words) * predicted, axis=-1)
  numbers = jnp.arange(len(ids))

  def add(total, columns):
    their_words, their_codes, there, number = columns
    gap = _gram(predicted, their_words) - _gram(codes, their_codes)
    apart = there & (number != numbers[:, None])
    return total + jnp.sum(jnp.square(gap), axis=1, where=apart)

  total = _over_columns(
    add, jnp.zeros(len(ids)), (predicted, codes, there, numbers), block
  )
  structure = total / jnp.maximum(jnp.sum(there) - 1, 1)
  return CrossModal(
    jnp.where(there, word, 0.0), jnp.where(there, structure, 0.0)
  )


def consistency(
  prototypes: Float[Array, 'P Z'],
  codes: Float[Array, 'P Z'],
  words: Int[Array, 'P'],
  *,
  temperature: float = TEMPERATURE,
  negatives: str = 'others',
  block: int = 1024,
) -> Float[Array, 'P']:
  """L_cl of each pair: its prototype picks its code among all (Eq. 6).

      -log exp(v_k mu_k / t) / sum_n exp(v_k mu_n / t), of unit vectors

  Args:
    prototypes: of each pair's word.
    codes: of each pair's region.
    words: number of each pair's word; -1 is padding.
    temperature: t.
    negatives: what stands in the sum beside the pair's own code: codes of
      other words ('others'); all, those of its own word too ('literal', as
      written); or all, where the loss is the mean over the codes of its word
      ('multi_positive').
    block: columns compared at a time.

  Raises:
    ValueError: another kind of negatives, or a temperature that is not
      positive.
  """
  if negatives not in NEGATIVES:
    raise ValueError(f'negatives={negatives!r}, expected one of {NEGATIVES}')
  if not temperature > 0:
    raise ValueError(f'temperature={temperature}, expected a positive number')
  there = words >= 0
  prototypes, codes = unit(prototypes), unit(codes)
  numbers = jnp.arange(len(words))
  own = jnp.sum(prototypes * codes, axis=-1) / temperature

  def add(seen, columns):
    logsumexp, chosen, count = seen
    theirs, word, number = columns
    logits = _gram(prototypes, theirs) / temperature
    mine = (word == words[:, None]) & (word >= 0)
    among = (word >= 0) & jnp.ones_like(mine)
    if negatives == 'others':
      among &= ~mine | (number == numbers[:, None])
    here = jax.nn.logsumexp(jnp.where(among, logits, _FLOOR), axis=1)
    chosen += jnp.sum(logits, axis=1, where=mine)
    return jnp.logaddexp(logsumexp, here), chosen, count + jnp.sum(mine, axis=1)

  start = jnp.full(len(words), _FLOOR), jnp.zeros(len(words))
  logsumexp, chosen, count = _over_columns(
    add,
    (*start, jnp.zeros(len(words), jnp.int32)),
    (codes, words, numbers),
    block,
  )
  if negatives == 'multi_positive':
    own = chosen / jnp.maximum(count, 1)
  return jnp.where(there, logsumexp - own, 0.0)


# Finite: a block may hold nothing but padding.
_FLOOR = -1e30


def _over_columns(add: Callable, start: Any, columns: Any, block: int) -> Any:
  """Folds `add(carry, block of columns)`; blocks are computed again for the
  gradient. The last block is filled up with padding of -1 and False."""
  size = len(jax.tree.leaves(columns)[0])
  block = min(block, size)
  count = -(-size // block)

  def blocks(leaf):
    missing = ((0, count * block - size), *((0, 0),) * (leaf.ndim - 1))
    fill = -1 if jnp.issubdtype(leaf.dtype, jnp.integer) else 0
    leaf = jnp.pad(leaf, missing, constant_values=fill)
    return leaf.reshape(count, block, *leaf.shape[1:])

  step = jax.checkpoint(lambda carry, part: (add(carry, part), None))
  return lax.scan(step, start, jax.tree.map(blocks, columns))[0]


def _gram(rows: jax.Array, columns: jax.Array) -> jax.Array:
  return jnp.einsum(
    'PZ,QZ->PQ', rows, columns, preferred_element_type=jnp.float32
  )
