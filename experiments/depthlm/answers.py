"""The answers of an arm, all its seeds together, as arrays."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.miniature import Outcome
from vlm.methods.depthlm import text
from vlm.metrics import depth


class Answers(NamedTuple):
  """Of N questions.

  Attributes:
    said: [N] what was answered, NaN where nothing was.
    truth: [N].
    images: [N] cluster of the bootstrap: the image, or the pixel where there
      is one image only.
  """

  said: np.ndarray
  truth: np.ndarray
  images: np.ndarray

  @property
  def correct(self) -> np.ndarray:
    """[N] 1.0 within 1.25x of the truth."""
    return depth.within(self.said, self.truth).astype(float)


def said(records: Sequence[dict]) -> np.ndarray:
  """[N] numbers of the predictions, NaN where none parses."""
  return depth.as_array(
    [text.parse_metres(record['prediction']) for record in records]
  )


def pooled(
  outcomes: Sequence[Outcome], arm: str, name: str, task: str = 'distance'
) -> Answers:
  """Answers of all seeds of an arm on a set, one seed after the other."""
  records = [
    record
    for outcome in outcomes
    if outcome.arm.name == arm and name in outcome.sets
    for record in outcome.sets[name]['records']
    if record['task'] == task
  ]
  single = len({record['image'] for record in records}) == 1
  key = 'label' if single else 'image'
  return Answers(
    said(records),
    np.array([record['value'] for record in records]),
    np.array([record[key] for record in records]),
  )
