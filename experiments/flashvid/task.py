"""Questions about procedural clips as a task."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data.chat import Chat, char_tokenizer
from data.sources.clips import ClipRows
from data.worlds import clip_questions
from data.worlds.clip_questions import Question
from data.worlds.clips import Clip, ClipSettings
from experiments.flashvid import measure
from vlm.metrics import bootstrap

ROUNDS = 4  # of a question of every kind, about a training clip
TRAIN_SEED, EVAL_SEED = 0, 1_000_003  # other seed, other clips
TEMPLATE = (
  '{% for m in messages %}'
  "{% if m.role == 'assistant' %}{% generation %}{{ m.content[0].text }}<end>"
  '{% endgeneration %}{% else %}{% for part in m.content %}'
  "{{ '<video>' if part.type == 'video' else part.text }}"
  '{% endfor %}<sep>{% endif %}{% endfor %}'
)


class Task:
  """See experiments/task.py.

  Args:
    config: with the section `clips`.
  """

  def __init__(self, config: Any):
    self._config = config
    self.skipped = Counter()

  def chat(self) -> Chat:
    """A tokenizer of the questions' pieces."""
    tokenizer = char_tokenizer(
      clip_questions.PIECES, ('<pad>', '<end>', '<sep>', '<image>', '<video>')
    )
    return Chat(
      tokenizer.to_str(),
      TEMPLATE,
      {'image': '<image>', 'video': '<video>'},
      {'eos_token': '<end>'},
    )

  def train_rows(self) -> tuple[list[Any], tuple[float, float] | None]:
    """Clips that are drawn when they are read, and single frames."""
    world = self._config.clips
    rows = ClipRows(TRAIN_SEED, world.train_clips, self.settings())
    if not world.read_out_share:
      return [rows], None
    frame = ClipSettings(frames=(1, 1), scenes=(1, 1))
    frames = ClipRows(TRAIN_SEED, world.train_clips, frame)
    return [rows, frames], (1 - world.read_out_share, world.read_out_share)

  def settings(self) -> ClipSettings:
    """What the clips are like."""
    return ClipSettings(frames=tuple(self._config.clips.frames))

  def example(self, row: Clip, rng: np.random.Generator) -> dict[str, Any]:
    """A clip with several questions, one after the other.

    A few clips are shown at twice their rate, so that the model has met more
    frames than most clips have. A single frame is read out instead.
    """
    if row.frames == 1:
      pixels, owner = row.render(row.times())
      vision = self._config.model.vision
      side = vision.image_size // vision.patch
      told = clip_questions.read_out(row, owner[0], side)
      return _conversation(pixels, [told])
    dense = rng.random() < self._config.clips.dense_share
    pixels, _ = row.render(row.times(16 if dense else None))
    # Asked twice, a question would be answered from its first answer.
    asked = {}
    for _ in range(ROUNDS):
      for question in clip_questions.ask_all(row, rng):
        asked[question.text] = question
    asked = list(asked.values())
    order = rng.permutation(len(asked))[: self._config.clips.questions]
    return _conversation(pixels, [asked[number] for number in order])

  def eval_sets(self) -> dict[str, Sequence[Clip]]:
    """Unseen clips."""
    count = self._config.clips.eval_clips
    return {'unseen clips': ClipRows(EVAL_SEED, count, self.settings())}

  def queries(self, rows: Sequence[Clip]) -> Iterator[dict[str, Any]]:
    """Clip by clip, one question of every kind that can be asked."""
    for number in range(len(rows)):
      clip = rows[number]
      pixels, _ = clip.render(clip.times())
      rng = np.random.default_rng([EVAL_SEED, number])
      for question in clip_questions.ask_all(clip, rng):
        yield {
          'images': [list(pixels)],
          'messages': [_turn(question, shown=True)],
          'record': {
            'clip': number,
            'kind': question.kind,
            'question': question.text,
            'answer': question.answer,
          },
        }

  def score(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy of all questions and of each kind, intervals over clips."""
    right = np.array([row['prediction'] == row['answer'] for row in rows])
    clip = np.array([row['clip'] for row in rows])
    kind = np.array([row['kind'] for row in rows])
    out = {'accuracy': list(bootstrap.interval(right, clip))}
    for name in clip_questions.KINDS:
      here = kind == name
      if here.any():
        out[name] = list(bootstrap.interval(right[here], clip[here]))
    return out

  def measure(self, job: Any, params: Any) -> dict[str, Any]:
    """Everything that the report shows; see measure.py."""
    return measure.measure(job.model, params, job.chat, self._config.measure)


def _conversation(pixels: Any, asked: Sequence[Question]) -> dict[str, Any]:
  """An example that asks and answers one question after the other."""
  messages = []
  for question in asked:
    messages.append(_turn(question, shown=not messages))
    messages.append({'role': 'assistant', 'content': question.answer})
  return {'images': [list(pixels)], 'messages': messages}


def _turn(question: Question, shown: bool) -> dict[str, Any]:
  """The user's turn; the first of a conversation shows the clip."""
  text = {'type': 'text', 'text': question.text}
  video = [{'type': 'video'}] if shown else []
  return {'role': 'user', 'content': [*video, text]}
