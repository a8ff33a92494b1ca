"""Numbers of the miniature's outcomes, and what differences of them say."""

from collections.abc import Callable, Sequence

import numpy as np

from experiments.miniature import Outcome

HOME = 'A'

Reading = Callable[[Outcome, str, str], float]


def greedy(outcome: Outcome, name: str, metric: str) -> float:
  """A score of a set's greedy answers; NaN where it is not defined."""
  value = outcome.sets[name]['scores'][metric]
  return float(np.ravel(value)[0])


def drawn(outcome: Outcome, name: str, metric: str) -> float:
  """A score of a set's mean of draws."""
  return number(outcome.measured['drawn'][name][metric])


def case(outcome: Outcome, kept: str) -> Reading:
  """Reads a case of RALI's ablation from what a tower's run measured."""
  scores = outcome.measured['rali']['cases'][kept]
  return lambda outcome, name, metric: number(scores[name][metric])


def number(value: float | None) -> float:
  """A number from JSON, where what is not defined is null."""
  return float('nan') if value is None else float(value)


def out_of_domain(
  outcome: Outcome,
  read: Reading,
  metric: str,
  seen: Sequence[str] = (HOME,),
) -> float:
  """The mean over the sets that were not seen.

  An undefined correlation counts 0: a scorer that says the same of every
  picture of a set has told nothing apart there, and leaving the set out would
  reward it.
  """
  rest = [n for n in outcome.sets if n not in seen]
  return mean_over(outcome, rest, read, metric)


def mean_over(
  outcome: Outcome, sets: Sequence[str], read: Reading, metric: str
) -> float:
  """The mean over some sets, an undefined correlation counting 0."""
  values = [read(outcome, name, metric) for name in sets]
  return float(np.mean(np.nan_to_num(values)))


def range_of(gaps: Sequence[float]) -> str:
  """The range of differences, in words."""
  if len(gaps) == 1:
    return 'one seed'
  return f'{min(gaps):+.3f} to {max(gaps):+.3f} over {len(gaps)} seeds'


def verdict(gaps: Sequence[float]) -> str:
  """One sentence about the differences of all seeds."""
  if len(gaps) == 1:
    return 'one seed decides nothing'
  if min(gaps) > 0:
    return 'replicated with every seed'
  if max(gaps) < 0:
    return 'did not replicate: the other way round with every seed'
  return 'did not replicate: seeds differ in sign'
