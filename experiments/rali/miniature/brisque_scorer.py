"""Real photographs judged by BRISQUE, with the model of the package `brisque`.

Natural scene statistics and a support vector regression on opinions (Mittal et
al. 2012). The package is an extra, `pip install vlm-jax[brisque]`; without it a
report says so and shows no row. It sees whole photographs, where a model of the
miniature sees crops.
"""

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from data.sources.photographs import SeverityRows
from experiments.rali.miniature.measure import falling_rates

NAME = 'BRISQUE'
MISSING = (
  f'{NAME} is not among the scorers of real photographs: its package is not '
  'installed (pip install "vlm-jax[brisque]").'
)


def installed() -> bool:
  """Whether the package is there, with the OpenCV that it needs."""
  return all(importlib.util.find_spec(name) for name in ('brisque', 'cv2'))


@functools.lru_cache(1)
def load() -> Any:
  """The scorer of the package.

  Raises:
    ImportError: the package is not installed.
  """
  from brisque import BRISQUE  # An extra: only a report with it needs it.

  class Scalars(BRISQUE):
    """Some features come as arrays of one number, which NumPy 2.4 refuses."""

    def scale_features(self, features):
      return super().scale_features([np.ravel(x)[0] for x in features])

  return Scalars(url=False)


def scores(images: Sequence[np.ndarray]) -> np.ndarray:
  """Scores of uint8 images [H, W, 3], float64 [N]; higher is better.

  BRISQUE counts distortion, so the sign is turned round.
  """
  scorer = load()
  return np.array([-float(scorer.score(image)) for image in images])


def photograph_rates(rows: Sequence[Any] | None = None) -> dict[str, Any]:
  """Falling rates of the photographs, as of `measure.photograph_rates`.

  Args:
    rows: of `SeverityRows`; all of them if left out, twenty seconds.
  """
  rows = SeverityRows() if rows is None else rows
  rows = [rows[number] for number in range(len(rows))]
  return falling_rates(rows, scores([row['image'] for row in rows]))


def rows(kinds: Sequence[str]) -> list[list[str]]:
  """The scorer's row in a table of falling rates, if it is installed."""
  if not installed():
    return []
  found = photograph_rates()
  return [[NAME, *(f'{found[kind]["pairs"]:.3f}' for kind in kinds)]]


def sentences() -> list[str]:
  """That it is missing, where it is."""
  return [] if installed() else [MISSING]
