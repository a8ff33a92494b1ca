"""The score reward: 1 where the rating is closer than 0.35 to the opinion.

As published: the rating is the number after the first `"rating":` with one,
inside the first answer span, wherever that stands. The number is unquoted
digits and dots, so a minus, quotes, an exponent or another case are not part of
it; nothing checks its range.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

THRESHOLD = 0.35

_SPAN = re.compile(r'<answer>(.*?)</answer>', re.DOTALL)
_RATING = re.compile(r'"rating"\s*:\s*([\d.]+)')


def first_answer(completion: str) -> str | None:
  """What stands in the first answer span; None if there is none."""
  found = _SPAN.search(completion)
  return found and found.group(1)


def rating_of(completion: str) -> float | None:
  """The rating in the first answer span; None where none is read.

  '3.2.1' is none, '3.2e1' is 3.2.
  """
  answer = first_answer(completion)
  return None if answer is None else rating_in(answer)


def rating_in(answer: str) -> float | None:
  """The number after the first `"rating":` of a text that has one."""
  found = _RATING.search(answer)
  try:
    return float(found.group(1)) if found else None
  except ValueError:
    return None


def score_reward(
  threshold: float | int = THRESHOLD,
) -> Callable[[str, Mapping[str, Any]], float]:
  """1 where |rating - s| < threshold, else 0.

  Of a completion and its record, whose `gt_score_norm` is s, the opinion on
  [1, 5].
  """

  def reward(completion: str, record: Mapping[str, Any]) -> float:
    rating = rating_of(completion)
    if rating is None:
      return 0.0
    return float(abs(rating - record['gt_score_norm']) < threshold)

  return reward
