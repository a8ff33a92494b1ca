"""FlashVID in miniature: one training run per seed, many ways to see less.

The model is trained on full tokens alone. What is compared afterwards, on the
same clips and questions: FlashVID, its parts, and its peers, at equal visual
tokens per decoder layer; and more frames for the same number of tokens.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from data.worlds import clip_questions
from experiments.flashvid import figures, flashvid, footage, measure, reducers
from experiments.miniature import Arm, Outcome, Summary, Table
from vlm.metrics import bootstrap

TITLE = 'FlashVID: fewer video tokens without training'
CLAIM = (
  'A tenth of the visual tokens answers nearly as well, if tokens are picked '
  'by attention and diversity and the rest is merged along trees of best '
  'matches. Miniature: procedural clips of 8 frames of 64 tokens, one-word '
  'answers, three quarters of a million parameters from scratch on full '
  'tokens. Not comparable with published numbers.'
)
# Against which the method is held, question by question.
RIVALS = (
  'random',
  'VisionZip',
  'ADTS only',
  'diversity only',
  'TSTM only',
  'ADTS + TTM',
  'FlashVID, sums over children',
)


def arms(seeds: int, thorough: bool) -> list[Arm]:
  """One run per seed; thorough asks more questions at more shares."""
  size = 'tiny,thorough=True' if thorough else 'tiny'
  return [
    Arm('full tokens', seed, flashvid.get_config(f'{size},seed={seed}'))
    for seed in range(seeds)
  ]


def prepare(arms: Sequence[Arm]) -> None:
  """Clips are drawn when they are read: nothing to make."""


def summarise(outcomes: Sequence[Outcome]) -> Summary:
  """Tables of accuracy, paired differences, and pictures."""
  answers = Answers([outcome.measured for outcome in outcomes])
  methods = outcomes[0].arm.config.measure.methods or tuple(reducers.METHODS)
  return Summary(
    TITLE,
    CLAIM,
    [
      _kinds(answers),
      _curve(answers, methods),
      _differences(answers),
      _budget(answers),
      _links(outcomes),
    ],
    [*figures.draw(answers, outcomes), *footage.pictures()],
    _findings(answers, outcomes),
  )


class Answers:
  """Right and wrong answers of all seeds, on the same questions.

  Args:
    measured: what `measure.measure` returned, per seed.
  """

  def __init__(self, measured: Sequence[dict[str, Any]]):
    self.asked = measured[0]['asked']
    self._right, self.share = {}, {}
    for one in measured:
      for row in one['answered']:
        key = row['set'], row['method'], row['retention'], row['frames']
        bits = np.frombuffer(row['right'].encode(), np.uint8) - ord('0')
        self._right.setdefault(key, []).append(bits.astype(float))
        self.share.setdefault(key, []).append(row['share'])

  def points(self, name: str) -> list[tuple]:
    """(set, method, retention, frames) of a set, in order."""
    return [key for key in self._right if key[0] == name]

  def right(self, key: tuple, kind: str = '') -> tuple[np.ndarray, np.ndarray]:
    """(right, clip) of every answer of all seeds, to one kind or to all."""
    clips, kinds = map(np.array, zip(*self.asked[key[0]], strict=True))
    seeds = self._right[key]
    here = kinds == kind if kind else np.ones(len(kinds), bool)
    if kind == measure.LEARNED:
      here = np.isin(kinds, self.learned)
    right = np.concatenate([bits[here] for bits in seeds])
    return right, np.tile(clips[here], len(seeds))

  @functools.cached_property
  def learned(self) -> list[str]:
    """Kinds on which full tokens are above chance; all if there are none."""
    above = lambda kind: (
      self.accuracy(FULL_POINT, kind).low > self.chance('clips', kind)
    )
    kinds = list(clip_questions.KINDS)
    return [kind for kind in kinds if above(kind)] or kinds

  def accuracy(self, key: tuple, kind: str = '') -> bootstrap.Interval:
    """Mean over all questions with its interval over clips."""
    return bootstrap.interval(*self.right(key, kind))

  def difference(
    self, key: tuple, other: tuple, half: int | None = None
  ) -> bootstrap.Interval:
    """Accuracy at `key` minus that at `other` on learned kinds, paired.

    Args:
      key: of a method.
      other: of another.
      half: 0 or 1, only clips of even or of odd numbers.
    """
    (right, clips), (rival, _) = (
      self.right(k, measure.LEARNED) for k in (key, other)
    )
    here = np.ones(len(clips), bool) if half is None else clips % 2 == half
    return bootstrap.paired_difference(right[here], rival[here], clips[here])

  def chance(self, name: str, kind: str = '') -> float:
    """Of guessing among the answers that a question leaves open."""
    kinds = [k for _, k in self.asked[name] if not kind or k == kind]
    return float(np.mean([clip_questions.CHANCE[k] for k in kinds]))

  def met(self, methods: Sequence[str], retention: float) -> list[str]:
    """Those of the methods that were tried at a share."""
    return [name for name in methods if point(name, retention) in self.share]

  @property
  def retentions(self) -> list[float]:
    """Shares below 1 of the set 'clips', the largest first."""
    found = {key[2] for key in self.points('clips')}
    return sorted(found - {0.0, 1.0}, reverse=True)


FULL_POINT = 'clips', measure.FULL, 1.0, measure.FRAMES
BLIND_POINT = 'clips', measure.BLIND, 0.0, measure.FRAMES


def point(method: str, retention: float) -> tuple:
  """The key of a method at a share of the set 'clips'."""
  return 'clips', method, retention, measure.FRAMES


def _kinds(answers: Answers) -> Table:
  """What the model can do at all, by kind of question."""
  kinds = ['', *clip_questions.KINDS]
  rows = []
  for title, key in (
    (measure.FULL, FULL_POINT),
    (
      f'{reducers.FLASHVID}, {answers.retentions[-1]:.0%}',
      point(reducers.FLASHVID, answers.retentions[-1]),
    ),
    (measure.BLIND, BLIND_POINT),
  ):
    rows.append([title, *(_interval(answers.accuracy(key, k)) for k in kinds)])
  rows.append(['chance', *(f'{answers.chance("clips", k):.3f}' for k in kinds)])
  counted = [str(len(answers.right(FULL_POINT, kind)[0])) for kind in kinds]
  rows.append(['questions', *counted])
  return Table(
    'Accuracy by kind of question',
    ['tokens', 'all', *clip_questions.KINDS],
    rows,
  )


def _curve(answers: Answers, methods: Sequence[str]) -> Table:
  """Accuracy (tokens per layer, %) of every method at every share."""
  rows = [
    [measure.FULL, *[_interval(answers.accuracy(FULL_POINT, measure.LEARNED))]]
  ]
  rows[0] += [''] * (len(answers.retentions) - 1)
  for method in methods:
    keys = [point(method, share) for share in answers.retentions]
    rows.append([method, *(_cell(answers, key) for key in keys)])
  blind = _interval(answers.accuracy(BLIND_POINT, measure.LEARNED))
  rows.append([measure.BLIND, blind, *[''] * (len(answers.retentions) - 1)])
  header = ['method', *(f'R = {share:.3f}' for share in answers.retentions)]
  return Table(
    f'Accuracy on {", ".join(answers.learned)} at equal cost (in brackets: '
    'measured tokens per layer, %)',
    header,
    rows,
  )


def _cell(answers: Answers, key: tuple) -> str:
  if key not in answers.share:
    return '-'
  share = 100 * np.mean(answers.share[key])
  return f'{answers.accuracy(key, measure.LEARNED).mean:.3f} ({share:.1f})'


def _differences(answers: Answers) -> Table:
  shares = answers.retentions
  rows = []
  for rival in answers.met(RIVALS, shares[-1]):
    pairs = [(point(reducers.FLASHVID, r), point(rival, r)) for r in shares]
    found = [answers.difference(*pair) for pair in pairs]
    rows.append([rival, *(_interval(one, signed=True) for one in found)])
  header = ['FlashVID minus', *(f'R = {share:.3f}' for share in shares)]
  return Table('Paired differences of these accuracies', header, rows)


def _budget(answers: Answers) -> Table:
  """The same number of tokens from more and more frames."""
  frames = sorted({key[3] for key in answers.points('long')})
  rows = []
  for method in (measure.FULL, *measure.BUDGET_METHODS):
    cells = []
    for count in frames:
      key = 'long', method, measure.FRAMES / count, count
      cells.append(
        _interval(answers.accuracy(key, measure.LEARNED))
        if key in answers.share
        else ''
      )
    rows.append([method, *cells])
  return Table(
    'The same number of tokens from more frames of long clips',
    ['method', *(f'{count} frames' for count in frames)],
    rows,
  )


def link_means(outcomes: Sequence[Outcome]) -> dict[tuple, tuple]:
  """{(tokens, kind, speed): (cosine, links)}, means over seeds."""
  found = {}
  for outcome in outcomes:
    for row in outcome.measured['links']:
      key = row['tokens'], row['kind'], row['speed']
      found.setdefault(key, []).append((row['cosine'], row['links']))
  return {key: tuple(np.mean(pairs, axis=0)) for key, pairs in found.items()}


def _links(outcomes: Sequence[Outcome]) -> Table:
  means = link_means(outcomes)
  rows = [
    [tokens, kind, f'{speed:g}', f'{cosine:.3f}', f'{links:.3f}']
    for (tokens, kind, speed), (cosine, links) in means.items()
  ]
  return Table(
    'Links to the frame before, without any question',
    ['tokens', 'matching', 'pixels per frame', 'mean cosine', 'linked share'],
    rows,
  )


def _interval(found: bootstrap.Interval, signed: bool = False) -> str:
  form = '+.3f' if signed else '.3f'
  mean, low, high = (format(value, form) for value in found)
  return f'{mean} [{low}, {high}]'


def _findings(answers: Answers, outcomes: Sequence[Outcome]) -> list[str]:
  """What the numbers say, also where they do not say what was claimed."""
  found = [_seen(answers)]
  for share in answers.retentions:
    own = point(reducers.FLASHVID, share)
    right, full = (
      answers.accuracy(key, measure.LEARNED).mean for key in (own, FULL_POINT)
    )
    sentence = (
      f'At R = {share:.3f} FlashVID is right on {right:.1%} of the questions '
      f'of these kinds, full tokens on {full:.1%}.'
    )
    for rival in answers.met(RIVALS, share):
      difference = answers.difference(own, point(rival, share))
      sentence += (
        f' It {_verdict(difference)} "{rival}" ({difference.mean:+.3f}).'
      )
    found.append(sentence)
  return [
    *found,
    *_best(answers),
    _budget_finding(answers),
    _link_finding(outcomes),
  ]


def _verdict(difference: bootstrap.Interval) -> str:
  if difference.low > 0:
    return 'is better than'
  return 'is worse than' if difference.high < 0 else 'cannot be told from'


def _seen(answers: Answers) -> str:
  """Whether full tokens are above chance on every kind, which all rests on."""
  weak = [
    kind
    for kind in clip_questions.KINDS
    if answers.accuracy(FULL_POINT, kind).low <= answers.chance('clips', kind)
  ]
  if weak:
    return (
      'On full tokens the model is not above chance on '
      f'{", ".join(weak)}; what follows is about '
      f'{", ".join(answers.learned)}.'
    )
  return 'On full tokens the model is above chance on every kind of question.'


def _best(answers: Answers) -> list[str]:
  """Which peer did best at each share, and how FlashVID compares."""
  found = []
  for share in answers.retentions:
    own = point(reducers.FLASHVID, share)
    behind = {
      name: answers.difference(own, point(name, share), half=0).mean
      for name in answers.met(reducers.PEERS, share)
    }
    best = min(behind, key=behind.get)
    difference = answers.difference(own, point(best, share), half=1)
    found.append(
      f'At R = {share:.3f} the best of the peers on one half of the clips is '
      f'"{best}"; on the other half FlashVID {_verdict(difference)} it '
      f'({_interval(difference, signed=True)}).'
    )
  return found


def _budget_finding(answers: Answers) -> str:
  most = max(key[3] for key in answers.points('long'))
  full = 'long', measure.FULL, 1.0, measure.FRAMES
  parts = []
  for method in measure.BUDGET_METHODS:
    key = 'long', method, measure.FRAMES / most, most
    difference = answers.difference(key, full)
    parts.append(f'{method} {_interval(difference, signed=True)}')
  return (
    f'{most} frames instead of {measure.FRAMES}, at the same number of tokens, '
    f'change accuracy by: {"; ".join(parts)}. What a random choice changes '
    'owes nothing to how tokens are picked.'
  )


def _link_finding(outcomes: Sequence[Outcome]) -> str:
  means = link_means(outcomes)
  tokens = 'patch colours'
  speeds = sorted({key[2] for key in means})
  gaps = [
    means[tokens, 'TSTM', speed][0] - means[tokens, 'TTM', speed][0]
    for speed in speeds
  ]
  grows = abs(gaps[0]) < 1e-6 and all(np.diff(gaps) >= 0) and gaps[-1] > 0
  verdict = (
    'grows with motion' if grows else 'does not grow steadily with motion'
  )
  listed = ', '.join(
    f'{gap:.3f} at {speed:g}' for gap, speed in zip(gaps, speeds, strict=True)
  )
  return (
    'The cosine that best matches have over matches at the same place '
    f'{verdict} (patch colours; pixels per frame): {listed}.'
  )
