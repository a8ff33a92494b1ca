"""Rewards of the GRPO comparison (spec 2.7), pure functions of an answer.

Each takes the text a model wrote and the record of its sample, whose 'value' is
the true quantity. An answer that states no positive number is worth the least
the reward can give, however negative or empty it is.
"""

from collections.abc import Callable, Mapping
from typing import Any

from vlm.methods.depthlm.text import parse_metres

Reward = Callable[[str, Mapping[str, Any]], float]
FLOOR = -10.0


def negative_l1(output: str, record: Mapping[str, Any]) -> float:
  """-|p - g|, at least `FLOOR`; reported as the best of the three."""
  predicted = parse_metres(output)
  if predicted is None:
    return FLOOR
  return max(-abs(predicted - record['value']), FLOOR)


def negative_abs_rel(output: str, record: Mapping[str, Any]) -> float:
  """-|p - g| / g, at least `FLOOR`."""
  predicted = parse_metres(output)
  if predicted is None:
    return FLOOR
  return max(-abs(predicted - record['value']) / record['value'], FLOOR)


def within_delta1(output: str, record: Mapping[str, Any]) -> float:
  """1 where max(p / g, g / p) < 1.25, else 0."""
  predicted, truth = parse_metres(output), record['value']
  if predicted is None:
    return 0.0
  return float(max(predicted / truth, truth / predicted) < 1.25)


def states_number(output: str, record: Mapping[str, Any]) -> float:
  """1 where the answer states a positive number, else 0."""
  del record  # Any number will do.
  return float(parse_metres(output) is not None)


REWARDS: dict[str, Reward] = {
  'negative_l1': negative_l1,
  'negative_abs_rel': negative_abs_rel,
  'delta1': within_delta1,
}
