"""Retrieval in both directions by protocol: ranks, intervals, words, best ten.

Each direction has scores of its own ('matched' pooling, re-ranking). Figures
are means over the folds of a protocol; a fold's images and captions only meet
each other.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data.sources import karpathy
from data.words.captions import OOD, STATUSES, CaptionWords
from vlm.methods.mask.matcher import matched_ranks
from vlm.methods.mask.rerank import rerank
from vlm.metrics import bootstrap, retrieval
from vlm.metrics.retrieval import RECALLS, Score

TOP = 10
QUERIES = 512  # re-ranked at once
BLOCK = 256  # images whose scores are held at once
SHOWN_WORDS = 50  # most frequent words without a prototype that are kept


class Task(NamedTuple):
  """What is matched with what.

  Attributes:
    data: images and captions.
    codes: float32 [n, I, Z] of the images' regions.
    valid: bool [n, I].
    words: of the captions.
    table: float32 [W, Z], what each word or phrase looks like.
    ids: int32 [m, J], rows of it.
    left_out: regions and images without a feature, counted.
  """

  data: karpathy.Captioned
  codes: np.ndarray
  valid: np.ndarray
  words: CaptionWords
  table: np.ndarray
  ids: np.ndarray
  left_out: dict[str, int]


class Arm(NamedTuple):
  """One way to score, in either direction.

  Attributes:
    texts: scores that rank captions for an image (i2t).
    images: scores that rank images for a caption (t2i).
  """

  texts: Score
  images: Score


class Fold(NamedTuple):
  """Ranks within one part of a protocol.

  Attributes:
    start, stop: images that take part.
    captions: int [M], theirs.
    ranks: of both directions.
  """

  start: int
  stop: int
  captions: np.ndarray
  ranks: retrieval.Ranks


def spans(owners: np.ndarray, protocol: str) -> list[tuple[int, int]]:
  """First image and the one behind the last of each fold.

  Raises:
    ValueError: for fewer images than the protocol needs.
  """
  images = int(owners.max(initial=-1)) + 1
  folds, size = retrieval.folds_of(protocol)
  size = size or images
  if not images or images < folds * size:
    raise ValueError(
      f'--protocol={protocol} needs {folds * size or "some"} images, --data '
      f'has {images}'
    )
  return [(i, i + size) for i in range(0, folds * size, size)]


def rank(arm: Arm, owners: np.ndarray, protocol: str) -> list[Fold]:
  """Pessimistic ranks of every fold; see `retrieval.ranks`."""
  folds = []
  for start, stop in spans(owners, protocol):
    part = dict(start=start, stop=stop, block=BLOCK)
    if arm.texts is arm.images:
      ranks = retrieval.ranks(arm.texts, owners, **part)
    else:
      ranks = matched_ranks(arm.images, arm.texts, owners, **part)
    folds.append(Fold(start, stop, _captions(owners, start, stop), ranks))
  return folds


def _captions(owners: np.ndarray, start: int, stop: int) -> np.ndarray:
  return np.flatnonzero((owners >= start) & (owners < stop))


def figures(
  folds: Sequence[Fold], owners: np.ndarray, draws: int = 2000
) -> dict[str, Any]:
  """`retrieval.summary` over the folds, and 95 % intervals over images.

  Returns:
    The figures and, under 'intervals', (mean, low, high) in percent of the six
    recalls and of rsum.
  """
  each = [retrieval.summary(fold.ranks) for fold in folds]
  found = {
    name: float(np.mean([one[name] for one in each])) for name in each[0]
  }
  hits = _hits(folds, owners)
  intervals = {}
  total = np.zeros(len(hits['images']))
  weight = len(hits['images']) / len(hits['owners'])
  for k in RECALLS:
    i2t, t2i = hits['i2t', k], hits['t2i', k]
    intervals[f'i2t_r{k}'] = bootstrap.interval(
      i2t, hits['images'], draws=draws
    )
    intervals[f't2i_r{k}'] = bootstrap.interval(
      t2i, hits['owners'], draws=draws
    )
    total += i2t + weight * np.bincount(hits['places'], t2i, len(total))
  intervals['rsum'] = bootstrap.interval(total, hits['images'], draws=draws)
  found['intervals'] = {name: list(one) for name, one in intervals.items()}
  return found


def _hits(folds: Sequence[Fold], owners: np.ndarray) -> dict[Any, np.ndarray]:
  """Percent found among the first k of every query of all folds.

  'images' and 'owners' are the images of the i2t and t2i queries, 'places' the
  owners' places among the images.
  """
  found: dict[Any, list[np.ndarray]] = {
    'images': [],
    'owners': [],
    'places': [],
  }
  done = 0
  for fold in folds:
    images, captions = len(fold.ranks.texts), len(fold.ranks.images)
    its = owners[fold.captions]
    found['images'].append(np.arange(fold.start, fold.stop))
    found['owners'].append(its)
    found['places'].append(its - fold.start + done)
    for k in RECALLS:
      i2t = fold.ranks.texts < min(k, captions)
      t2i = fold.ranks.images < min(k, images)
      found.setdefault(('i2t', k), []).append(100.0 * i2t)
      found.setdefault(('t2i', k), []).append(100.0 * t2i)
    done += images
  return {name: np.concatenate(parts) for name, parts in found.items()}


def with_ood(
  folds: Sequence[Fold], owners: np.ndarray, words: CaptionWords
) -> dict[str, Any]:
  """Image retrieval by the captions with an OOD word, and by all others.

  The gallery is the same, so that the two can be compared query by query.

  Returns:
    {'with', 'without'}: number of captions and, where there are any, recalls in
    percent as (mean, low, high).
  """
  column = STATUSES.index(OOD)
  captions = np.concatenate([fold.captions for fold in folds])
  has = words.by_caption[captions, column] > 0
  hits = _hits(folds, owners)
  found = {}
  for name, chosen in (('with', has), ('without', ~has)):
    found[name] = {'captions': int(chosen.sum())}
    for k in RECALLS if chosen.any() else ():
      values, images = hits['t2i', k][chosen], hits['owners'][chosen]
      found[name][f't2i_r{k}'] = list(bootstrap.interval(values, images))
  return found


def word_counts(
  words: CaptionWords, captions: np.ndarray, dropped: bool
) -> dict[str, Any]:
  """How many of the words that are asked for have what.

  Args:
    words: of all captions.
    captions: numbers of those that take part.
    dropped: OOD words are not matched.

  Returns:
    Occurrences and shares by status, shares of captions with an OOD word and
    without any word that is matched, and words without a prototype by number
    of occurrences.
  """
  counts = words.by_caption[captions]  # [C, 3]
  total = counts.sum(axis=0)
  known, ood, _ = counts.T
  matched = known if dropped else known + ood
  share = total / max(int(total.sum()), 1)
  numbers = np.arange(len(words.words))
  ids = words.ids[captions]
  said = np.bincount(ids[ids >= 0], minlength=len(numbers))
  without = [i for i in numbers[np.argsort(-said, kind='stable')]
             if words.status[i] == OOD and said[i]]  # fmt: skip
  return {
    'words': dict(zip(STATUSES, total.tolist())),
    'share': dict(zip(STATUSES, share.tolist())),
    'captions_with_ood_share': float(np.mean(ood > 0)),
    'captions_without_a_word_share': float(np.mean(matched == 0)),
    'ood_types': len(without),
    'types': int(np.count_nonzero(said)),
    'ood_words': {words.words[i]: int(said[i]) for i in without[:SHOWN_WORDS]},
    'unknown_words': dict([*words.unknown.items()][:SHOWN_WORDS]),
  }


def reranked(
  base: Score, arm: Arm, owners: np.ndarray, protocol: str, **settings: Any
) -> Arm:
  """Another model's best candidates of each query in a new order.

  Args:
    base: the other model's scores.
    arm: those of the knowledge.
    owners, protocol: as ranked later: candidates are those of a fold.
    settings: of `rerank`.
  """
  images = int(owners.max()) + 1
  texts = np.zeros((images, len(owners)), np.float32)
  columns = np.zeros_like(texts)
  for start, stop in spans(owners, protocol):
    rows, its = np.arange(start, stop), _captions(owners, start, stop)
    for part in _parts(rows):
      found = rerank(base(part, its), arm.texts(part, its), **settings)
      texts[np.ix_(part, its)] = found
    for part in _parts(its):
      found = rerank(base(rows, part).T, arm.images(rows, part).T, **settings)
      columns[np.ix_(rows, part)] = found.T
  return Arm(matrix(texts), matrix(columns))


def matrix(scores: np.ndarray) -> Score:
  """Scores that are all there, [N, M]."""
  return lambda rows, columns: np.asarray(scores[rows][:, columns], np.float32)


def _parts(numbers: np.ndarray) -> Iterator[np.ndarray]:
  for first in range(0, len(numbers), QUERIES):
    yield numbers[first : first + QUERIES]


class Best(NamedTuple):
  """The best candidates of queries, best first, ties to the lower number.

  Attributes:
    numbers: int [Q, k].
    scores: float32 [Q, k].
  """

  numbers: np.ndarray
  scores: np.ndarray


def best(arm: Arm, fold: Fold) -> tuple[Best, Best]:
  """The best captions of each image, and images of each caption, of a fold."""
  rows = np.arange(fold.start, fold.stop)
  texts, images = [], Best(np.zeros((len(fold.captions), 0), int), np.zeros(0))
  for first in range(0, len(rows), BLOCK):
    part = rows[first : first + BLOCK]
    texts.append(_best(arm.texts(part, fold.captions), fold.captions))
    found = _best(arm.images(part, fold.captions).T, part)
    images = found if first == 0 else _merged(images, found)
  return Best(*(np.concatenate(x) for x in zip(*texts))), images


def _best(scores: np.ndarray, numbers: np.ndarray) -> Best:
  order = np.argsort(-scores, axis=1, kind='stable')[:, :TOP]
  return Best(numbers[order], np.take_along_axis(scores, order, axis=1))


def _merged(first: Best, second: Best) -> Best:
  numbers, scores = (np.concatenate(x, axis=1) for x in zip(first, second))
  order = np.argsort(-scores, axis=1, kind='stable')[:, :TOP]
  take = lambda x: np.take_along_axis(x, order, axis=1)
  return Best(take(numbers), take(scores))
