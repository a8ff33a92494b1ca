"""The miniature's task: regions of scenes, their words, and retrieval."""

import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from data.words.vectors import WordVectors, load_vectors
from data.worlds import nouns
from experiments.mask import bundle_vectors, measure, world

# What a caption of the world may name, in the order of a supervised table.
VOCABULARY = (*nouns.NOUNS, *nouns.COLOURS, *nouns.TEXTURES[1:])


class Task:
  """What launch/objectives/prototypes.py asks; see experiments/task.py.

  Args:
    config: with `scenes` and `measure`; see mask.py.
  """

  def __init__(self, config: Any):
    self._config = config

  @functools.cached_property
  def world(self) -> dict[str, world.Part]:
    """The parts of `config.scenes`."""
    return world.load(self._config.scenes)

  @functools.cached_property
  def vectors(self) -> WordVectors:
    """The bundled ones, or those of `config.data.vectors`."""
    path = self._config.data.vectors or bundle_vectors.BUNDLED
    return load_vectors(path, wanted=VOCABULARY)

  def words(self) -> tuple[tuple[str, ...], np.ndarray]:
    """Words of the knowledge, and their vectors float32 [K, N]."""
    return nouns.KNOWLEDGE, self.vectors.rows(nouns.KNOWLEDGE)

  def counts(self) -> np.ndarray:
    """Regions of each word of the knowledge."""
    found = np.zeros(len(nouns.KNOWLEDGE), int)
    for scene in self.world['knowledge'].scenes:
      for thing in scene.things:
        found[[_KNOWN[thing.noun], _KNOWN[thing.colour]]] += 1
    return found

  def vocabulary(self) -> tuple[str, ...]:
    """Words that a supervised model has a vector for."""
    return VOCABULARY

  def files(self) -> dict[str, str]:
    """The words that rows of a checkpoint's tables stand for."""
    supervised = self._config.objective == 'region_text'
    names = VOCABULARY if supervised else nouns.KNOWLEDGE
    return {'words.json': json.dumps(names)}

  def train_rows(self) -> tuple[list[Any], None]:
    """(sources, weights): labelled scenes, or those with captions."""
    part = 'knowledge'
    if self._config.objective == 'region_text':
      part = 'paired'
    return [_Scenes(part, self.world[part])], None

  def regions(self, row: Any) -> tuple[np.ndarray, list[list[int]]]:
    """A scene's features, and of each region the noun and the colour."""
    scene, features = row
    return features, [
      [_KNOWN[thing.noun], _KNOWN[thing.colour]] for thing in scene.things
    ]

  def region_caption(
    self, row: Any, rng: np.random.Generator
  ) -> tuple[np.ndarray, list[int]]:
    """A scene's features, and one of its captions as words."""
    scene, features = row
    text = scene.captions[rng.integers(len(scene.captions))]
    return features, [_NUMBER[w] for w in text.split() if w in _NUMBER]

  def eval_sets(self) -> dict[str, Any]:
    """None: the miniature's arms are measured, not asked."""
    return {}

  def evaluate(self, job: Any, params: Any, progress: Any) -> dict[str, Any]:
    """Retrieval of the test scenes and their captions, the plain way."""
    found = measure.retrieved(self, job.model, params)
    progress('scenes', len(found['records']))
    return {'scenes': found}

  def measure(self, job: Any, params: Any) -> dict[str, Any]:
    """What the miniature's report shows."""
    return measure.measure(self, self._config, job.model, params)


_KNOWN = {word: number for number, word in enumerate(nouns.KNOWLEDGE)}
_NUMBER = {word: number for number, word in enumerate(VOCABULARY)}


class _Scenes(Sequence):
  """(scene, features) of a part, with the name that messages want."""

  def __init__(self, name: str, part: world.Part):
    self.name, self._part = name, part

  def __len__(self) -> int:
    return len(self._part.scenes)

  def __getitem__(self, index: int) -> tuple[Any, np.ndarray]:
    return self._part.scenes[index], self._part.features[index]
