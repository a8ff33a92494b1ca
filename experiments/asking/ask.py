"""Asks a model many questions, batch by batch, whatever they are about.

Threads prepare the next batches while the devices answer. A question that
cannot be shown keeps its row, with the reason, and nobody listens to it.
"""

import dataclasses
import functools
import json
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax
import numpy as np

from data import pack
from data.assistant import Assistant
from data.chunks import in_order, share
from data.records import BadRecord
from experiments.asking import hosts
from experiments.asking.batch import batch_of, check_length, shape_of
from experiments.asking.clock import Clock
from vlm.rollout.sampler import prepare
from vlm.rollout.samples import Samples
from vlm.sharding.batch import to_global

LONGEST_PROBLEM = 500  # characters
AHEAD = 2  # batches that are prepared before they are needed


class Subject(Protocol):
  """What questions are about.

  Attributes:
    max_new_tokens: longest answer.
  """

  max_new_tokens: int

  def shared(self, question: Any) -> Hashable:
    """Names what several questions share: a video, a picture."""

  def open(self, question: Any) -> Any:
    """Reads what is shared; on a thread, once for neighbouring questions.

    Raises:
      BadRecord: it cannot be shown.
    """

  def show(self, question: Any, opened: Any) -> pack.Sample:
    """The prompt of a question.

    Raises:
      BadRecord: it cannot be shown.
    """

  def blank(self, question: Any) -> pack.Sample:
    """A prompt that shows nothing, for a row that nobody listens to."""

  def record(
    self, question: Any, said: str | None, problem: str, grid: Any
  ) -> dict[str, Any]:
    """One line of predictions.jsonl; `said` is None where there is a problem.

    `grid` is [frames, visual tokens of each], None where there is a problem.
    Where answers are drawn too (`Batches.draws`), they come as `drawn`, a list,
    None where there is a problem.
    """


@dataclasses.dataclass(frozen=True)
class Draws:
  """Answers that are drawn beside the greedy one.

  A question's draws depend on its place among all questions, not on its batch.

  Attributes:
    count: of each question.
    temperature, top_p, top_k: see `vlm.rollout.settings.Sampling`.
    seed: of all draws.
  """

  count: int
  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  seed: int = 0

  def seeds(self, places: Sequence[int]) -> np.ndarray:
    """One for each of some questions, uint32."""
    drawn = [
      np.random.SeedSequence((self.seed, place)).generate_state(1)[0]
      for place in places
    ]
    return np.array(drawn, np.uint32)


@dataclasses.dataclass(frozen=True)
class Batches:
  """How questions are put together.

  Attributes:
    size: questions answered at once, by all processes together.
    threads: that prepare questions, of each process.
    draws: answers beside the greedy one, if any.
  """

  size: int
  threads: int = 4
  draws: Draws | None = None


@dataclasses.dataclass(frozen=True)
class Shown:
  """A question made ready for the model.

  Attributes:
    sample: its prompt; blank where there is a problem.
    problem: why it is not shown; '' if it is.
  """

  sample: pack.Sample
  problem: str = ''

  @property
  def note(self) -> str:
    """What the other processes want to know, as JSON."""
    problem = self.problem
    if len(problem) > LONGEST_PROBLEM:
      problem = problem[:LONGEST_PROBLEM] + '...'
    grid = None if problem else _grid(self.sample)
    note = {'problem': problem, 'grid': grid, 'shape': shape_of(self.sample)}
    return json.dumps(note)


def ask(
  assistant: Assistant,
  questions: Sequence[Any],
  subject: Subject,
  batches: Batches,
  mesh: jax.sharding.Mesh,
  clock: Clock,
  done: int = 0,
) -> Iterator[list[dict[str, Any]]]:
  """Answers questions greedily, and by draws where the batches say so.

  Args:
    assistant: whose parameters lie on `mesh`.
    questions: all of them, those that share something side by side.
    subject: what they are about.
    batches: how many at once.
    mesh: over which batches are split.
    clock: measures the batches.
    done: questions to leave out at the beginning, whole batches.

  Yields:
    The records of a batch. The same on every process.
  """
  size = batches.size
  weights = prepare(assistant.model, assistant.params)
  reader = _Reader(assistant, subject, batches)
  chunks = [
    list(questions[start : start + size])
    for start in range(done, len(questions), size)
  ]
  with ThreadPoolExecutor(batches.threads) as pool:
    for number, (chunk, shown) in enumerate(reader.read_ahead(pool, chunks)):
      notes = [
        json.loads(note) for note in hosts.joined([s.note for s in shown])
      ]
      shapes, texts = [note['shape'] for note in notes], [None] * size
      if any(not note['problem'] for note in notes[: len(chunk)]):
        batch = batch_of(assistant, [s.sample for s in shown], shapes)
        texts = _answers(
          to_global(batch, mesh),
          mesh,
          functools.partial(clock.sample, assistant, weights),
          subject.max_new_tokens,
          batches.draws,
          done + number * size,
        )
      yield [
        _record(subject, *row, batches.draws is not None)
        for row in zip(chunk, notes, texts, strict=False)
      ]


class _Reader:
  """Prepares batches on threads, each shared thing once."""

  def __init__(self, assistant: Assistant, subject: Subject, batches: Batches):
    self._assistant, self._subject = assistant, subject
    self._size = batches.size

  def read_ahead(
    self, pool: ThreadPoolExecutor, chunks: Sequence[list[Any]]
  ) -> Iterator[tuple[list[Any], list[Shown]]]:
    """Yields batches with this process's rows, some being read meanwhile."""
    waiting: deque[tuple[list[Any], list[Future]]] = deque()
    opened: dict[Hashable, Future] = {}
    try:
      for chunk in chunks:
        # One static shape: a short last batch has rows that show nothing.
        rows = share([*chunk, *[None] * (self._size - len(chunk))])
        opened = self._open(pool, rows, opened)
        futures = [
          pool.submit(self._show, row or chunk[-1], opened.get(self._key(row)))
          for row in rows
        ]
        waiting.append((chunk, futures))
        if len(waiting) > AHEAD:
          yield _ready(waiting.popleft())
      while waiting:
        yield _ready(waiting.popleft())
    finally:
      pool.shutdown(wait=False, cancel_futures=True)

  def _key(self, row: Any) -> Hashable:
    return None if row is None else self._subject.shared(row)

  def _open(self, pool, rows, known) -> dict[Hashable, Future]:
    """What the rows share, being opened.

    It is asked for before its questions, so that no thread waits in vain.
    """
    opened: dict[Hashable, Future] = {}
    for row in rows:
      if row is not None:
        key = self._key(row)
        found = opened.get(key) or known.get(key)
        opened[key] = found or pool.submit(self._subject.open, row)
    return opened

  def _show(self, question: Any, opened: Future | None) -> Shown:
    """A question ready, or blank where there is a problem or none."""
    problem = 'padding'
    if opened is not None:
      try:
        sample = self._subject.show(question, opened.result())
        check_length(self._assistant, sample)
        return Shown(sample)
      except BadRecord as bad:
        problem = f'{bad.reason}: {bad.detail}'
    return Shown(self._subject.blank(question), problem)


def _ready(entry: tuple[list[Any], list[Future]]):
  chunk, futures = entry
  return chunk, [future.result() for future in futures]


def _grid(sample: pack.Sample) -> list[int]:
  """Frames, or pairs of them, and visual tokens of each; newlines are none."""
  frame = sample['plan']['grid'][:, 0]
  frame = frame[frame >= 0]
  frames = len(np.unique(frame))
  return [frames, len(frame) // frames]


def _answers(
  batch: dict[str, Any],
  mesh: jax.sharding.Mesh,
  sample: Callable[..., Samples],
  max_new_tokens: int,
  draws: Draws | None,
  first: int,
) -> list[list[str]]:
  """[rows][1 + draws] texts: the greedy answer, then what is drawn."""
  rows = in_order(np.arange(batch['tokens'].shape[0]))
  with jax.set_mesh(mesh):
    out = sample(batch, max_new_tokens)
    texts = [[out.texts[row][0]] for row in rows]
    if draws is not None:
      seeds = np.empty(len(rows), np.uint32)
      seeds[rows] = draws.seeds(range(first, first + len(rows)))
      out = sample(
        batch,
        max_new_tokens,
        draws.count,
        seeds,
        temperature=draws.temperature,
        top_p=draws.top_p,
        top_k=draws.top_k,
      )
      for row, found in zip(rows, texts, strict=True):
        found += out.texts[row]
  return texts


def _record(
  subject: Subject,
  question: Any,
  note: dict[str, Any],
  texts: list[str] | None,
  drawn: bool,
) -> dict[str, Any]:
  heard = None if note['problem'] or texts is None else texts
  said, *others = [text.strip() for text in heard] if heard else [None]
  more = {'drawn': others if heard else None} if drawn else {}
  problem, grid = note['problem'], note['grid']
  return subject.record(question, said, problem, grid, **more)
