"""Prototypes of a caption's words, by everything that may be done about OOD.

A table has a row for each distinct word of the test captions. Known words have
their prototype in all of them; they differ in what held-out nouns take. Texture
words are left out, as a part-of-speech filter leaves out what no region was
ever labelled with, but for one variant.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from data.words.vectors import WordVectors
from data.worlds import nouns
from vlm.methods.mask.reconstruct import (
  PRESETS,
  Reconstruction,
  neighbours_of,
  procrustes,
  reconstruct,
)

DROP, CONSTANT, ORACLE = 'drop', 'constant mean prototype', 'oracle'
RECOMMENDED, SHUFFLED = 'real vectors, recommended', 'shuffled vectors'
PAPER, NEAREST, ALL = (
  'real vectors, m = 10 (paper)',
  'real vectors, m = 1',
  'real vectors, m = K',
)
BEST = 'real vectors, m = 3'
SHUFFLED_BEST = 'shuffled vectors, m = 3'
PROCRUSTES = 'Procrustes'
TEXTURES = 'recommended, textures too'
COLOURS_DROPPED = 'colours dropped'
COLOURS_OUT = 'colours left out and reconstructed'
OF_WEIGHTS = {
  NEAREST: Reconstruction(neighbours=1),
  BEST: Reconstruction(neighbours=3),
  PAPER: PRESETS['paper'],
  ALL: Reconstruction(neighbours=len(nouns.KNOWLEDGE)),
  RECOMMENDED: PRESETS['recommended'],
}


@dataclasses.dataclass(frozen=True)
class Words:
  """What is known of words.

  Attributes:
    prototypes: [K, Z], of `nouns.KNOWLEDGE`.
    vectors: of all words.
    oracle: [H, Z], true means of `nouns.HELD_OUT`.
    seed: of the order in which vectors are shuffled.
  """

  prototypes: np.ndarray
  vectors: WordVectors
  oracle: np.ndarray
  seed: int

  @property
  def known(self) -> np.ndarray:
    """[K, N], vectors of the knowledge."""
    return self.vectors.rows(nouns.KNOWLEDGE)

  def rebuilt(
    self,
    words: Sequence[str],
    settings: Reconstruction,
    *,
    shuffled: bool = False,
  ) -> np.ndarray:
    """Prototypes [O, Z] of words from their neighbours'.

    Args:
      words: with a vector.
      settings: how neighbours are weighted.
      shuffled: known words have each other's vectors.
    """
    known = self.known
    if shuffled:
      known = known[np.random.default_rng(self.seed).permutation(len(known))]
    found = reconstruct(
      jnp.asarray(self.vectors.rows(words)),
      jnp.asarray(known),
      jnp.asarray(self.prototypes),
      **dataclasses.asdict(settings),
    )
    return np.asarray(found)

  def left_out(self, words: Sequence[str]) -> np.ndarray:
    """Prototypes of known words, each rebuilt as if it were not known."""
    settings = PRESETS['recommended']
    near = neighbours_of(
      jnp.asarray(self.vectors.rows(words)),
      jnp.asarray(self.known),
      neighbours=settings.neighbours + 1,
      mode=settings.mode,
      temperature=settings.temperature,
    )
    # Each is its own nearest neighbour; without it the others' weights grow.
    index, weight = (
      np.asarray(near.index)[:, 1:],
      np.asarray(near.weight)[:, 1:],
    )
    weight = weight / weight.sum(1, keepdims=True)
    return np.einsum('OQ,OQZ->OZ', weight, self.prototypes[index])


def tables(of: Words, words: Sequence[str]) -> dict[str, np.ndarray]:
  """{variant: float32 [W, Z]}; rows of zeros are words that are left out.

  Args:
    of: what is known.
    words: W distinct words of captions.
  """
  held, colours = list(nouns.HELD_OUT), list(nouns.COLOURS)
  textures = list(nouns.TEXTURES[1:])
  mean = of.prototypes.mean(0)
  base = dict(zip(nouns.KNOWLEDGE, of.prototypes))
  made = lambda names, rows: table_of(words, base | dict(zip(names, rows)))
  found = {
    DROP: table_of(words, base),
    CONSTANT: made(held, [mean] * len(held)),
    SHUFFLED: made(
      held, of.rebuilt(held, PRESETS['recommended'], shuffled=True)
    ),
    SHUFFLED_BEST: made(
      held, of.rebuilt(held, OF_WEIGHTS[BEST], shuffled=True)
    ),
  }
  for name, settings in OF_WEIGHTS.items():
    found[name] = made(held, of.rebuilt(held, settings))
  inverse = procrustes(of.known, of.prototypes)
  found[PROCRUSTES] = made(held, inverse.invert(of.vectors.rows(held)))
  found[ORACLE] = made(held, of.oracle)
  rebuilt = of.rebuilt(held + textures, PRESETS['recommended'])
  found[TEXTURES] = made(held + textures, rebuilt)
  recommended = of.rebuilt(held, PRESETS['recommended'])
  zeros = np.zeros((len(colours), len(mean)))
  for name, rows in (
    (COLOURS_DROPPED, zeros),
    (COLOURS_OUT, of.left_out(colours)),
  ):
    found[name] = made(held + colours, [*recommended, *rows])
  return found


def recommended(of: Words, words: Sequence[str]) -> np.ndarray:
  """`tables(of, words)[RECOMMENDED]` alone."""
  held = list(nouns.HELD_OUT)
  rows = dict(zip(nouns.KNOWLEDGE, of.prototypes))
  rebuilt = of.rebuilt(held, PRESETS['recommended'])
  return table_of(words, rows | dict(zip(held, rebuilt)))


def table_of(
  words: Sequence[str], rows: Mapping[str, np.ndarray]
) -> np.ndarray:
  """float32 [W, Z], zeros for words without a row."""
  width = len(next(iter(rows.values())))
  zero = np.zeros(width)
  return np.stack([rows.get(word, zero) for word in words]).astype(np.float32)
