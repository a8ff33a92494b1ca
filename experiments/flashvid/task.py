"""Questions about procedural clips as a task."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data.chat import Chat, char_tokenizer
from data.sources.clips import ClipRows, Lessons
from data.worlds import clip_questions
from data.worlds.clip_questions import Question
from data.worlds.clips import Clip, ClipSettings
from experiments.flashvid import measure
from vlm.metrics import bootstrap

NEEDLE_SHARE = 0.8  # of training clips; of half of those that are tested
EXISTS_SHARE = 0.35  # of training clips, asked what there is and what not
# How often each kind is asked about a training clip, at most.
EXISTS = {'exists': 8, 'count': 1, 'needle': 1}
OTHERS = {'colour': 6, 'count': 1, 'needle': 1}
AFTERWARDS = {'motion': 4, 'order': 3}
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

  def train_rows(self) -> tuple[list[Any], None]:
    """Clips that are drawn when they are read: stills, then longer ones."""
    world = self._config.clips
    settings = (
      ClipSettings(frames=(1, 1), scenes=(1, 1), needle=NEEDLE_SHARE),
      *(
        ClipSettings(frames=(count, count), needle=NEEDLE_SHARE)
        for count in world.frames
      ),
    )
    rows = Lessons(
      TRAIN_SEED,
      world.train_clips,
      settings,
      tuple(world.first),
      tuple(world.then),
      world.warmup,
    )
    return [rows], None

  def settings(self) -> ClipSettings:
    """What the clips are like that are tested."""
    longest = max(self._config.clips.frames)
    return ClipSettings(frames=(longest, longest))

  def example(self, row: Clip, rng: np.random.Generator) -> dict[str, Any]:
    """A clip with several questions, one after the other."""
    pixels, _ = row.render(row.times())
    return _conversation(pixels, asked_together(row, rng))

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
    return measure.measure(
      job.model,
      params,
      job.chat,
      self._config.measure,
      self._config.workdir,
    )


def asked_together(clip: Clip, rng: np.random.Generator) -> list[Question]:
  """Questions about a clip of which none answers a later one.

  "Which way goes the red circle" says that there is one, and a model that is
  asked both learns to read questions rather than clips. So what there is is
  asked alone, and colours before objects are called by them.
  """
  exists = rng.random() < EXISTS_SHARE
  stages = [EXISTS] if exists else [OTHERS, AFTERWARDS]
  asked = []
  for stage in stages:
    for kind in rng.permutation(list(stage)):
      asked += clip_questions.ask_many(clip, kind, stage[kind], rng)
  return asked


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
