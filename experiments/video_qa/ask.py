"""Asks a model the questions of a video benchmark."""

import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import jax

from data import pack
from data.assistant import Assistant, user_turn
from data.excerpt import open_excerpt
from data.frames import Frames
from data.records import BadRecord
from data.sources.video_qa import Question
from experiments.asking import ask as asking
from experiments.asking.clock import Clock
from experiments.video_qa.answers import parse
from experiments.video_qa.prompts import Prompt


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


def ask(
  assistant: Assistant,
  questions: Sequence[Question],
  how: Asking,
  mesh: jax.sharding.Mesh,
  clock: Clock,
  done: int = 0,
) -> Iterator[list[dict[str, Any]]]:
  """Answers questions greedily; see `experiments.asking.ask.ask`.

  Yields:
    The records of a batch; see scores.py. The same on every process.
  """
  yield from asking.ask(
    assistant,
    questions,
    Videos(assistant, how),
    asking.Batches(how.batch_size, how.threads),
    mesh,
    clock,
    done,
  )


class Videos:
  """Questions about videos; see `experiments.asking.ask.Subject`."""

  def __init__(self, assistant: Assistant, how: Asking):
    self._assistant, self._how = assistant, how
    self.max_new_tokens = how.max_new_tokens

  def shared(self, question: Question) -> Hashable:
    """The part of a video that a question is about."""
    return question.path, question.start, question.end, question.fps

  def open(self, question: Question) -> Frames:
    """Chooses the frames; they are decoded when they are shown."""
    try:
      return open_excerpt(
        question.path,
        self._assistant.processor,
        self._how.frames,
        start=question.start,
        end=question.end,
        fps=question.fps,
      )
    except OSError as error:
      raise BadRecord('corrupt image', f'{question.path}: {error}') from error

  def show(self, question: Question, opened: Frames) -> pack.Sample:
    """The video, then the words."""
    turn = user_turn(self._how.prompt.write(question), [opened])
    example = {'messages': [turn], 'images': [opened]}
    return self._assistant.encoder.prompt(example)

  def blank(self, question: Question) -> pack.Sample:
    """The words alone."""
    turn = user_turn(self._how.prompt.write(question))
    return self._assistant.encoder.prompt({'messages': [turn], 'images': []})

  def record(
    self, question: Question, said: str | None, problem: str, grid: Any
  ) -> dict[str, Any]:
    """See scores.py."""
    return {
      'id': question.id,
      'video': question.video,
      'categories': dict(question.categories),
      'options': len(question.options),
      'answer': question.answer,
      'prediction': said,
      'choice': None if said is None else parse(said, question.options),
      'problem': problem,
      'grid': grid,
    }
