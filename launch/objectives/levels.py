"""What the objective 'levels' brings to launch.train: DeQA-Score's training.

A task gives opinions and the answer that names a level; the five words have to
be single tokens of the model's tokenizer, at one place of that answer.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from data.chat import Chat
from data.examples import Encoder, left_padded
from data.pack import RowSpec
from launch import job
from launch.objectives import regression
from vlm.methods.rali.levels import LEVELS
from vlm.train import levels
from vlm.train.levels import TAIL
from vlm.train.step import Objective


@dataclasses.dataclass(frozen=True)
class Frame:
  """Where an answer names its level.

  Attributes:
    ids: tokens of the five words there, excellent first.
    after: tokens of the row behind the level's.
    others: float32 [TAIL], 1 on the answer's other tokens.
  """

  ids: tuple[int, ...]
  after: int
  others: np.ndarray

  @classmethod
  def of(cls, chat: Chat, answers: Sequence[str]) -> 'Frame':
    """The frame of five answers that differ in their level alone.

    Raises:
      ValueError: the words are not single tokens of this tokenizer, or the
        answer is too long.
    """
    # Any question will do; its words have to be in small vocabularies too.
    asked = [{'role': 'user', 'content': answers[0]}]
    encoded = [chat.encode(_said(asked, answer)) for answer in answers]
    rows = [one['tokens'] for one in encoded]
    same = len({len(row) for row in rows}) == 1
    places = np.flatnonzero(np.ptp(np.stack(rows), axis=0)) if same else ()
    ids = tuple(int(row[places[0]]) for row in rows) if len(places) else ()
    if len(places) != 1 or len(set(ids)) != len(LEVELS):
      raise ValueError(
        f'the levels {LEVELS} of {answers[0]!r} are not five single tokens of '
        'this tokenizer, as --config.objective=levels needs them'
      )
    mask = encoded[0]['loss_mask'].copy()
    if mask[:-TAIL].any():
      raise ValueError(f'{answers[0]!r} has more than {TAIL} tokens')
    mask[places[0]] = 0
    others = np.concatenate([np.zeros(TAIL, np.float32), mask])[-TAIL:]
    return cls(ids, len(rows[0]) - 1 - int(places[0]), others)

  def row(self) -> dict[str, np.ndarray]:
    """What a row of a batch says of it."""
    return {
      'level_ids': np.int32(self.ids),
      'level_at': np.int32(self.after),
      'others': self.others,
    }


def _said(messages: Sequence[Any], answer: str) -> list[dict[str, Any]]:
  return [*messages, {'role': 'assistant', 'content': answer}]


def frame_of(made: job.Job) -> Frame:
  """Of the task's answers in the job's tokenizer."""
  return Frame.of(made.chat, [made.task.level_answer(one) for one in LEVELS])


def prepare(config: ConfigDict) -> job.Job:
  """The job.

  Raises:
    ValueError: a task without levels, or a tokenizer without the words.
  """
  made = job.prepare(config)
  if not hasattr(made.task, 'level_answer'):
    raise ValueError(
      f'--config.task={config.task} has no levels: no level_answer; see '
      'experiments/task.py'
    )
  frame_of(made)
  return made


def objective(config: ConfigDict, model: Any) -> Objective:
  """DeQA-Score's loss."""
  return levels.levels(model, loss_chunk=config.loss_chunk)


def shapes(config: ConfigDict, model: Any) -> dict[str, Any]:
  """The global batch of a step."""
  rows = config.batch_size
  batch = job.batch_of(rows, job.row_specs(config, model)[-1])
  del batch['loss_mask']
  array = lambda dtype, *size: jax.ShapeDtypeStruct((rows, *size), dtype)
  numbers = dict.fromkeys(('target', 'std', 'counted'), array(np.float32))
  return batch | numbers | {
    'group': array(np.int32),
    'label': array(np.float32, len(LEVELS)),
    'level_ids': array(np.int32, len(LEVELS)),
    'level_at': array(np.int32),
    'others': array(np.float32, TAIL),
  }  # fmt: skip


def seen(config: ConfigDict, model: Any) -> dict[str, Any]:
  """As of `flops.blocks`: the head sees the answer and the level's place."""
  scored = jax.ShapeDtypeStruct((config.batch_size, TAIL + 1), np.int32)
  return shapes(config, model) | {'scored': scored}


def _arrays(
  encoder: Encoder,
  spec: RowSpec,
  frame: Frame,
  example: Mapping[str, Any],
  answer: str,
) -> dict[str, Any]:
  """A question with an answer as a row of one batch."""
  messages = _said(example['messages'], answer)
  sample = encoder.sample({'images': example['images'], 'messages': messages})
  row = jax.tree.map(lambda array: array[0], left_padded([sample], spec))
  return row | frame.row()


class _Rows(grain.transforms.RandomMap):
  """Row -> arrays of its question, answer and opinion; picklable."""

  def __init__(self, made: job.Job):
    self._task, self._encoder = made.task, made.encoder
    self._spec, self._frame = made.prompt_spec, frame_of(made)

  def random_map(self, row: Any, rng: Any) -> dict[str, Any]:
    asked, opinion = self._task.prompt(row, rng), self._task.opinion(row)
    # The soft label is learnt, whichever word stands there.
    answer = self._task.level_answer(LEVELS[int(np.argmax(opinion.label))])
    found = _arrays(self._encoder, self._spec, self._frame, asked, answer)
    return found | {
      'label': np.float32(opinion.label),
      'target': np.float32(opinion.mean),
      'std': np.float32(opinion.std),
      'group': np.int32(opinion.group),
      'counted': np.float32(1),
    }


def batches(made: job.Job, mesh: jax.sharding.Mesh) -> Any:
  """The iterator of this process's batches."""
  del mesh  # These batches need no device.
  return regression.stream(made, _Rows(made))


def evaluate(
  made: job.Job, params: Any, mesh, *, progress=lambda name, done: None
) -> dict[str, dict[str, Any]]:
  """Reads the score of every question; see `regression.evaluate`."""
  frame, answer = frame_of(made), made.task.level_answer(LEVELS[2])

  def encode(examples):
    rows = [
      _arrays(made.encoder, made.prompt_spec, frame, example, answer)
      for example in examples
    ]
    return jax.tree.map(lambda *arrays: np.stack(arrays), *rows)

  read = levels.reader(made.model)
  return regression.evaluate_with(made, params, mesh, read, encode, progress)
