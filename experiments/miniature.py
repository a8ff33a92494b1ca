"""The contract between `launch.reproduce` and the experiments.

A system's module (experiments/NAME/miniature.py) has

  arms(seeds, thorough) -> [Arm]        what to train, the method first
  prepare(arms)                         makes the data that arms share
  summarise(outcomes) -> Summary        tables, pictures and sentences

`launch.reproduce` trains and evaluates every arm, keeps the outcomes by config
hash, and shows the summary. Pictures are matplotlib figures.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Arm:
  """One training run.

  Attributes:
    name: for people.
    seed: of the run.
    config: its config.
    start: name of the arm of the same seed whose last parameters it starts
      from; '' for a fresh draw.
    needs: {field of the config, with dots: name of the arm of the same seed
      whose folder it gets}, of arms that must be done before.
  """

  name: str
  seed: int
  config: Any
  start: str = ''
  needs: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def reads(self) -> dict[str, str]:
    """All fields that hold another arm's folder, and the names of the arms."""
    return dict(self.needs) | ({'init_from': self.start} if self.start else {})


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a run left.

  Attributes:
    arm: the run.
    sets: {set: {'records', 'scores', 'skipped'}}, see experiments/task.py.
    history: log rows of training, in order.
    seconds: training and evaluation together, on the machine that ran it.
    measured: what the task measured itself.
  """

  arm: Arm
  sets: dict[str, dict[str, Any]]
  history: list[dict[str, Any]]
  seconds: float
  measured: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of text."""

  title: str
  header: list[str]
  rows: list[list[str]]


@dataclasses.dataclass(frozen=True)
class Picture:
  """A matplotlib figure and what it shows."""

  caption: str
  figure: Any


@dataclasses.dataclass(frozen=True)
class Summary:
  """A system's part of the report."""

  title: str
  claim: str
  tables: list[Table]
  pictures: list[Picture]
  findings: list[str]


def seeds_of(outcomes: Sequence[Outcome], name: str) -> list[Outcome]:
  """The outcomes of an arm, one for each seed."""
  return [outcome for outcome in outcomes if outcome.arm.name == name]


def names_of(outcomes: Sequence[Outcome]) -> list[str]:
  """The arms there are, in their order."""
  return list(dict.fromkeys(outcome.arm.name for outcome in outcomes))


def paired(
  outcomes: Sequence[Outcome], first: str, second: str
) -> list[tuple[Outcome, Outcome]]:
  """The outcomes of two arms, by seed; where one is missing, neither."""
  of = lambda name: {run.arm.seed: run for run in seeds_of(outcomes, name)}
  left, right = of(first), of(second)
  return [(left[seed], right[seed]) for seed in left if seed in right]


def spread_of(values: Sequence[float], digits: int = 3) -> str:
  """Mean and range over seeds."""
  said = lambda value: f'{value:.{digits}f}'
  mean = np.mean(values)
  if len(values) == 1 or np.isnan(mean):
    return said(mean)
  return f'{said(mean)} ({said(min(values))} to {said(max(values))})'
