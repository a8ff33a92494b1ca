"""Rewards of completions: plain Python, on threads, with every failure named.

A reward that raises, takes too long or returns no finite number has failed. Its
sample then has no reward, which is not a reward of zero: it belongs neither to
the statistics of its group nor to the loss, and the failure is counted under
the reward's name. Where one reward fails for every sample of a step, the run
stops.
"""

import dataclasses
import functools
import logging
import math
import numbers
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vlm.rollout.threads import Call, Threads

FORMAT = 'format'  # the reward that says whether a completion can be read
FAILURES = ('exception', 'time-out', 'not finite', 'wrong type')
NAMED = 3  # failures of a kind that are logged

log = logging.getLogger(__name__)

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Reward:
  """What one completion earns.

  Attributes:
    name: in logs. The one named 'format' lies in [0, 1], and 1 is full marks.
    score: (completion, record) -> finite number.
    weight: in the sum of rewards; at 0 it is only logged.
  """

  name: str
  score: Callable[[str, Record], float]
  weight: float | int = 1.0


@dataclasses.dataclass(frozen=True)
class GroupReward:
  """What completions earn compared with others, also of other prompts.

  Attributes:
    name: in logs.
    score: (completions [P][G], records [P]) -> numbers [P][G].
    weight: in the sum of rewards.
  """

  name: str
  score: Callable[
    [Sequence[Sequence[str]], Sequence[Record]], Sequence[Sequence[float]]
  ]
  weight: float | int = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
  """Rewards of P prompts with G completions.

  Attributes:
    values: name -> float64 [P, G], NaN where the reward failed.
    failures: (name, one of `FAILURES`) -> how many samples.
    total: float64 [P, G], the weighted sum; 0 where not counted.
    counted: bool [P, G], no reward that has a weight failed.
  """

  values: dict[str, np.ndarray]
  failures: Counter
  total: np.ndarray
  counted: np.ndarray


class RewardFailure(RuntimeError):
  """A reward failed for every sample of a step."""


class Scorer:
  """Scores completions on threads."""

  def __init__(
    self,
    rewards: Sequence[Reward | GroupReward],
    *,
    threads: int = 8,
    seconds: float | int = 10.0,
  ):
    """Starts the threads.

    Args:
      rewards: at least one with a weight; names differ.
      threads: calls at one time.
      seconds: a call may take; that of a `GroupReward` is one call.

    Raises:
      ValueError: no reward counts, or two have one name.
    """
    names = [reward.name for reward in rewards]
    if len(set(names)) < len(names):
      raise ValueError(f'rewards {names}: expected different names')
    if not any(reward.weight for reward in rewards):
      raise ValueError(f'rewards {names}: expected one with a weight')
    self.rewards = tuple(rewards)
    self._threads = Threads(threads, seconds)
    self._named: Counter = Counter()

  def start(
    self,
    completions: Sequence[Sequence[str]],
    records: Sequence[Record],
    own: slice = slice(None),
  ) -> Callable[[], Scores]:
    """Begins to score completions [P][G].

    Args:
      completions: of all prompts.
      records: of all prompts.
      own: the prompts whose scores are wanted; a `GroupReward` sees all.

    Returns:
      What waits for the scores; it raises RewardFailure where a reward with a
      weight failed for every sample.
    """
    shape = len(completions), len(completions[0])
    calls = {
      reward.name: self._threads.submit(
        _calls(reward, completions, records, own)
      )
      for reward in self.rewards
    }
    return functools.partial(self._finish, calls, shape, own)

  def score(
    self, completions: Sequence[Sequence[str]], records: Sequence[Record]
  ) -> Scores:
    """Scores completions [P][G] and waits."""
    return self.start(completions, records)()

  def close(self) -> None:
    """Ends the threads."""
    self._threads.close()

  def _finish(self, calls: dict[str, list[Call]], shape, own) -> Scores:
    values, failures = {}, Counter()
    counted = np.ones(shape, bool)[own]
    total = np.zeros(counted.shape)
    for reward in self.rewards:
      found = [self._threads.wait(call) for call in calls[reward.name]]
      if isinstance(reward, GroupReward):
        value, kinds, first = _read_group(found, shape, own)
      else:
        value, kinds, first = _read_each(found, shape[1])
      values[reward.name] = value
      self._name(reward.name, kinds, first)
      failures.update({(reward.name, kind): n for kind, n in kinds.items()})
      if not reward.weight:
        continue
      if np.isnan(value).all():
        raise RewardFailure(
          f'the reward {reward.name!r} failed for every sample: {dict(kinds)}; '
          f'first: {first}'
        )
      counted &= ~np.isnan(value)
      total += reward.weight * value
    total = np.where(counted, total, 0.0)
    return Scores(values, failures, total, counted)

  def _name(self, name: str, kinds: Counter, first: str) -> None:
    for kind in kinds:
      self._named[name, kind] += 1
      if self._named[name, kind] <= NAMED:
        log.warning('reward %r: %s; first: %s', name, dict(kinds), first)
      if self._named[name, kind] == NAMED:
        log.warning('Further failures of %r by %s are counted.', name, kind)


def check_format(
  rewards: Sequence[Reward | GroupReward], text: str, record: Record
) -> None:
  """Checks that what a prompt shows as an answer is one.

  Where the prompt's example and the reward disagree, the format reward settles
  between 0 and 1 and nobody knows why.

  Args:
    rewards: one of them is the `Reward` named 'format'.
    text: the prompt's own example.
    record: of the prompt.

  Raises:
    ValueError: it does not earn 1, or there is no such reward.
  """
  named = [r for r in rewards if r.name == FORMAT and isinstance(r, Reward)]
  if not named:
    raise ValueError(
      f'rewards {[r.name for r in rewards]}: expected one named {FORMAT!r}, 1 '
      'where a completion can be read (its weight may be 0)'
    )
  earned = named[0].score(text, record)
  if earned != 1:
    raise ValueError(
      f"the prompt's own example earns a format reward of {earned}, expected "
      f'1: prompt and reward disagree about the format; example {text!r}, '
      f'record {dict(record)}'
    )


def _calls(reward, completions, records, own) -> list[Callable[[], Any]]:
  if isinstance(reward, GroupReward):
    return [functools.partial(reward.score, completions, records)]
  return [
    functools.partial(reward.score, text, record)
    for group, record in zip(completions[own], records[own], strict=True)
    for text in group
  ]


def _read_each(calls: Sequence[Call], group: int):
  """(values [P, G], kinds of failures, the first in words)."""
  values, kinds, first = np.full(len(calls), np.nan), Counter(), ''
  for place, call in enumerate(calls):
    kind, said = _failure(call) or _misfit(call.value)
    if kind:
      kinds[kind] += 1
      first = first or f'prompt {place // group}: {said}'
    else:
      values[place] = float(call.value)
  return values.reshape(-1, group), kinds, first


def _read_group(calls: Sequence[Call], shape: tuple[int, int], own: slice):
  """As `_read_each`, of the one call that scores all."""
  values, kinds = np.full(shape, np.nan)[own], Counter()
  count = values.size
  if found := _failure(calls[0]):
    return values, Counter({found[0]: count}), found[1]
  rows, first = calls[0].value, ''
  if not _has_shape(rows, shape):
    said = f'expected {shape[0]} rows of {shape[1]} numbers, got {rows!r:.80}'
    return values, Counter({'wrong type': count}), said
  for p, row in enumerate(rows[own]):
    for g, value in enumerate(row):
      kind, said = _misfit(value)
      if kind:
        kinds[kind] += 1
        first = first or f'prompt {p}: {said}'
      else:
        values[p, g] = float(value)
  return values, kinds, first


def _failure(call: Call) -> tuple[str, str] | None:
  if call.late:
    return 'time-out', 'it took longer than --config.rl.reward_seconds'
  if call.error is not None:
    return 'exception', f'{type(call.error).__name__}: {call.error}'
  return None


def _misfit(value: Any) -> tuple[str, str]:
  """Why a value is no reward: (kind, words), or two empty ones."""
  if not isinstance(value, numbers.Real | np.bool_):
    return 'wrong type', f'it returned {value!r:.80}, expected a number'
  if not math.isfinite(value):
    return 'not finite', f'it returned {value}'
  return '', ''


def _has_shape(rows: Any, shape: tuple[int, int]) -> bool:
  try:
    return len(rows) == shape[0] and all(len(row) == shape[1] for row in rows)
  except TypeError:
    return False
