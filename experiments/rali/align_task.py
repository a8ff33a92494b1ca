"""Images with a teacher's descriptions; a tenth is held out, and probed.

Which rows are held out depends on the image's name alone, so that a description
more or less moves nothing. Retrieval says how well descriptions are told apart;
what stage 1 is for is quality, so the best checkpoint is chosen by how well a
linear reader of the image embeddings ranks the held-out opinions.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data import records
from data.sources import open_source
from experiments.contrastive import task
from vlm.metrics import correlation

FOLDS = 5
# Of the ridge, relative to the mean variance of an embedding's numbers.
PENALTY = 1.0


class Task(task.Task):
  """See experiments/contrastive/task.py.

  Args:
    config: with `data.held_out` too, the share of the rows to choose by.
  """

  def train_rows(self) -> tuple[list[Any], None]:
    """(sources, weights): the rows that are not held out."""
    return [self._part(held=False)], None

  def eval_sets(self) -> dict[str, Sequence[Mapping[str, Any]]]:
    """The rows held out, and those of `config.data.eval_path`."""
    return {'validation': self._part(held=True)} | super().eval_sets()

  def probe(
    self, rows: Sequence[Mapping[str, Any]], vectors: np.ndarray
  ) -> dict[str, float]:
    """Rank correlation of a ridge regression with opinions.

    Args:
      rows: with `gt_score_norm`.
      vectors: [N, E] embeddings of their images.

    Returns:
      {'ridge_srcc': mean over fifths, each predicted by the other four}.
    """
    opinions = np.array(
      [records.require(row, 'gt_score_norm', (int, float)) for row in rows],
      np.float64,
    )
    predicted = cross_fitted(vectors, opinions)
    # Within a fifth: levels differ between them as the others' means do.
    fifths = [slice(fold, None, FOLDS) for fold in range(min(FOLDS, len(rows)))]
    found = [_srcc(predicted[of], opinions[of]) for of in fifths]
    return {'ridge_srcc': float(np.mean(found))}

  def _part(self, held: bool) -> '_Part':
    data = self._config.data
    return _Part(open_source(data.path), data.held_out, held)


def _srcc(predicted: np.ndarray, opinions: np.ndarray) -> float:
  """Spearman's correlation; 0 where nothing is ranked."""
  return float(np.nan_to_num(correlation.srcc(predicted, opinions)))


class _Part:
  """The rows of a source that are held out, or the others."""

  def __init__(self, source: Any, share: float, held: bool):
    self.name, self._source = source.name, source
    self._places = [
      place for place in range(len(source))
      if (_draw(source, place) < share) == held
    ]  # fmt: skip

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, index: int) -> Mapping[str, Any]:
    return self._source[self._places[index]]

  def where(self, index: int) -> str:
    """Names the file, and the row's number there."""
    return f'{self.name}[{self._places[index]}]'


def _draw(source: Any, place: int) -> float:
  """A number in [0, 1) that the name of a row's image gives."""
  try:
    name = str(source[place].get('image'))
  except records.BadRecord:
    return 1.0  # Counted where training meets it.
  return zlib.crc32(name.encode()) / 2**32


def cross_fitted(vectors: np.ndarray, targets: np.ndarray) -> np.ndarray:
  """What a ridge regression on the other folds says of each: float64 [N].

  Args:
    vectors: [N, E]; row i is of fold i modulo `FOLDS`.
    targets: [N].
  """
  x, folds = np.asarray(vectors, np.float64), np.arange(len(vectors)) % FOLDS
  predicted = np.empty(len(x))
  for fold in range(FOLDS):
    seen, asked = folds != fold, folds == fold
    if not seen.any():
      predicted[asked] = 0.0
      continue
    mean, level = x[seen].mean(axis=0), targets[seen].mean()
    centred = x[seen] - mean
    # The dual form: rows are fewer than numbers of an embedding, or about so.
    gram = centred @ centred.T
    penalty = PENALTY * np.trace(gram) / len(mean) + 1e-12
    weights = np.linalg.solve(
      gram + penalty * np.eye(len(gram)), targets[seen] - level
    )
    predicted[asked] = (x[asked] - mean) @ (centred.T @ weights) + level
  return predicted
