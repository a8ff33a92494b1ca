"""Retrieval of texts by images and of images by texts, in both directions.

Every text has one image, an image may have several texts. Ranks are
pessimistic: among equal scores what was looked for comes last, so that a model
that says the same of everything finds nothing. Scores are asked for in blocks
of images, twice; a whole matrix (5,000 x 25,000) never exists.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# (image numbers [R], text numbers [C]) -> scores [R, C]; -inf is no match.
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]

RECALLS = (1, 5, 10)
# protocol -> folds, and images of a fold; None is all there are.
PROTOCOLS = {
  'all': (1, None),
  '1k': (1, 1000),
  '5fold_1k': (5, 1000),
  '5k': (1, 5000),
}


class Ranks(NamedTuple):
  """Where what was looked for stands, from 0.

  Attributes:
    texts: int [N], of the best of an image's texts among all that are not its
      own; the number of all texts, M, where its own all score -inf.
    images: int [M], of a text's image among all others; N where it scores -inf.
    precision: float64 [N], average precision of an image's texts.
  """

  texts: np.ndarray
  images: np.ndarray
  precision: np.ndarray


def cosine(
  images: Float[np.ndarray, 'N D'], texts: Float[np.ndarray, 'M D']
) -> Score:
  """Scores by the cosine of embeddings of any length.

  Raises:
    ValueError: naming the first embedding that is not finite or zero.
  """
  images, texts = _unit('image', images), _unit('text', texts)
  # Rounding hides that equal columns of a product may differ in the last bit.
  return lambda rows, columns: (images[rows] @ texts[columns].T).astype(
    np.float32
  )


def ranks(
  score: Score,
  owners: Int[np.ndarray, 'M'],
  *,
  start: int = 0,
  stop: int | None = None,
  block: int = 256,
) -> Ranks:
  """Ranks among the images `start` to `stop` and their texts.

  Args:
    score: of images and texts; equal when asked again.
    owners: number of each text's image.
    start, stop: images that take part; all by default.
    block: images whose scores are held at once.

  Raises:
    ValueError: for an image without a text, or a score that is NaN, naming it.
  """
  stop = int(owners.max()) + 1 if stop is None else stop
  texts = np.flatnonzero((owners >= start) & (owners < stop))
  own = owners[texts] - start
  bare = np.flatnonzero(np.bincount(own, minlength=stop - start) == 0)
  if len(bare):
    raise ValueError(
      f'image {start + bare[0]} has no text ({len(bare)} have none); leave '
      'such images out'
    )
  blocks = lambda: _blocks(score, start, stop, texts, block)
  wanted = np.empty(len(texts))
  found, precision = [], []
  for first, scores in blocks():
    mine = own == first + np.arange(len(scores))[:, None]  # [R, M]
    wanted[mine.any(0)] = scores.T[mine.T]
    for row, its in zip(scores, mine):
      rank, average = _texts_of(row[its], row[~its], len(texts))
      found.append(rank)
      precision.append(average)
  # The text's own image is as good as itself, and is not counted.
  ahead = sum(np.sum(scores >= wanted, axis=0) for _, scores in blocks()) - 1
  ahead = np.where(np.isneginf(wanted), stop - start, ahead)
  return Ranks(np.array(found), ahead, np.array(precision))


def _texts_of(
  own: np.ndarray, others: np.ndarray, missed: int
) -> tuple[int, float]:
  """(rank, average precision) of an image's texts, ties against them."""
  own = np.sort(own)[::-1]
  ahead = np.array([np.count_nonzero(others >= one) for one in own])
  nth = np.arange(1, len(own) + 1)
  precision = np.where(np.isneginf(own), 0, nth / (nth + ahead))
  rank = missed if np.isneginf(own[0]) else ahead[0]
  return int(rank), float(precision.mean())


def _blocks(
  score: Score, start: int, stop: int, texts: np.ndarray, block: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (number of the first image from `start`, its block of scores)."""
  for first in range(start, stop, block):
    rows = np.arange(first, min(first + block, stop))
    scores = np.asarray(score(rows, texts))
    if np.isnan(scores).any():
      row, column = np.argwhere(np.isnan(scores))[0]
      raise ValueError(
        f'the score of image {rows[row]} and text {texts[column]} is NaN'
      )
    yield first - start, scores


def summary(found: Ranks) -> dict[str, float]:
  """The usual figures of ranks.

  Returns:
    For texts found by images (i2t) and images found by texts (t2i): recall at
    1, 5 and 10 in percent, median and mean rank from 1, mean average precision
    (t2i has one image to find: the mean reciprocal rank); and rsum, the sum of
    the six recalls, at most 600.
  """
  counts = len(found.images), len(found.texts)  # the ranks of what is missed
  sides = zip(('i2t', 't2i'), (found.texts, found.images), counts)
  figures = {}
  for side, rank, missed in sides:
    for k in RECALLS:
      hit = rank < min(k, missed)
      figures[f'{side}_r{k}'] = 100 * float(np.mean(hit))
    figures[f'{side}_median_rank'] = float(np.median(rank + 1))
    figures[f'{side}_mean_rank'] = float(np.mean(rank + 1))
  figures['i2t_map'] = 100 * float(np.mean(found.precision))
  figures['t2i_map'] = 100 * float(np.mean(_reciprocal(found)))
  figures['rsum'] = sum(
    figures[f'{side}_r{k}'] for side in ('i2t', 't2i') for k in RECALLS
  )
  return figures


def _reciprocal(found: Ranks) -> np.ndarray:
  missed = found.images == len(found.texts)
  return np.where(missed, 0, 1 / (found.images + 1))


def folds_of(protocol: str) -> tuple[int, int | None]:
  """(folds, images of a fold, or None for all) of a protocol.

  Raises:
    ValueError: for an unknown name.
  """
  if protocol not in PROTOCOLS:
    raise ValueError(
      f'--config.contrastive.protocol={protocol!r}, expected one of '
      f'{list(PROTOCOLS)}'
    )
  return PROTOCOLS[protocol]


def retrieval(
  score: Score,
  owners: Int[np.ndarray, 'M'],
  *,
  protocol: str = 'all',
  block: int = 256,
) -> dict[str, float]:
  """Figures of `summary` under a protocol.

  Args:
    score: see `ranks`.
    owners: number of each text's image, from 0.
    protocol: 'all' images; the first thousand ('1k') or five thousand ('5k');
      or the mean over the first five thousands, each on its own ('5fold_1k').
    block: see `ranks`.

  Raises:
    ValueError: for fewer images than the protocol needs.
  """
  images = int(owners.max()) + 1 if len(owners) else 0
  folds, size = folds_of(protocol)
  size = size or images
  if not images or images < folds * size:
    raise ValueError(
      f'protocol {protocol!r} needs {folds * size or "some"} images, there are '
      f'{images}'
    )
  parts = [
    summary(ranks(score, owners, start=i, stop=i + size, block=block))
    for i in range(0, folds * size, size)
  ]
  return {
    name: float(np.mean([part[name] for part in parts])) for name in parts[0]
  }


def _unit(what: str, vectors: np.ndarray) -> np.ndarray:
  vectors = np.asarray(vectors, np.float64)
  norms = np.linalg.norm(vectors, axis=1, keepdims=True)
  bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
  if len(bad):
    raise ValueError(
      f'the embedding of {what} {bad[0]} is zero or not finite ({len(bad)} of '
      f'{len(vectors)} are)'
    )
  return vectors / norms
