"""Another model's best candidates in a new order (Eq. 15).

    zscore   ZS(base) + alpha ZS(other), among the k candidates of a query
    mack     base + alpha other, as the predecessor's release does
    softmax  the same of softmax(base) and softmax(other) over the candidates,
             its way with models whose scores are logits

Rows are queries: for the other direction, transpose both matrices.
"""

import numpy as np
from jaxtyping import Float

MODES = ('zscore', 'mack', 'softmax')


def rerank(
  base: Float[np.ndarray, 'N M'],
  other: Float[np.ndarray, 'N M'],
  *,
  k: int = 15,
  alpha: float = 0.15,
  mode: str = 'zscore',
) -> Float[np.ndarray, 'N M']:
  """Scores in whose order the k best of `base` stand anew.

  What is not among them keeps its order behind them, so it is found no better
  than before. Equal candidates stay equal. A candidate of which `other` says
  nothing (-inf) counts as the mean of the others.

  Args:
    base: scores of the model whose candidates these are; -inf is no match, and
      stays. Of equal ones at the end of the k, the first are taken.
    other: scores of the knowledge.
    k: candidates of a query; all where there are fewer.
    alpha: weight of `other`.
    mode: of MODES.

  Returns:
    float32, of which only the order within a row has a meaning.

  Raises:
    ValueError: for settings out of range, shapes that differ, or NaN.
  """
  _check(base, other, k, mode)
  base, other = (np.asarray(x, np.float64) for x in (base, other))
  chosen = np.argsort(-base, axis=1, kind='stable')[:, :k]
  pick = lambda x: np.take_along_axis(x, chosen, axis=1)
  new = fused(pick(base), pick(other), alpha=alpha, mode=mode)
  scores = -_places(base)
  np.put_along_axis(scores, chosen, 1 + _places(-new), axis=1)
  return np.where(np.isneginf(base), -np.inf, scores).astype(np.float32)


def fused(
  base: Float[np.ndarray, 'N k'],
  other: Float[np.ndarray, 'N k'],
  *,
  alpha: float,
  mode: str,
) -> Float[np.ndarray, 'N k']:
  """Scores of the candidates of N queries, in float64."""
  other = _filled(other)
  if mode == 'mack':
    return base + alpha * other
  scaled = z_score if mode == 'zscore' else _softmax
  return scaled(_filled(base)) + alpha * scaled(other)


def z_score(x: Float[np.ndarray, 'N k']) -> Float[np.ndarray, 'N k']:
  """(x - mean) / standard deviation of each row; 0 where all are equal."""
  x = np.asarray(x, np.float64)
  # Of equal numbers the mean may be off by a rounding, and so the deviation.
  x = x - x[:, :1]
  gap = x - x.mean(axis=1, keepdims=True)
  spread = np.sqrt(np.mean(gap * gap, axis=1, keepdims=True))
  return np.divide(gap, spread, out=np.zeros_like(gap), where=spread > 0)


def _softmax(x: np.ndarray) -> np.ndarray:
  worth = np.exp(x - x.max(axis=1, keepdims=True))
  return worth / worth.sum(axis=1, keepdims=True)


def _filled(x: np.ndarray) -> np.ndarray:
  """-inf becomes the mean of the rest of its row, or 0."""
  there = ~np.isneginf(x)
  count = np.maximum(there.sum(axis=1, keepdims=True), 1)
  mean = np.where(there, x, 0).sum(axis=1, keepdims=True) / count
  return np.where(there, x, mean)


def _places(x: np.ndarray) -> np.ndarray:
  """How many different numbers of its row are larger than each, float64."""
  order = np.argsort(-x, axis=1, kind='stable')
  sorted_ = np.take_along_axis(x, order, axis=1)
  steps = np.zeros(x.shape)
  steps[:, 1:] = np.cumsum(sorted_[:, 1:] != sorted_[:, :-1], axis=1)
  places = np.empty(x.shape)
  np.put_along_axis(places, order, steps, axis=1)
  return places


def _check(base, other, k, mode) -> None:
  if base.shape != other.shape:
    raise ValueError(f'scores of {base.shape} and {other.shape}')
  if k < 1:
    raise ValueError(f'rerank.k={k}, expected at least 1')
  if mode not in MODES:
    raise ValueError(f'rerank.mode={mode!r}, expected one of {MODES}')
  for name, x in (('base', base), ('other', other)):
    bad = np.argwhere(np.isnan(x) | np.isposinf(x))
    if len(bad):
      raise ValueError(
        f'the {name} score of query {bad[0][0]} and candidate {bad[0][1]} is '
        'NaN or infinite'
      )
