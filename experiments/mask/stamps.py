"""Real pictures, if they are there: stamps whose captions name what they show.

Half of the stamps are labelled regions (the whole and four quarters, each with
all words of the caption), the other half is searched. Prototypes are raw means
of the patch code, as in MACK: there are too few pictures to train on. What is
asked is whether words of no labelled stamp are better rebuilt or dropped. Needs
the Debian package of data/sources/stamps.py and the extra `glove`; without
either it is left out, and the report says so.
"""

import zlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from data.sources import stamps
from data.words.captions import WordSettings, words_of
from data.words.vectors import WordVectors, load_vectors
from data.worlds import patch_code
from experiments.mask import measure
from experiments.mask.bundle_vectors import PACKAGE
from vlm.methods.mask.prototypes import Moments
from vlm.methods.mask.reconstruct import PRESETS, neighbours_of

SIDE = 64
FILTERS, FEATURES = 128, 192
VARIANTS = (
  'drop',
  'constant mean prototype',
  'shuffled vectors',
  'real vectors',
)


def run(seed: int = 0) -> dict[str, Any] | str:
  """{variant: [captions, R@1, R@5, R@10]}, or what is not installed."""
  found = stamps.installed()
  if not found:
    return 'tuxpaint-stamps-default is not installed'
  settings = WordSettings(lemmatise=True)
  said = [words_of(stamp.caption, settings) for stamp in found]
  try:
    vectors = load_vectors(PACKAGE, wanted={w for ws in said for w in ws})
  except FileNotFoundError as error:
    return str(error)
  return retrieval_of(found, said, vectors, seed)


def retrieval_of(
  found: list[stamps.Stamp],
  said: list[list[str]],
  vectors: WordVectors,
  seed: int,
) -> dict[str, Any]:
  """Images by captions with a word that no labelled stamp has."""
  # By name, so that a stamp more or less moves no other.
  labelled = np.array(
    [zlib.crc32(stamp.path.name.encode()) % 2 == 0 for stamp in found]
  )
  said = [[word for word in words if word in vectors.index] for words in said]
  crops = np.stack([_crops(stamps.picture(stamp, SIDE)) for stamp in found])
  flat = lambda x: x.reshape(-1, *x.shape[2:])
  known = flat(crops[labelled])
  features = min(FEATURES, len(known) - 1)
  code = patch_code.fit(known, filters=FILTERS, features=features, seed=seed)
  codes = patch_code.encode(code, flat(crops)).reshape(*crops.shape[:2], -1)
  words = sorted({w for ws, its in zip(said, labelled) if its for w in ws})
  moments = _moments(codes, said, labelled, words)
  captions = _Captions(
    [ws for ws, its in zip(said, labelled) if not its], words
  )
  made = _tables(moments.prototypes(), words, captions.words, vectors, seed)
  ranks = measure.ranked(codes[~labelled], captions, made)
  figures = {
    name: list(measure.recalls(one, captions.held_out).values())
    for name, one in ranks.items()
  }
  return {'captions': int(captions.held_out.sum()), 'recalls': figures}


def _crops(pixels: np.ndarray) -> np.ndarray:
  """The whole at half size, and four quarters: uint8 [5, S / 2, S / 2, 3]."""
  half = len(pixels) // 2
  whole = pixels.reshape(half, 2, half, 2, 3).mean((1, 3))
  quarters = [
    pixels[top : top + half, left : left + half]
    for top in (0, half)
    for left in (0, half)
  ]
  return np.stack([whole.round().astype(np.uint8), *quarters])


def _moments(codes, said, labelled, words) -> Moments:
  place = {word: number for number, word in enumerate(words)}
  found = Moments(len(words), codes.shape[-1])
  for one, its, use in zip(codes, said, labelled):
    if use and its:
      numbers = [place[word] for word in its]
      regions = np.repeat(np.arange(len(one)), len(numbers))
      found.add(one, regions, np.tile(numbers, len(one)))
  return found


class _Captions:
  """What `measure.ranked` reads: a caption for each picture."""

  def __init__(self, said: list[list[str]], known: list[str]):
    self.words = tuple(sorted({word for words in said for word in words}))
    place = {word: number for number, word in enumerate(self.words)}
    width = max([1, *map(len, said)])
    self.ids = np.full((len(said), width), -1, np.int32)
    for row, words in zip(self.ids, said):
      row[: len(words)] = [place[word] for word in words]
    self.owners = np.arange(len(said))
    self.held_out = np.array([bool(set(ws) - set(known)) for ws in said])


def _tables(prototypes, words, asked, vectors, seed) -> dict[str, np.ndarray]:
  row = {word: number for number, word in enumerate(words)}
  known = np.array([row.get(word, -1) for word in asked])
  base = np.where(known[:, None] >= 0, prototypes[known], 0)
  others = np.flatnonzero(known < 0)
  made = {name: base.copy() for name in VARIANTS}
  made['constant mean prototype'][others] = prototypes.mean(0)
  order = np.random.default_rng(seed).permutation(len(words))
  space, settings = vectors.rows(words), PRESETS['recommended']
  for name, rows in (
    ('real vectors', space),
    ('shuffled vectors', space[order]),
  ):
    if len(others):
      near = neighbours_of(
        jnp.asarray(vectors.rows([asked[i] for i in others])),
        jnp.asarray(rows),
        neighbours=settings.neighbours,
        mode=settings.mode,
        temperature=settings.temperature,
      )
      weight, index = np.asarray(near.weight), np.asarray(near.index)
      rebuilt = np.einsum('OQ,OQZ->OZ', weight, prototypes[index])
      made[name][others] = rebuilt
  return made
