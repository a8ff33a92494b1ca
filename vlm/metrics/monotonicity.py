"""Whether scores fall as a degradation grows."""

from collections.abc import Sequence

import numpy as np


def falling_rate(scores, levels, series: Sequence[str]) -> dict[str, float]:
  """Share of pairs of one series that are ranked by their severity.

  Args:
    scores: [N] higher is better.
    levels: [N] severity.
    series: [N] what only differs by its level: a photograph and a degradation.

  Returns:
    `pairs`, share of pairs of different levels of which the less severe scores
    higher, ties counting half; `steps`, the same of neighbouring levels;
    `series`, share of series that fall at every step; and `count` of series.

  Raises:
    ValueError: lists of different lengths, a score that is not finite, or no
      series with two levels.
  """
  scores = np.asarray(scores, np.float64)
  levels, names = np.asarray(levels), np.asarray(list(series))
  if not len(scores) == len(levels) == len(names):
    raise ValueError(
      f'{len(scores)} scores, {len(levels)} levels, {len(names)} series; '
      'expected as many of each'
    )
  if not np.isfinite(scores).all():
    raise ValueError(
      f'score {int(np.argmin(np.isfinite(scores)))} is no number'
    )
  pairs, steps, whole = [], [], []
  for name in dict.fromkeys(series):
    inside = np.flatnonzero(names == name)
    order = inside[np.argsort(levels[inside], kind='stable')]
    level, score = levels[order], scores[order]
    i, j = np.triu_indices(len(order), 1)
    keep = level[i] < level[j]
    i, j = i[keep], j[keep]
    if not len(i):
      continue
    credit = 0.5 + 0.5 * np.sign(score[i] - score[j])
    rank = np.unique(level, return_inverse=True)[1]
    near = rank[j] - rank[i] == 1
    pairs += credit.tolist()
    steps += credit[near].tolist()
    whole.append(float((credit[near] == 1).all()))
  if not whole:
    raise ValueError('no series has two levels; levels are severities')
  mean = lambda values: float(np.mean(values))
  return {
    'pairs': mean(pairs),
    'steps': mean(steps),
    'series': mean(whole),
    'count': len(whole),
  }
