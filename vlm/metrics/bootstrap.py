"""Percentile bootstrap over images (clusters), and paired differences.

Queries of one image are not independent, so images are drawn with replacement
and every query of a drawn image comes along.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
  """A mean and its percentile interval."""

  mean: float
  low: float
  high: float


def _cluster_sums(values, clusters):
  values = np.asarray(values, np.float64)
  clusters = np.asarray(clusters)
  if values.ndim != 1 or values.shape != clusters.shape or not values.size:
    raise ValueError(
      'values and clusters must be two equal, non-empty lists, got shapes '
      f'{values.shape} and {clusters.shape}'
    )
  _, group = np.unique(clusters, return_inverse=True)
  return np.bincount(group, values), np.bincount(group)


def interval(
  values,
  clusters,
  confidence: float = 0.95,
  draws: int = 2000,
  seed: int = 0,
) -> Interval:
  """Interval of the mean over queries when images are resampled.

  Args:
    values: [N] one number per query, such as 1.0 for correct; no NaN.
    clusters: [N] the image of each query.
    confidence: mass of the interval.
    draws: bootstrap samples.
    seed: of the resampling.
  """
  sums, counts = _cluster_sums(values, clusters)
  rng = np.random.default_rng(seed)
  means = np.empty(draws)
  for draw in range(draws):
    chosen = rng.integers(len(sums), size=len(sums))
    means[draw] = sums[chosen].sum() / counts[chosen].sum()
  tail = (1 - confidence) / 2
  low, high = np.quantile(means, [tail, 1 - tail])
  return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def macro_interval(
  values,
  clusters,
  groups,
  confidence: float = 0.95,
  draws: int = 2000,
  seed: int = 0,
) -> Interval:
  """Interval of the plain mean of the groups' means.

  Args:
    values: [N] one number per query; no NaN.
    clusters: [N] the image or video of each query; resampled in each group.
    groups: [N] the group of each query, such as its task.
    confidence: mass of the interval.
    draws: bootstrap samples.
    seed: of the resampling.
  """
  values, clusters = np.asarray(values, np.float64), np.asarray(clusters)
  groups, rng = np.asarray(groups), np.random.default_rng(seed)
  means, drawn = [], []
  for group in np.unique(groups):
    inside = groups == group
    sums, counts = _cluster_sums(values[inside], clusters[inside])
    means.append(sums.sum() / counts.sum())
    chosen = rng.integers(len(sums), size=(draws, len(sums)))
    drawn.append(sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1))
  tail = (1 - confidence) / 2
  low, high = np.quantile(np.mean(drawn, axis=0), [tail, 1 - tail])
  return Interval(float(np.mean(means)), float(low), float(high))


def paired_difference(
  first,
  second,
  clusters,
  confidence: float = 0.95,
  draws: int = 2000,
  seed: int = 0,
) -> Interval:
  """Interval of mean(first) - mean(second) on the very same queries."""
  first, second = np.asarray(first, float), np.asarray(second, float)
  if first.shape != second.shape:
    raise ValueError(
      'paired values must belong to the same queries, got shapes '
      f'{first.shape} and {second.shape}'
    )
  return interval(first - second, clusters, confidence, draws, seed)


def statistic_interval(
  statistic: Callable[..., float],
  columns: Sequence[np.ndarray],
  clusters,
  confidence: float = 0.95,
  draws: int = 2000,
  seed: int = 0,
) -> Interval:
  """Interval of any statistic, such as a correlation.

  Args:
    statistic: of the columns, each [N]; NaN where it is not defined.
    columns: numbers per query, equally long.
    clusters: [N] the image of each query.
    confidence: mass of the interval.
    draws: bootstrap samples; those whose statistic is NaN do not count.
    seed: of the resampling.

  Returns:
    The statistic of all queries and its interval; NaN where no draw has one.
  """
  columns = [np.asarray(column, np.float64) for column in columns]
  _, group = np.unique(np.asarray(clusters), return_inverse=True)
  order = np.argsort(group, kind='stable')
  members = np.split(order, np.cumsum(np.bincount(group))[:-1])
  rng = np.random.default_rng(seed)
  found = np.empty(draws)
  for draw in range(draws):
    chosen = rng.integers(len(members), size=len(members))
    rows = np.concatenate([members[number] for number in chosen])
    found[draw] = statistic(*(column[rows] for column in columns))
  found = found[np.isfinite(found)]
  tail = (1 - confidence) / 2
  low, high = (
    np.quantile(found, [tail, 1 - tail]) if found.size else (np.nan, np.nan)
  )
  return Interval(float(statistic(*columns)), float(low), float(high))
