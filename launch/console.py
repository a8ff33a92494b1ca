"""What a person sees in the terminal: log lines, progress, tables."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

from absl import logging as absl_logging
from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  SpinnerColumn,
  TextColumn,
  TimeElapsedColumn,
  TimeRemainingColumn,
)
from rich.table import Table

_CONSOLE = Console(highlight=False)


def set_up_logging() -> None:
  """Our rooms log at INFO; libraries only when something is wrong."""
  absl_logging.set_verbosity(absl_logging.WARNING)
  handler = logging.StreamHandler(sys.stderr)
  handler.setFormatter(
    logging.Formatter('%(asctime)s %(name)s %(message)s', '%H:%M:%S')
  )
  for room in ('vlm', 'data', 'launch', '__main__'):
    logger = logging.getLogger(room)
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [handler]
    logger.propagate = False


def quiet() -> None:
  """Only warnings, where a progress bar already tells the rest."""
  set_up_logging()
  for room in ('vlm', 'data', 'launch', '__main__'):
    logging.getLogger(room).setLevel(logging.WARNING)


@contextlib.contextmanager
def plain_errors(command: str) -> Iterator[None]:
  """Ends the process with one line where a flag, a file or data is wrong."""
  try:
    yield
  except (FileNotFoundError, ValueError) as error:
    sys.exit(f'{command}: {error}')


def say(text: str) -> None:
  """Prints a line."""
  _CONSOLE.print(text)


def progress_bar() -> Progress:
  """A bar with counts, elapsed time and ETA."""
  return Progress(
    SpinnerColumn(),
    TextColumn('{task.description}'),
    BarColumn(bar_width=28),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TextColumn('eta'),
    TimeRemainingColumn(),
    console=_CONSOLE,
  )


class Counter:
  """Counts answers per set: `counter(name, done)`."""

  def __init__(self):
    self._progress = Progress(
      SpinnerColumn(),
      TextColumn('{task.description}: {task.completed:.0f} answers'),
      TimeElapsedColumn(),
      console=_CONSOLE,
    )
    self._tasks = {}

  def __enter__(self) -> 'Counter':
    self._progress.start()
    return self

  def __exit__(self, *unused) -> None:
    self._progress.stop()

  def __call__(self, name: str, done: int) -> None:
    if name not in self._tasks:
      self._tasks[name] = self._progress.add_task(name, total=None)
    self._progress.update(self._tasks[name], completed=done)


def number(value: Any) -> str:
  """0.713 [0.69, 0.74] for an interval, else the number."""
  if isinstance(value, list | tuple):
    mean, low, high = value
    return f'{mean:.3f} [{low:.3f}, {high:.3f}]'
  if isinstance(value, float):
    return f'{value:.3f}'
  return str(value)


def print_scores(results: dict[str, dict[str, Any]]) -> None:
  """A column per set, a row per score: sets are few, terminals narrow."""
  names = list(next(iter(results.values()))['scores'])
  table = Table('score', *results)
  for name in names:
    cells = (number(result['scores'][name]) for result in results.values())
    table.add_row(name, *cells)
  _CONSOLE.print(table)


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
  """A titled table of text."""
  table = Table(*header, title=title, title_justify='left')
  for row in rows:
    table.add_row(*row)
  _CONSOLE.print(table)
