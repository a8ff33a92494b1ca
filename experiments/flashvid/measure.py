"""What the miniature measures on a trained model; all of it is JSON.

    asked      {set: [[clip, kind], ...]}, the questions of each set
    answered   rows of {set, method, retention, frames, share, right}: `share`
               is the mean share of visual tokens per decoder layer, `right`
               a string of 0 and 1, one for each question of the set
    links      see links.py
    forests    see forests.py

Sets: 'clips', eight frames with needles and cuts; 'long', clips eight times as
long, of which eight frames miss a needle or a scene.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.sources.clips import ClipRows
from data.worlds import clip_questions
from data.worlds.clips import Clip, ClipSettings
from experiments.flashvid import forests, links, reducers
from experiments.flashvid.answering import Answering, Asked

FULL, BLIND = 'full tokens', 'blind'
# Stands for all kinds of questions that full tokens answer above chance.
LEARNED = 'learned'
FRAMES = 8
LONGER = 8
# The same number of tokens per layer from more and more frames.
BUDGET_METHODS = (reducers.FLASHVID, 'VisionZip', 'random')
CLIPS = ClipSettings(frames=(FRAMES, FRAMES))
LONG = ClipSettings(
  frames=(LONGER * FRAMES, LONGER * FRAMES),
  scenes=(2, 6),
  speed=(0.0, 5.0 / LONGER),
  pan=(0.0, 3.0 / LONGER),
  needle=1.0,
  needle_frames=(2, 6),
)
CURVE_SEED, LONG_SEED = 2_000_003, 3_000_017


def measure(model: Any, params: Any, chat: Any, settings: Any) -> dict:
  """Everything, for one trained model.

  Args:
    model: without transforms.
    params: its parameters.
    chat: its tokenizer and template.
    settings: `config.measure`.
  """
  curve = _curve(model, params, chat, settings)
  longer = _fixed_budget(model, params, chat, settings)
  answering = Answering(model, params, chat, FRAMES)
  return {
    'asked': curve.pop('asked') | longer.pop('asked'),
    'answered': curve['answered'] + longer['answered'],
    'links': links.measure(answering, settings.link_clips),
    'forests': forests.measure(answering, settings.pictures),
  }


def _curve(model, params, chat, settings) -> dict[str, Any]:
  """Accuracy of every method at every share."""
  rows = ClipRows(CURVE_SEED, settings.clips, CLIPS)
  clips, asked = questions(rows, settings.questions)
  answering = Answering(model, params, chat, FRAMES)
  visual = answering.encode(pixels_of(clips, FRAMES))
  say = _Report('clips', asked)
  say(FULL, 1.0, FRAMES, 1.0, answering.answers(asked, visual))
  say(BLIND, 0.0, FRAMES, 0.0, answering.answers(asked, None))
  for retention in settings.retentions:
    for name in settings.methods or reducers.METHODS:
      point = _point(answering, visual, asked, name, retention)
      if point is not None:
        say(name, retention, FRAMES, *point)
  return {'asked': {'clips': _kinds(asked)}, 'answered': say.rows}


def _fixed_budget(model, params, chat, settings) -> dict[str, Any]:
  """Accuracy with as many tokens of ever more frames."""
  rows = ClipRows(LONG_SEED, settings.long_clips, LONG)
  clips, asked = questions(rows, settings.questions)
  say = _Report('long', asked)
  for frames in settings.budget_frames:
    answering = Answering(model, params, chat, frames)
    visual = answering.encode(pixels_of(clips, frames))
    if frames == FRAMES:
      say(FULL, 1.0, frames, 1.0, answering.answers(asked, visual))
      continue
    retention = FRAMES / frames
    for name in BUDGET_METHODS:
      point = _point(answering, visual, asked, name, retention)
      say(name, retention, frames, *point)
  return {'asked': {'long': _kinds(asked)}, 'answered': say.rows}


def _point(answering, visual, asked, name, retention):
  """(share, answers) of a method; None where it has no such share."""
  depth = answering.model.config.decoder.depth
  reducer = reducers.make(name, retention, depth, answering.frames)
  if reducer is None:
    return None
  reduced, left = answering.reduce(visual, reducer), answering.left(reducer)
  found = answering.answers(asked, reduced, left)
  return answering.share(reduced, left), found


class _Report:
  """Collects rows of `answered` about one set."""

  def __init__(self, name: str, asked: Sequence[Asked]):
    self._name, self._asked, self.rows = name, asked, []

  def __call__(self, method, retention, frames, share, answers) -> None:
    right = [
      said == entry.question.answer
      for said, entry in zip(answers, self._asked, strict=True)
    ]
    self.rows.append(
      {
        'set': self._name,
        'method': method,
        'retention': retention,
        'frames': frames,
        'share': share,
        'right': ''.join('01'[bit] for bit in right),
      }
    )


def questions(rows: ClipRows, most: int) -> tuple[list[Clip], list[Asked]]:
  """The clips, and at most so many questions about each, of different kinds."""
  clips = [rows[number] for number in range(len(rows))]
  asked = []
  for number, clip in enumerate(clips):
    rng = np.random.default_rng([rows.seed, number, 1])
    found = clip_questions.ask_all(clip, rng)
    chosen = rng.permutation(len(found))[:most]
    asked += [Asked(number, found[place]) for place in chosen]
  return clips, asked


def pixels_of(clips: Sequence[Clip], frames: int) -> np.ndarray:
  """uint8 [C, F, S, S, 3]."""
  return np.stack([clip.render(clip.times(frames))[0] for clip in clips])


def _kinds(asked: Sequence[Asked]) -> list[list[Any]]:
  return [[entry.clip, entry.question.kind] for entry in asked]
