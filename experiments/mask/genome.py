"""Visual Genome's labelled boxes as rows of region features.

`config.data` names the published json files (path), features of their boxes
(features; data/sources/region_features.py), word vectors (vectors), and, to
leave COCO's test images out, Karpathy's dataset_coco.json (without).
"""

import functools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data import records
from data.collect import Collector
from data.sources import karpathy, region_features
from data.sources.visual_genome import (
  LabelledImage,
  VisualGenome,
  Vocabulary,
  choose_words,
  count_words,
)
from data.words.captions import STOP_WORDS
from data.words.vectors import WordVectors, load_vectors


class Share(NamedTuple):
  """Every `of`-th region of an image, from number `first`."""

  image: LabelledImage
  first: int
  of: int


class Task:
  """What launch/objectives/prototypes.py asks; see experiments/task.py.

  Args:
    config: see mask.py.
  """

  def __init__(self, config: Any):
    self._config = config

  @functools.cached_property
  def _genome(self) -> VisualGenome:
    data = self._config.data
    without = karpathy.coco_ids(data.without) if data.without else ()
    return VisualGenome(data.path, attributes=True, without=without)

  @functools.cached_property
  def _chosen(self) -> tuple[Vocabulary, WordVectors]:
    data = self._config.data
    counts = count_words(self._genome)
    counts = {w: n for w, n in counts.items() if w not in STOP_WORDS}
    vectors = load_vectors(data.vectors, wanted=counts)
    vocabulary = choose_words(
      counts, vectors.index, minimum=data.minimum, largest=data.largest
    )
    return vocabulary, vectors

  @functools.cached_property
  def _reader(self) -> Collector:
    source = region_features.open_features(self._config.data.features)
    return Collector(source, self._chosen[0])

  def words(self) -> tuple[tuple[str, ...], np.ndarray]:
    """Words of the knowledge, and their vectors float32 [K, N]."""
    vocabulary, vectors = self._chosen
    return vocabulary.words, vectors.rows(vocabulary.words)

  def counts(self) -> tuple[int, ...]:
    """Boxes of each word."""
    return self._chosen[0].counts

  def files(self) -> dict[str, str]:
    """The words that rows of a checkpoint's tables stand for."""
    return {'words.json': json.dumps(self._chosen[0].words)}

  def train_rows(self) -> tuple[list[Any], None]:
    """(sources, weights): every image, in shares of few enough regions."""
    return [Shares(list(self._genome), self._config.data.regions)], None

  def regions(self, row: Share) -> tuple[np.ndarray, list[list[int]]]:
    """Features of a share's regions, and the numbers of each one's words.

    Raises:
      BadRecord: an image whose features are missing or cannot be used.
    """
    found = self._reader.read(row.image)
    if isinstance(found, str):
      where = f'image {row.image.image_id}'
      raise records.BadRecord('bad regions', f'{where}: {found}')
    words = [set() for _ in found.features]
    for region, word in found.pairs:
      if region >= 0:
        words[region].add(int(word))
    part = slice(row.first, None, row.of)
    return found.features[part], [sorted(one) for one in words[part]]


class Shares(Sequence):
  """Images in shares of at most `regions` of their boxes.

  Args:
    images: with their boxes.
    regions: of a share; features of other boxes may have more, which are bad
      rows.
  """

  name = 'Visual Genome'

  def __init__(self, images: Sequence[LabelledImage], regions: int):
    self._images = images
    self._rows = [
      (number, first, of)
      for number, image in enumerate(images)
      for of in [-(-len(image.boxes) // regions)]
      for first in range(of)
    ]

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Share:
    number, first, of = self._rows[index]
    return Share(self._images[number], first, of)

  def where(self, index: int) -> str:
    """Names the image."""
    number, first, of = self._rows[index]
    return f'image {self._images[number].image_id}, share {first + 1} of {of}'
