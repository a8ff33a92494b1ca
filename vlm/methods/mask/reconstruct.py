"""Prototypes for words without regions, from word vectors (Eq. 11 to 13).

A word takes the weighted mean of the prototypes of the words most like it. Like
is meant by cosine; the weights are a softmax over raw products, as written
('raw'), or over cosines ('cos'), which does not depend on the vectors' scale.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vlm.methods.mask.directions import product, unit

MODES = ('raw', 'cos')
# Rounding hides that equal vectors may differ in a product's last bits.
DECIMALS = 6


@dataclasses.dataclass(frozen=True)
class Reconstruction:
  """How neighbours are weighted.

  Attributes:
    neighbours: m; all known words where there are fewer.
    mode: 'raw' or 'cos'.
    temperature: the softmax's.
  """

  neighbours: int = 10
  mode: str = 'raw'
  temperature: float = 1.0

  def __post_init__(self):
    if self.neighbours < 1:
      raise ValueError(
        f'reconstruct.neighbours={self.neighbours}, expected at least 1'
      )
    if self.mode not in MODES:
      raise ValueError(
        f'reconstruct.mode={self.mode!r}, expected one of {MODES}'
      )
    if not self.temperature > 0:
      raise ValueError(
        f'reconstruct.temperature={self.temperature}, expected more than 0'
      )


PRESETS = {
  'paper': Reconstruction(),
  'recommended': Reconstruction(mode='cos', temperature=0.1),
}


class Neighbours(NamedTuple):
  """The known words nearest to each, best first; ties to the lower number.

  Attributes:
    index: int32 [O, m].
    weight: float32 [O, m], rows sum to 1; or are 0, for a zero vector.
    cosine: float32 [O, m]; -inf where there is no neighbour.
  """

  index: jax.Array
  weight: jax.Array
  cosine: jax.Array


def neighbours_of(
  vectors: Float[Array, 'O _'],
  known: Float[Array, 'K N'],
  *,
  neighbours: int = 10,
  mode: str = 'raw',
  temperature: float = 1.0,
  block: int = 256,
) -> Neighbours:
  """The nearest known words of each vector and their weights.

  Args:
    vectors: of the words that are asked for; a zero vector has no neighbour.
    known: of words with a prototype; a zero vector is nobody's neighbour.
    neighbours, mode, temperature: see `Reconstruction`.
    block: vectors compared at a time.

  Raises:
    ValueError: for settings out of range, vectors of different widths, or none
      that are known.
  """
  settings = Reconstruction(neighbours, mode, temperature)
  if vectors.shape[1] != known.shape[1] or not len(known):
    raise ValueError(
      f'word vectors of {vectors.shape[1]} numbers and {len(known)} known ones '
      f'of {known.shape[1]}: expected some, of the same width'
    )
  vectors, known = (x.astype(jnp.float32) for x in (vectors, known))
  directions = unit(known)
  absent = jnp.all(known == 0, axis=1)

  def near(vector):
    cosine = product('N,KN->K', unit(vector), directions)
    cosine = jnp.where(absent, -jnp.inf, jnp.round(cosine, DECIMALS))
    best, index = jax.lax.top_k(cosine, min(settings.neighbours, len(known)))
    raw = product('N,QN->Q', vector, known[index])
    logits = (raw if mode == 'raw' else best) / temperature
    there = (best > -jnp.inf) & jnp.any(vector != 0)
    weight = jax.nn.softmax(logits, where=there, axis=-1)
    weight = jnp.where(there, weight, 0)
    return Neighbours(index, weight, jnp.where(there, best, -jnp.inf))

  return jax.lax.map(near, vectors, batch_size=block)


def reconstruct(
  vectors: Float[Array, 'O _'],
  known: Float[Array, 'K N'],
  prototypes: Float[Array, '_ Z'],
  *,
  neighbours: int = 10,
  mode: str = 'raw',
  temperature: float = 1.0,
) -> Float[Array, 'O Z']:
  """Prototypes of words that have a vector and no region (Eq. 13), float32.

  The row of a zero vector is zero, which a matcher takes for an unknown word.

  Raises:
    ValueError: see `neighbours_of`; or as many prototypes as there are not
      known words.
  """
  if len(known) != len(prototypes):
    raise ValueError(
      f'{len(known)} known words and {len(prototypes)} prototypes'
    )
  near = neighbours_of(
    vectors,
    known,
    neighbours=neighbours,
    mode=mode,
    temperature=temperature,
  )
  weighted = lambda one: product('Q,QZ->Z', one.weight, prototypes[one.index])
  return jax.lax.map(weighted, near, batch_size=256)


class Procrustes(NamedTuple):
  """The similarity map from prototypes to word vectors, w = scale A v + shift.

  Not the paper's method: what its appendix B argues with, in a correct form,
  as another way to a prototype. float64.

  Attributes:
    rotation: A [N, Z].
    scale: above 0.
    shift: [N].
  """

  rotation: Float[np.ndarray, 'N Z']
  scale: float
  shift: Float[np.ndarray, 'N']

  def invert(self, vectors: Float[np.ndarray, 'O N']) -> np.ndarray:
    """Prototypes [O, Z] of word vectors: A^T (w - shift) / scale."""
    return (vectors - self.shift) @ self.rotation / self.scale


def procrustes(
  known: Float[np.ndarray, 'K N'], prototypes: Float[np.ndarray, 'K Z']
) -> Procrustes:
  """The least-squares similarity map (U S V^T = svd(W_c^T V_c), centred rows).

  Raises:
    ValueError: when all prototypes, or all vectors, are equal.
  """
  w, v = (np.asarray(x, np.float64) for x in (known, prototypes))
  w_mean, v_mean = w.mean(axis=0), v.mean(axis=0)
  w, v = w - w_mean, v - v_mean
  left, spread, right = np.linalg.svd(w.T @ v, full_matrices=False)
  if not spread.sum() > 0:
    raise ValueError('all known words have equal vectors or equal prototypes')
  rotation = left @ right
  scale = float(spread.sum() / np.square(v).sum())
  return Procrustes(rotation, scale, w_mean - scale * rotation @ v_mean)


def effective_neighbours(weight: Float[Array, 'O m']) -> Float[Array, 'O']:
  """exp(entropy) of each row of weights: how many neighbours really count."""
  return jnp.exp(jnp.sum(jax.scipy.special.entr(weight), axis=-1))
