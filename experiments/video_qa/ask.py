"""Asks a model the questions of a benchmark, batch by batch.

Threads read the videos of the next batches while the devices answer. A video
that cannot be shown leaves its question out of the answers, with the reason.
"""

import dataclasses
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from data import pack
from data.assistant import Assistant, user_turn
from data.excerpt import open_excerpt
from data.frames import Frames
from data.records import BadRecord
from data.sources.video_qa import Question
from experiments.video_qa import hosts
from experiments.video_qa.answers import parse
from experiments.video_qa.batch import Shape, batch_of, check_length, shape_of
from experiments.video_qa.clock import Clock
from experiments.video_qa.prompts import Prompt
from vlm.rollout.sampler import Weights, prepare
from vlm.sharding.batch import to_global

LONGEST_PROBLEM = 500  # characters
AHEAD = 2  # batches whose videos are read before they are needed


@dataclasses.dataclass(frozen=True)
class Asking:
  """How questions are asked.

  Attributes:
    prompt: their words.
    frames: of each video, spread evenly; 0 leaves it to the checkpoint.
    max_new_tokens: longest answer.
    batch_size: questions answered at once, by all processes together.
    threads: that read videos, of each process.
  """

  prompt: Prompt
  frames: int
  max_new_tokens: int
  batch_size: int
  threads: int = 4


@dataclasses.dataclass(frozen=True)
class Shown:
  """A question made ready for the model.

  Attributes:
    sample: its prompt; without the video where there is a problem.
    problem: why the video is not shown; '' if it is.
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
  questions: Sequence[Question],
  asking: Asking,
  mesh: jax.sharding.Mesh,
  clock: Clock,
  done: int = 0,
) -> Iterator[list[dict[str, Any]]]:
  """Answers questions greedily.

  Args:
    assistant: whose parameters lie on `mesh`.
    questions: all of them.
    asking: how.
    mesh: over which batches are split.
    clock: measures the batches.
    done: questions to leave out at the beginning, whole batches.

  Yields:
    The records of a batch; see scores.py. The same on every process.
  """
  size = asking.batch_size
  batches = [
    list(questions[start : start + size])
    for start in range(done, len(questions), size)
  ]
  weights = prepare(assistant.model, assistant.params)
  show = lambda q, video: _show(assistant, q, video, asking.prompt)
  open_video = lambda question: _open(question, assistant, asking.frames)
  with ThreadPoolExecutor(asking.threads) as pool:
    for batch, shown in _read_ahead(pool, batches, asking, show, open_video):
      notes = [
        json.loads(note) for note in hosts.joined([s.note for s in shown])
      ]
      shapes, texts = [note['shape'] for note in notes], [None] * size
      if any(not note['problem'] for note in notes[: len(batch)]):
        texts = _answers(assistant, weights, shown, shapes, asking, mesh, clock)
      yield [_record(*row) for row in zip(batch, notes, texts, strict=False)]


def _read_ahead(
  pool: ThreadPoolExecutor,
  batches: Sequence[list[Question]],
  asking: Asking,
  show: Callable[[Question, Future | None], Shown],
  open_video: Callable[[Question], Frames],
) -> Iterator[tuple[list[Question], list[Shown]]]:
  """Yields batches with this process's rows, some being read meanwhile."""
  waiting: deque[tuple[list[Question], list[Future]]] = deque()
  videos: dict[Any, Future] = {}
  try:
    for batch in batches:
      # One static shape: a short last batch has rows that show nothing.
      padding = [None] * (asking.batch_size - len(batch))
      rows = hosts.share([*batch, *padding])
      # Questions about one video stand together: it is read once. It is asked
      # for before its questions, so that no thread waits in vain.
      known, videos = videos, {}
      for q in filter(None, rows):
        part = _part(q)
        found = videos.get(part) or known.get(part)
        videos[part] = found or pool.submit(open_video, q)
      futures = [
        pool.submit(show, q or batch[-1], videos[_part(q)] if q else None)
        for q in rows
      ]
      waiting.append((batch, futures))
      if len(waiting) > AHEAD:
        yield _ready(waiting.popleft())
    while waiting:
      yield _ready(waiting.popleft())
  finally:
    pool.shutdown(wait=False, cancel_futures=True)


def _ready(entry: tuple[list[Question], list[Future]]):
  batch, futures = entry
  return batch, [future.result() for future in futures]


def _part(question: Question) -> tuple:
  return question.path, question.start, question.end, question.fps


def _open(question: Question, assistant: Assistant, frames: int) -> Frames:
  try:
    return open_excerpt(
      question.path,
      assistant.processor,
      frames,
      start=question.start,
      end=question.end,
      fps=question.fps,
    )
  except OSError as error:
    raise BadRecord('corrupt image', f'{question.path}: {error}') from error


def _show(
  assistant: Assistant,
  question: Question,
  video: Future | None,
  prompt: Prompt,
) -> Shown:
  """A question with its video, or alone where there is a problem or none."""
  text, problem = prompt.write(question), 'padding'
  if video is not None:
    try:
      return Shown(_with_video(assistant, text, video.result()))
    except BadRecord as bad:
      problem = f'{bad.reason}: {bad.detail}'
  # The row still goes to the device: without a video, and nobody listens.
  example = {'messages': [user_turn(text)], 'images': []}
  return Shown(assistant.encoder.prompt(example), problem)


def _with_video(assistant: Assistant, text: str, video: Frames) -> pack.Sample:
  example = {'messages': [user_turn(text, [video])], 'images': [video]}
  sample = assistant.encoder.prompt(example)
  check_length(assistant, sample)
  return sample


def _grid(sample: pack.Sample) -> list[int]:
  """Frames, or pairs of them, and visual tokens of each; newlines are none."""
  frame = sample['plan']['grid'][:, 0]
  frame = frame[frame >= 0]
  frames = len(np.unique(frame))
  return [frames, len(frame) // frames]


def _answers(
  assistant: Assistant,
  weights: Weights,
  shown: Sequence[Shown],
  shapes: Sequence[Shape],
  asking: Asking,
  mesh: jax.sharding.Mesh,
  clock: Clock,
) -> list[str]:
  samples = [row.sample for row in shown]
  batch = to_global(batch_of(assistant, samples, shapes), mesh)
  with jax.set_mesh(mesh):
    out = clock.sample(assistant, weights, batch, asking.max_new_tokens)
  rows = hosts.order(asking.batch_size)
  return [out.texts[row][0] for row in rows]


def _record(
  question: Question, note: dict[str, Any], text: str | None
) -> dict[str, Any]:
  said = None if note['problem'] or text is None else text.strip()
  return {
    'id': question.id,
    'video': question.video,
    'categories': dict(question.categories),
    'options': len(question.options),
    'answer': question.answer,
    'prediction': said,
    'choice': None if said is None else parse(said, question.options),
    'problem': note['problem'],
    'grid': note['grid'],
  }
