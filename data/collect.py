"""Prototypes of Visual Genome's words from features of its images' regions.

Boxes find their regions by overlap: features of the published boxes themselves
overlap wholly, those of a detector where it agrees. A pass is streamed, and its
state is small: data/collect_parts.py keeps it, and puts those of several
processes together.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from data.chunks import chunks
from data.knowledge import Knowledge
from data.records import BadRecord
from data.region_encoder import Encoding
from data.sources import region_features
from data.sources.region_features import FeatureSource
from data.sources.visual_genome import LabelledImage, Vocabulary
from data.words.vectors import WordVectors
from vlm.methods.mask.prototypes import Moments

OVERLAP = 0.5  # intersection over union of a box and its region
READERS = 8
NAMED = 3  # images skipped for a reason that are named


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
  """Intersection over union [I, R] of boxes [I, 4] and others [R, 4]."""
  low = np.maximum(boxes[:, None, :2], others[None, :, :2])
  high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
  both = np.clip(high - low, 0, None).prod(-1)
  area = lambda x: (x[:, 2:] - x[:, :2]).prod(-1)
  total = area(boxes)[:, None] + area(others) - both
  return np.divide(both, total, out=np.zeros_like(both), where=total > 0)


@dataclasses.dataclass(frozen=True)
class Found:
  """An image's regions and what they show.

  Attributes:
    features: float32 [R, M], none of them zero.
    pairs: int [Q, 2], region and number of its word.
  """

  features: np.ndarray
  pairs: np.ndarray


class Collector:
  """Reads images, and keeps moments of their words' regions.

  Attributes:
    moments: so far; None before the first region.
    images: taken up so far, those skipped too.
    skipped: what was left out, counted by reason.
    named: the first images of each reason.

  Args:
    source: features by Visual Genome's image id.
    vocabulary: the words.
    encoding: to codes; None keeps the features themselves (MACK).
    overlap: least overlap of a box and its region.
    batch_size: images at a time.
  """

  def __init__(
    self,
    source: FeatureSource,
    vocabulary: Vocabulary,
    *,
    encoding: Encoding | None = None,
    overlap: float = OVERLAP,
    batch_size: int = 32,
  ):
    self._source, self._encoding = source, encoding
    self._places = _places(source)
    self._words = {word: i for i, word in enumerate(vocabulary.words)}
    self._of, self._overlap = vocabulary.of, overlap
    self._batch_size = batch_size
    self.moments: Moments | None = None
    self.images, self.skipped = 0, Counter()
    self.named: dict[str, list[str]] = {}

  def run(
    self,
    images: Iterable[LabelledImage],
    *,
    progress: Callable[[int], None] = lambda count: None,
    save: Callable[[], None] = lambda: None,
  ) -> None:
    """Reads all images but those taken up before.

    Args:
      images: the same in every run.
      progress: called with how many more are done.
      save: called between batches.
    """
    left = itertools.islice(iter(images), self.images, None)
    with ThreadPoolExecutor(READERS) as pool:
      for batch in chunks(left, self._batch_size):
        self._add(list(pool.map(self.read, batch)), batch)
        self.images += len(batch)
        progress(len(batch))
        save()

  def found(self) -> Moments:
    """What was read.

    Raises:
      ValueError: when no region shows any of the words.
    """
    if self.moments is None or not self.moments.counts.any():
      raise ValueError(
        f'no region of {self._source.name} shows a word of {self.images} '
        f'images; skipped {dict(self.skipped)}, first {self.named}'
      )
    return self.moments

  def read(self, image: LabelledImage) -> Found | str:
    """An image's regions and pairs (-1 where a box has none), or why not."""
    place = self._places.get(image.image_id)
    if place is None:
      return 'image without features'
    try:
      regions = self._source[place]
    except BadRecord as bad:
      return bad.reason
    except ValueError as error:
      return f'features that cannot be read ({type(error).__name__})'
    if not np.isfinite(regions.features).all():
      return 'features that are NaN or infinite'
    there = regions.features.any(axis=1)
    if not there.any():
      return 'image without a region that is not zero'
    pairs = self._pairs(image, regions.boxes[there])
    return Found(regions.features[there], pairs)

  def _pairs(self, image: LabelledImage, boxes: np.ndarray) -> np.ndarray:
    overlap = overlaps(image.boxes, boxes)
    best = overlap.argmax(axis=1)
    pairs = []
    for region, share, words in zip(best, overlap.max(axis=1), image.words):
      if share < self._overlap:
        pairs.append((-1, -1))
        continue
      named = {self._words.get(self._of.get(word)) for word in words} - {None}
      pairs += [(region, number) for number in sorted(named)]
    return np.array(pairs, np.int64).reshape(-1, 2)

  def _add(self, found: Sequence[Found | str], batch) -> None:
    rows, pairs = [], []
    for image, one in zip(batch, found):
      if isinstance(one, str):
        self._skip(one, image.image_id)
        continue
      missed = one.pairs[:, 0] < 0
      self.skipped['box that no region overlaps'] += int(missed.sum())
      rows.append(one.features)
      pairs.append(one.pairs[~missed])
    if not rows:
      return
    codes = self._codes(rows)
    starts = np.cumsum([0, *map(len, rows[:-1])])
    # Two boxes of one object may be the same region, which counts once.
    pairs = [np.unique(its, axis=0) for its in pairs]
    regions = np.concatenate([p[:, 0] + s for p, s in zip(pairs, starts)])
    if self.moments is None:
      self.moments = Moments(len(self._words), codes.shape[1])
    self.moments.add(codes, regions, np.concatenate(pairs)[:, 1])

  def _codes(self, rows: list[np.ndarray]) -> np.ndarray:
    """Codes of the regions of all images, one after another."""
    widths = {row.shape[1] for row in rows}
    if len(widths) > 1:
      raise ValueError(
        f'{self._source.name} has features of {sorted(widths)} numbers'
      )
    if self._encoding is None:
      return np.concatenate(rows)
    batch = region_features.padded(rows)
    return self._encoding(batch.features, batch.valid)[batch.valid]

  def _skip(self, reason: str, image: int) -> None:
    self.skipped[reason] += 1
    named = self.named.setdefault(reason, [])
    if len(named) < NAMED:
      named.append(str(image))

  def state(self) -> dict[str, Any]:
    """All that another collector needs to go on."""
    facts = dict(
      images=self.images, skipped=dict(self.skipped), named=self.named
    )
    moments = self.moments
    arrays = {} if moments is None else {
      'counts': moments.counts,
      'means': moments.means,
      'squares': moments.squares,
    }  # fmt: skip
    return {'facts': facts, 'arrays': arrays}

  def restore(self, state: dict[str, Any]) -> None:
    """The inverse of `state`."""
    facts, arrays = state['facts'], state['arrays']
    self.images, self.named = facts['images'], facts['named']
    self.skipped = Counter(facts['skipped'])
    self.moments = _moments(arrays)

  def merge(self, state: dict[str, Any]) -> None:
    """Adds what another collector has read, of other images.

    Raises:
      ValueError: for codes of another width.
    """
    facts, moments = state['facts'], _moments(state['arrays'])
    self.images += facts['images']
    self.skipped.update(facts['skipped'])
    for reason, images in facts['named'].items():
      named = self.named.setdefault(reason, [])
      named += images[: NAMED - len(named)]
    if self.moments is None:
      self.moments = moments
    elif moments is not None:
      self.moments.merge(moments)


def _moments(arrays: dict[str, np.ndarray]) -> Moments | None:
  if not arrays:
    return None
  found = Moments(*arrays['means'].shape)
  for name, value in arrays.items():
    getattr(found, name)[...] = value
  return found


def _places(source: FeatureSource) -> dict[int, int]:
  if source.keys is None:
    raise ValueError(
      f'{source.name}: features of Visual Genome need the id of each image; '
      'expected a .tsv file or a folder of npz files'
    )
  return {
    int(key): place for place, key in enumerate(source.keys) if key.isdigit()
  }


def knowledge_of(
  moments: Moments,
  vocabulary: Vocabulary,
  vectors: WordVectors,
  meta: dict[str, Any],
) -> Knowledge:
  """The words that have a region, with their prototypes.

  `meta` is completed by the number of words that no region shows.
  """
  there = np.flatnonzero(moments.counts)
  words = [vocabulary.words[number] for number in there]
  without = len(vocabulary.words) - len(words)
  return Knowledge(
    tuple(words),
    vectors.rows(words),
    moments.prototypes()[there],
    moments.counts[there],
    moments.variance()[there],
    vectors.digest,
    meta | {'words_without_a_region': without},
  )
