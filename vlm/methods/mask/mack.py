"""MACK: the predecessor, which has no encoder (OpenReview 7lf58jWnDIS).

Its knowledge is the mean of the raw features of a word's regions: `Moments` of
the features themselves. A caption is its nouns; an adjective that belongs to
one is added to it, prototype to prototype; a caption without a noun is the
first unit vector. What it says of words without a prototype is nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vlm.methods.mask.prototypes import Moments

# (noun, adjective or -1), numbers of words with a prototype.
Phrase = tuple[int, int]


class Captions(NamedTuple):
  """What a `Matcher` reads of captions.

  Attributes:
    table: float32 [W, M], a vector for each phrase that is said; e_0 is last.
    ids: int32 [C, J], each caption's phrases, -1 behind them.
  """

  table: np.ndarray
  ids: np.ndarray


def knowledge(
  words: int,
  features: Float[np.ndarray, 'R M'],
  pairs: Int[np.ndarray, 'Q 2'],
) -> Moments:
  """Moments of raw features by word, of regions that fit into memory.

  Args:
    words: K.
    features: of the regions.
    pairs: (region, word). For more regions call `Moments.add` with chunks.
  """
  moments = Moments(words, features.shape[1])
  moments.add(features, pairs[:, 0], pairs[:, 1])
  return moments


def caption_vectors(
  captions: Sequence[Sequence[Phrase]],
  prototypes: Float[np.ndarray, 'K M'],
  *,
  adjective: float = 1.0,
) -> Captions:
  """Vectors of captions' nouns, each with `adjective` times its adjective's.

  Raises:
    ValueError: for a noun or adjective without a prototype, naming both.
  """
  phrases = sorted({tuple(one) for caption in captions for one in caption})
  number = {phrase: i for i, phrase in enumerate(phrases)}
  for noun, other in phrases:
    if not (0 <= noun < len(prototypes) and -1 <= other < len(prototypes)):
      raise ValueError(
        f'phrase of noun {noun} and adjective {other}, expected numbers below '
        f'{len(prototypes)}; -1 is no adjective'
      )
  table = np.zeros((len(phrases) + 1, prototypes.shape[1]), np.float32)
  for (noun, other), i in number.items():
    table[i] = prototypes[noun]
    if other >= 0:
      table[i] += adjective * prototypes[other]
  table[-1, 0] = 1
  rows = [
    [number[tuple(one)] for one in caption] or [len(phrases)]
    for caption in captions
  ]
  width = max((len(row) for row in rows), default=1)
  ids = np.full((len(rows), width), -1, np.int32)
  for row, found in zip(ids, rows):
    row[: len(found)] = found
  return Captions(table, ids)
