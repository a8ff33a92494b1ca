"""DepthLM in miniature: arms, baselines, tables, sentences.

The quick setting tries one claim (spec 7.3): one common focal length beats
mixing cameras. The thorough one has all comparisons of `comparisons.py`. That
an arrow beats coordinates concerns pre-trained models at a thousand pixels; the
pilot did not see it at this size, and whatever comes out is reported.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.depthlm import answers, comparisons, depthlm, figures, scan
from experiments.depthlm.answers import pooled
from experiments.depthlm.comparisons import ALONE, SIX, WALKED
from experiments.depthlm.task import Task
from experiments.miniature import Arm, Outcome, Summary, Table
from vlm.metrics import bootstrap, depth

TITLE = 'DepthLM: metric depth as plain text'
CLAIM = (
  'A small VLM learns metric distance by next-token prediction alone, if every '
  'image is first rescaled to one focal length. Miniature: rendered rooms, '
  '48 x 48 pixels, half a million parameters from scratch. Not comparable with '
  'published numbers.'
)
ROOMS = ('unseen rooms', 'wider lenses', 'longer lenses')
WALKS = 'unseen walks'
# Of the thorough setting: delta1 on unseen rooms, and what other lenses cost.
GOAL, LOSS = 0.85, 0.05
SCANNED = 3


def arms(seeds: int, thorough: bool) -> list[Arm]:
  """Every arm with every seed, the one that pictures show first."""
  found = [
    Arm(
      name,
      seed,
      depthlm.get_config(f'tiny,{options},seed={seed}'),
      comparisons.STARTS.get(name, ''),
    )
    for seed in range(seeds)
    for name, options in comparisons.options(thorough).items()
  ]
  found[0].config.rooms.scanned = SCANNED
  return found


def prepare(arms: Sequence[Arm]) -> None:
  """Renders the rooms, each once, whichever arms share them."""
  for rooms, arm in {str(arm.config.rooms): arm for arm in arms}.items():
    del rooms
    task = Task(arm.config)
    task.train_rows()
    task.eval_sets()


def summarise(outcomes: Sequence[Outcome]) -> Summary:
  """Scores with intervals, baselines that see no picture, and pictures."""
  task = Task(outcomes[0].arm.config)
  walked = [o for o in outcomes if o.arm.name in WALKED]
  shown = [o for o in outcomes if o.arm.name not in WALKED]
  names = [name for name in shown[0].sets if name != scan.SCANNED]
  baselines = _baselines(task, shown[0], names)
  tables = [_table(shown, baselines, name) for name in names]
  differences = _differences(shown)
  if len(shown) > len({o.arm.seed for o in shown}) * len(comparisons.QUICK):
    tables.append(_difference_table(differences))
  if walked:
    tables.append(_task_table(walked))
  return Summary(
    TITLE,
    CLAIM,
    tables,
    figures.draw(task, shown, baselines, differences),
    _findings(differences) + _goal(shown) + _together(walked),
  )


def _baselines(
  task: Task, outcome: Outcome, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
  """{set: {baseline: answers [N]}} from the training labels alone."""
  (rows,), _ = task.train_rows()
  train = [
    task.training_query(rows[number], np.random.default_rng(number))
    for number in range(min(len(rows), 4000))
  ]
  train = [query for query in train if query is not None]
  pixels = [query['pixel'] for query in train]
  labels = [query['depth'] for query in train]
  constant = depth.constant_prior(labels)
  found = {}
  for name in names:
    asked = [record['pixel'] for record in outcome.sets[name]['records']]
    found[name] = {
      'constant (median)': np.full(len(asked), constant),
      'location only': depth.location_prior(pixels, labels, asked),
    }
  return found


def _table(outcomes, baselines, name: str) -> Table:
  header = ['arm', 'delta1', 'delta1 hard', 'AbsRel', 'parse failures', 'n']
  hard_if = baselines[name]['location only']
  rows = []
  for arm in dict.fromkeys(outcome.arm.name for outcome in outcomes):
    found = pooled(outcomes, arm, name)
    seeds = len(found.truth) // len(hard_if)
    rows.append([arm, *_cells(found, np.tile(hard_if, seeds))])
  blind = pooled(outcomes[:1], outcomes[0].arm.name, name)
  for baseline, said in baselines[name].items():
    rows.append([baseline, *_cells(blind._replace(said=said), hard_if)])
  title = name if seeds == 1 else f'{name}, {seeds} seeds'
  return Table(title, header, rows)


def _cells(found: answers.Answers, location: np.ndarray) -> list[str]:
  correct = found.correct
  parsed = np.isfinite(found.said)
  error = np.abs(found.said - found.truth)[parsed] / found.truth[parsed]
  hard = depth.hard_subset(location, found.truth)
  images = found.images
  return [
    _interval(correct, images),
    _interval(correct[hard], images[hard]) if hard.any() else '-',
    _interval(error, images[parsed]) if parsed.any() else '-',
    str(int((~parsed).sum())),
    str(len(found.truth)),
  ]


def _interval(values, images) -> str:
  return _said(bootstrap.interval(values, images))


def _said(interval, sign: str = '') -> str:
  mean, low, high = interval
  return f'{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]'


def _differences(outcomes) -> list[dict[str, Any]]:
  """delta1 of every reference minus that of its rivals, paired, by set."""
  present = {outcome.arm.name for outcome in outcomes}
  sets = [name for name in outcomes[0].sets if name != scan.SCANNED]
  return [
    {
      'asked': asked,
      'reference': reference,
      'rival': rival,
      'sets': {
        name: _paired(outcomes, reference, rival, name) for name in sets
      },
    }
    for asked, reference, rivals in comparisons.DIFFERENCES
    for rival in rivals
    if {reference, rival} <= present
  ]


def _paired(outcomes, reference: str, rival: str, name: str):
  one, other = (pooled(outcomes, arm, name) for arm in (reference, rival))
  return bootstrap.paired_difference(one.correct, other.correct, one.images)


def _difference_table(differences) -> Table:
  sets = list(differences[0]['sets'])
  rows = [
    [
      d['asked'],
      f'{d["reference"]} - {d["rival"]}',
      *(_said(d['sets'][name], '+') for name in sets),
    ]
    for d in differences
  ]
  title = f'Paired differences of delta1, {comparisons.STEPS} steps an arm'
  return Table(title, ['question', 'difference', *sets], rows)


def _task_table(walked: Sequence[Outcome]) -> Table:
  """delta1 of every task, of the model of six and of the one of distance."""
  tasks = list(
    dict.fromkeys(
      record['task']
      for outcome in walked
      for name in (*ROOMS[:1], WALKS)
      for record in outcome.sets.get(name, {'records': ()})['records']
    )
  )
  rows = []
  for task in tasks:
    cells = [task]
    for arm in (SIX, ALONE):
      name = WALKS if task == 'pose' else ROOMS[0]
      found = pooled(walked, arm, name, task)
      cells.append(
        _interval(found.correct, found.images) if len(found.truth) else '-'
      )
    rows.append(cells)
  title = f'Six tasks, delta1, {comparisons.STEPS} steps'
  return Table(title, ['task', SIX, ALONE], rows)


def _findings(differences) -> list[str]:
  """What the paired differences say, also when they say no."""
  found = []
  for d in differences:
    for name in ROOMS:
      mean, low, high = d['sets'][name]
      found.append(
        f'{name}: "{d["reference"]}" {_verdict(low, high)} "{d["rival"]}": '
        f'{mean:+.3f} delta1 [{low:+.3f}, {high:+.3f}].'
      )
  return found


def _verdict(low: float, high: float) -> str:
  if low > 0:
    return 'is better than'
  return 'is worse than' if high < 0 else 'cannot be told from'


def _goal(outcomes) -> list[str]:
  """Whether the longer method is as good as it should be."""
  if outcomes[0].arm.name != comparisons.LONGER:
    return []
  rooms, *others = (
    pooled(outcomes, comparisons.LONGER, name).correct.mean() for name in ROOMS
  )
  lost = ', '.join(
    f'{rooms - value:+.3f} on {name}' for name, value in zip(ROOMS[1:], others)
  )
  reached = 'reached' if rooms >= GOAL else 'missed'
  kept = all(rooms - value < LOSS for value in others)
  return [
    f'"{comparisons.LONGER}": delta1 {rooms:.3f} on unseen rooms; the goal of '
    f'{GOAL} was {reached}.',
    f'Unseen lenses cost it {lost}; less than {LOSS} was '
    f'{"reached" if kept else "missed"}.',
  ]


def _together(walked: Sequence[Outcome]) -> list[str]:
  """What asking for six quantities does to the distance."""
  if not walked:
    return []
  six, alone = (
    pooled(walked, arm, ROOMS[0], 'distance') for arm in (SIX, ALONE)
  )
  mean, low, high = bootstrap.paired_difference(
    six.correct, alone.correct, six.images
  )
  return [
    f'After as many steps the model of six tasks {_verdict(low, high)} the one '
    f'of distance alone at the distance: {mean:+.3f} delta1 [{low:+.3f}, '
    f'{high:+.3f}]; it was asked for it a sixth as often.'
  ]
