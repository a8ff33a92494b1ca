"""What prototypes look like from inside, without any retrieval."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import stats

from data.worlds import nouns
from experiments.mask import tables, world
from vlm.methods.mask.reconstruct import PRESETS, neighbours_of

SHOWN = 5  # neighbours and scenes that pictures show
# One held-out noun of each family.
PICTURED = (
  'puppy', 'pony', 'taxi', 'yacht', 'cherry', 'couch', 'coat', 'lady', 'mug',
  'cottage',
)  # fmt: skip


def facts(
  words: tables.Words, codes: np.ndarray, part: world.Part
) -> dict[str, float]:
  """Figures of the prototypes.

  Args:
    words: the prototypes.
    codes: [n, I, Z] of the test scenes.
    part: the test scenes.

  Returns:
    noun_accuracy and colour_accuracy, of the nearest prototype of each region
    (of known nouns; of colours); rsa and rsa_nouns, Spearman's correlation of
    the cosines of word vectors with those of prototypes; and centred cosines
    of rebuilt prototypes with the true ones: ood_cosine of the held-out nouns,
    shuffled_cosine of theirs with shuffled vectors, noun_cosine and
    colour_cosine of known nouns and colours, each left out.
  """
  held, colours = list(nouns.HELD_OUT), list(nouns.COLOURS)
  known = list(nouns.KNOWN)
  settings = PRESETS['recommended']
  mean = words.prototypes.mean(0)
  true = dict(zip(nouns.KNOWLEDGE, words.prototypes))
  rows = lambda names: np.stack([true[name] for name in names])
  like = lambda made, target: float(
    np.mean(np.sum(_unit(made - mean) * _unit(target - mean), 1))
  )
  labels = part.words()
  return {
    'noun_accuracy': _nearest(codes, labels[..., 0], known, rows(known)),
    'colour_accuracy': _nearest(codes, labels[..., 1], colours, rows(colours)),
    'rsa': _rsa(words.known, words.prototypes),
    'rsa_nouns': _rsa(words.vectors.rows(known), rows(known)),
    'ood_cosine': like(words.rebuilt(held, settings), words.oracle),
    'shuffled_cosine': like(
      words.rebuilt(held, settings, shuffled=True), words.oracle
    ),
    'noun_cosine': like(words.left_out(known), rows(known)),
    'colour_cosine': like(words.left_out(colours), rows(colours)),
  }


def _nearest(codes, labels, names: Sequence[str], rows: np.ndarray) -> float:
  """Share of regions with such a label whose nearest prototype has it."""
  there = np.isin(labels, names)
  best = np.argmax(_unit(codes[there]) @ _unit(rows).T, axis=1)
  return float(np.mean(np.array(names)[best] == labels[there]))


def _rsa(first: np.ndarray, second: np.ndarray) -> float:
  upper = np.triu_indices(len(first), 1)
  cosines = [(_unit(x) @ _unit(x).T)[upper] for x in (first, second)]
  return float(stats.spearmanr(*cosines).statistic)


def _unit(x: np.ndarray) -> np.ndarray:
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def shown(
  words: tables.Words,
  codes: np.ndarray,
  part: world.Part,
  table: np.ndarray,
  captions: Any,
  count: int,
) -> dict[str, Any]:
  """What the pictures need, as JSON.

  Args:
    words: the prototypes.
    codes: of the test scenes.
    part: the test scenes.
    table: prototypes of the captions' words.
    captions: `measure.Captions`.
    count: captions with a held-out noun that are shown, each of another scene.
  """
  chosen = np.flatnonzero(captions.held_out & captions.coloured)
  _, first = np.unique(captions.owners[chosen], return_index=True)
  best = np.max(_unit(codes) @ _unit(table).T, axis=1)  # [n, W]
  return {
    'captions': [
      _caption(codes, part, table, captions, best, int(number))
      for number in chosen[first][:count]
    ],
    'neighbours': _neighbours(words),
  }


def _caption(codes, part, table, captions, best, number: int) -> dict[str, Any]:
  """A caption's cosines with the regions of its scene, and its best scenes."""
  ids = captions.ids[number]
  ids = [i for i in ids[ids >= 0] if table[i].any()]
  owner = int(captions.owners[number])
  cosines = _unit(codes[owner]) @ _unit(table[ids]).T
  order = np.argsort(-best[:, ids].mean(1), kind='stable')
  return {
    'text': part.captions[number],
    'scene': owner,
    'words': [captions.words[i] for i in ids],
    'cosines': np.round(cosines.T, 4).tolist(),
    'rank': int(np.flatnonzero(order == owner)[0]),
    'best': order[:SHOWN].tolist(),
  }


def _neighbours(words: tables.Words) -> list[dict[str, Any]]:
  """Nearest words by vector, and nearest prototypes by the true look."""
  settings = PRESETS['recommended']
  near = neighbours_of(
    jnp.asarray(words.vectors.rows(PICTURED)),
    jnp.asarray(words.known),
    neighbours=settings.neighbours,
    mode=settings.mode,
    temperature=settings.temperature,
  )
  mean = words.prototypes.mean(0)
  places = [nouns.HELD_OUT.index(word) for word in PICTURED]
  true = _unit(words.oracle[places] - mean)
  cosines = np.sum(_unit(words.rebuilt(PICTURED, settings) - mean) * true, 1)
  like = np.argsort(-true @ _unit(words.prototypes - mean).T, axis=1)
  named = lambda index: [nouns.KNOWLEDGE[i] for i in index[:SHOWN]]
  return [
    {
      'word': word,
      'by_vector': named(index),
      'weights': np.round(weight[:SHOWN], 3).tolist(),
      'by_look': named(alike),
      'cosine': float(cosine),
    }
    for word, index, weight, alike, cosine in zip(
      PICTURED,
      np.asarray(near.index),
      np.asarray(near.weight),
      like,
      cosines,
    )
  ]
