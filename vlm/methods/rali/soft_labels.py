"""DeQA-Score's soft labels (arXiv 2501.11561): an opinion as five levels.

A normal density with the opinion's mean and deviation is read at the levels,
then moved so that it sums to 1 and has the right mean. Where that fails, the
two nearest levels share the mass.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from vlm.methods.rali.levels import WEIGHTS

Number = float | int
DENSITIES = ('pdf', 'cdf')
LEAST_STD = 0.2  # of the normalised opinion; below, levels are too coarse
LARGEST_GAP = 0.1  # between the label's mean and the opinion
# SPAQ's deviations are small, KonIQ's and KADID's large.
PUBLISHED = {'koniq': 'pdf', 'kadid': 'pdf', 'spaq': 'cdf'}

_X = np.array(WEIGHTS, np.float64)


@dataclasses.dataclass(frozen=True)
class SoftLabel:
  """One opinion as levels, excellent first.

  Attributes:
    probs: float64 [5].
    density: float64 [5], before it was moved.
    linear: whether the two nearest levels share the mass.
  """

  probs: Float[np.ndarray, '5']
  density: Float[np.ndarray, '5']
  linear: bool


class Opinion(NamedTuple):
  """What a picture's row teaches.

  Attributes:
    label: of five levels, excellent first, sum 1.
    mean: of the opinions, in [1, 5].
    std: their deviation on that scale; 0 where it is not published.
    group: number of the set, within which opinions can be ordered.
  """

  label: Sequence[float]
  mean: float
  std: float
  group: int


def normalise(
  mos: Number, std: Number, low: Number, high: Number
) -> tuple[float, float]:
  """Opinion on [1, 5] and its deviation, by the range of the whole set.

  Raises:
    ValueError: an empty range, or an opinion outside of it.
  """
  if not low < high or not low <= mos <= high:
    raise ValueError(f'opinion {mos}, expected one in [{low}, {high}]')
  scale = 4 / (high - low)
  return 1 + scale * (mos - low), scale * std


def level_density(
  mean: Number, std: Number, density: str
) -> Float[np.ndarray, '5']:
  """N(x; mean, std) at x = 5, ..., 1, or its mass within 1/2 of them."""
  if density not in DENSITIES:
    raise ValueError(f'density={density!r}, expected one of {DENSITIES}')
  normal = stats.norm(mean, std)
  if density == 'pdf':
    return normal.pdf(_X)
  return normal.cdf(_X + 0.5) - normal.cdf(_X - 0.5)


def affine_fix(
  density: Float[np.ndarray, '5'], mean: Number
) -> Float[np.ndarray, '5']:
  """alpha p + beta, of sum 1 and mean `mean`; negatives become 0.

  A mean of exactly 3 makes alpha 0 and the label uniform, as published.
  """
  total = density.sum()
  alpha = (mean - 3) / (_X @ density - 3 * total + 1e-9)
  return np.maximum(alpha * density + (1 - alpha * total) / 5, 0)


def linear_label(mean: Number) -> Float[np.ndarray, '5']:
  """The two levels around the mean, by their nearness."""
  return np.maximum(1 - np.abs(_X - mean), 0)


def soft_label(mean: Number, std: Number, density: str) -> SoftLabel:
  """The label of a normalised opinion.

  Args:
    mean: in [1, 5].
    std: normalised; 0 is allowed.
    density: 'pdf' or 'cdf'; see `PUBLISHED`.

  Raises:
    ValueError: a mean outside of [1, 5], or a negative deviation.
  """
  if not 1 <= mean <= 5 or not std >= 0:
    raise ValueError(
      f'opinion {mean} +- {std}, expected a mean in [1, 5] and a deviation of '
      'at least 0; see normalise()'
    )
  if std == 0:
    return SoftLabel(linear_label(mean), np.zeros(5), True)
  raw = level_density(mean, std, density)
  probs = affine_fix(raw, mean)
  if std < LEAST_STD or abs(_X @ probs - mean) > LARGEST_GAP:
    return SoftLabel(linear_label(mean), raw, True)
  return SoftLabel(probs, raw, False)
