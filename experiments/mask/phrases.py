"""Captions as MACK reads them: nouns, each with its own adjective."""

from collections.abc import Sequence

import numpy as np

from data.knowledge import Knowledge
from data.sources.karpathy import Dependency
from data.words.captions import Tagged
from vlm.methods.mask import mack

NOUN, ADJECTIVE, MODIFIES = 'NN', 'JJ', 'amod'


def table(
  knowledge: Knowledge,
  tags: Sequence[Tagged],
  parses: Sequence[Sequence[Dependency]],
) -> tuple[np.ndarray, np.ndarray]:
  """Vectors of phrases [W, M], and those of each caption, ids [C, J].

  A caption without a noun that is known has the first unit vector.

  Args:
    knowledge: what prototypes are taken from.
    tags: tokens of each caption with their tags.
    parses: dependencies of each caption.
  """
  captions = [
    _phrases(knowledge.index, tokens, relations)
    for tokens, relations in zip(tags, parses, strict=True)
  ]
  found = mack.caption_vectors(captions, knowledge.prototypes)
  return found.table, found.ids


def _phrases(index, tokens: Tagged, relations) -> list[mack.Phrase]:
  adjectives: dict[str, int] = {}
  for (head, _), relation, (word, tag) in relations:
    known = word.lower() in index and tag.startswith(ADJECTIVE)
    if relation == MODIFIES and known:
      # The first that is known; a noun said twice shares it.
      adjectives.setdefault(head.lower(), index[word.lower()])
  nouns = [token.lower() for token, tag in tokens if NOUN in tag]
  return [
    (index[noun], adjectives.get(noun, -1)) for noun in nouns if noun in index
  ]
