"""How an evaluation reads a score on [1, 5] in what a model wrote.

  answer        Q-Insight: the rating in the first answer span
  last_answer   VisualQuality-R1: the first number in the last answer span
  json          the rating of JSON without tags
  number        the first number of the text
  level         Q-Align: the first of its five words, 5 for excellent

What cannot be read is asked for once more, greedily, and then counts as
`CONSTANT`; how often is reported beside the scores.
"""

import math
import re
from collections.abc import Callable

from vlm.methods.rali.levels import level_score
from vlm.methods.rali.rank_reward import rating_in_last_answer
from vlm.methods.rali.score_reward import rating_in, rating_of

LOW, HIGH = 1.0, 5.0
CONSTANT = 3.0  # of every data set alike

_NUMBER = re.compile(r'-?\d+(?:\.\d+)?')


def first_number(text: str) -> float | None:
  """The first signed number; None if there is none."""
  found = _NUMBER.search(text)
  return found and float(found.group())


READERS: dict[str, Callable[[str], float | None]] = {
  'answer': rating_of,
  'last_answer': rating_in_last_answer,
  'json': rating_in,
  'number': first_number,
  'level': level_score,
}


def read_score(text: str, reader: str) -> tuple[float | None, str]:
  """The score in a text, and '' or why there is none.

  Returns:
    (score, ''), or (None, 'no score' | 'out of range').

  Raises:
    ValueError: another reader.
  """
  if reader not in READERS:
    raise ValueError(f'reader={reader!r}, expected one of {sorted(READERS)}')
  found = READERS[reader](text)
  if found is None:
    return None, 'no score'
  if not math.isfinite(found) or not LOW <= found <= HIGH:
    return None, 'out of range'
  return found, ''
