"""The degradation reward: 0.25 for the class, and 0.75 more for the severity.

As published: both are double-quoted, not empty, in the first answer span, the
class before the severity; they are compared exactly, after trimming. JSON's
null, without quotes, is no answer.
"""

import re
from collections.abc import Mapping
from typing import Any

from vlm.methods.rali.score_reward import first_answer

CLASS, SEVERITY = 0.25, 0.75

_PAIR = re.compile(
  r'"distortion_class"\s*:\s*"([^"]+)".*?"severity"\s*:\s*"([^"]+)"', re.DOTALL
)


def degradation_of(completion: str) -> tuple[str, str] | None:
  """(class, severity) as written, trimmed; None where none is read."""
  answer = first_answer(completion)
  found = _PAIR.search(answer) if answer is not None else None
  return found and (found.group(1).strip(), found.group(2).strip())


def degradation_reward(completion: str, record: Mapping[str, Any]) -> float:
  """0, 0.25 or 1.

  Args:
    completion: what the model wrote.
    record: with the true `distortion_class` and `severity`.
  """
  found = degradation_of(completion)
  if found is None or found[0] != record['distortion_class']:
    return 0.0
  return CLASS + SEVERITY * (found[1] == record['severity'])
