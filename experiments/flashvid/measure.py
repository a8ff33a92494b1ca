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

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from data.sources.clips import ClipRows
from data.worlds import clip_questions
from data.worlds.clips import Clip, ClipSettings
from experiments.flashvid import forests, links, reducers
from experiments.flashvid.answering import Answering, Asked
from experiments.journal import NAME, Journal

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


def measure(
  model: Any, params: Any, chat: Any, settings: Any, folder: epath.PathLike
) -> dict:
  """Everything, for one trained model; killed, it goes on with the next point.

  Args:
    model: without transforms.
    params: its parameters.
    chat: its tokenizer and template.
    settings: `config.measure`.
    folder: of the run, where the points found so far are kept.
  """
  points = _curve_points(settings), _budget_points(settings)
  journal = Journal(epath.Path(folder) / NAME, sum(map(len, points)))
  curve = _curve(model, params, chat, settings, points[0], journal)
  longer = _fixed_budget(model, params, chat, settings, points[1], journal)
  answering = Answering(model, params, chat, FRAMES)
  return {
    'asked': curve.pop('asked') | longer.pop('asked'),
    'answered': curve['answered'] + longer['answered'],
    'links': links.measure(answering, settings.link_clips),
    'forests': forests.measure(answering, settings.pictures),
  }


def _curve_points(settings) -> list[tuple[str, float, int]]:
  """(method, share, frames) of the set 'clips'."""
  methods = settings.methods or reducers.METHODS
  shares = [(name, r) for r in settings.retentions for name in methods]
  return [(*one, FRAMES) for one in ((FULL, 1.0), (BLIND, 0.0), *shares)]


def _budget_points(settings) -> list[tuple[str, float, int]]:
  """(method, share, frames) of the set 'long': equally many tokens."""
  return [
    (name, FRAMES / frames, frames)
    for frames in settings.budget_frames
    for name in ((FULL,) if frames == FRAMES else BUDGET_METHODS)
  ]


def _curve(model, params, chat, settings, points, journal) -> dict[str, Any]:
  """Accuracy of every method at every share."""
  rows = ClipRows(CURVE_SEED, settings.clips, CLIPS)
  clips, asked = questions(rows, settings.questions)
  answering = Answering(model, params, chat, FRAMES)
  visual = answering.encode(pixels_of(clips, FRAMES))
  find = functools.partial(_point, answering, visual, asked)
  found = [
    journal.value(('clips', *point), functools.partial(find, *point[:2]))
    for point in points
  ]
  return _described('clips', asked, points, found)


def _fixed_budget(
  model, params, chat, settings, points, journal
) -> dict[str, Any]:
  """Accuracy with as many tokens of ever more frames."""
  rows = ClipRows(LONG_SEED, settings.long_clips, LONG)
  clips, asked = questions(rows, settings.questions)

  @functools.lru_cache(1)
  def seen(frames):
    answering = Answering(model, params, chat, frames)
    return answering, answering.encode(pixels_of(clips, frames))

  find = lambda name, share, frames: _point(*seen(frames), asked, name, share)
  found = [
    journal.value(('long', *point), functools.partial(find, *point))
    for point in points
  ]
  return _described('long', asked, points, found)


def _point(answering, visual, asked, name, retention) -> list | None:
  """[share, right] of a method; None where it has no such share."""
  if name == BLIND:
    return [0.0, _right(asked, answering.answers(asked, None))]
  if name == FULL:
    return [1.0, _right(asked, answering.answers(asked, visual))]
  depth = answering.model.config.decoder.depth
  reducer = reducers.make(name, retention, depth, answering.frames)
  if reducer is None:
    return None
  reduced, left = answering.reduce(visual, reducer), answering.left(reducer)
  found = answering.answers(asked, reduced, left)
  return [answering.share(reduced, left), _right(asked, found)]


def _right(asked: Sequence[Asked], answers: Sequence[str]) -> str:
  """A 1 for every right answer, a 0 for every other."""
  pairs = zip(answers, asked, strict=True)
  return ''.join('01'[said == entry.question.answer] for said, entry in pairs)


def _described(name: str, asked, points, found) -> dict[str, Any]:
  """A set's questions and its rows of `answered`."""
  rows = [
    {
      'set': name,
      'method': method,
      'retention': retention,
      'frames': frames,
      'share': value[0],
      'right': value[1],
    }
    for (method, retention, frames), value in zip(points, found, strict=True)
    if value is not None
  ]
  return {'asked': {name: _kinds(asked)}, 'answered': rows}


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
