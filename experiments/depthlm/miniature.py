"""DepthLM in miniature: arms, baselines, table, sentences.

The claim tried here (spec 7.3): one common focal length beats mixing cameras.
The other claim, that an arrow beats coordinates, concerns pre-trained models at
a thousand pixels; the pilot did not see it at this size, and whatever comes out
is reported.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.depthlm import depthlm, figures
from experiments.depthlm.task import Task
from experiments.miniature import Arm, Outcome, Summary, Table
from vlm.methods.depthlm import text
from vlm.metrics import bootstrap, depth

TITLE = 'DepthLM: metric depth as plain text'
CLAIM = (
  'A small VLM learns metric distance by next-token prediction alone, if every '
  'image is first rescaled to one focal length. Miniature: rendered rooms, '
  '48 x 48 pixels, half a million parameters from scratch. Not comparable with '
  'published numbers.'
)
NAMES = {
  'marker': 'arrow + one focal length',
  'coordinates': 'coordinates + one focal length',
  'mixed': 'arrow, cameras mixed',
}


def arms(seeds: int, thorough: bool) -> list[Arm]:
  """Every arm with every seed; thorough asks for nothing but its seeds."""
  del thorough
  return [
    Arm(name, seed, depthlm.get_config(f'tiny,arm={arm},seed={seed}'))
    for seed in range(seeds)
    for arm, name in NAMES.items()
  ]


def prepare(arms: Sequence[Arm]) -> None:
  """Renders the rooms, which all arms share."""
  task = Task(arms[0].config)
  task.train_rows()
  task.eval_sets()


def summarise(outcomes: Sequence[Outcome]) -> Summary:
  """Scores with intervals, baselines that see no picture, and pictures."""
  task = Task(outcomes[0].arm.config)
  baselines = _baselines(task, outcomes[0])
  return Summary(
    TITLE,
    CLAIM,
    [_table(outcomes, baselines, name) for name in outcomes[0].sets],
    figures.draw(task, outcomes, baselines),
    _findings(outcomes),
  )


def _baselines(task: Task, outcome: Outcome) -> dict[str, dict[str, Any]]:
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
  for name, result in outcome.sets.items():
    asked = [record['pixel'] for record in result['records']]
    found[name] = {
      'constant (median)': np.full(len(asked), constant),
      'location only': depth.location_prior(pixels, labels, asked),
    }
  return found


def predictions(result: dict[str, Any]) -> np.ndarray:
  """Metres [N] of a set's answers, NaN where none was given."""
  return depth.as_array(
    [text.parse_metres(row['prediction']) for row in result['records']]
  )


def _table(outcomes, baselines, name: str) -> Table:
  header = ['arm', 'delta1', 'delta1 hard', 'AbsRel', 'parse failures', 'n']
  hard_if = baselines[name]['location only']
  rows = []
  for arm in dict.fromkeys(outcome.arm.name for outcome in outcomes):
    seeds = [o.sets[name] for o in outcomes if o.arm.name == arm]
    answers = np.concatenate([predictions(result) for result in seeds])
    records = [record for result in seeds for record in result['records']]
    repeated = np.tile(hard_if, len(seeds))
    rows.append([arm, *_cells(answers, records, repeated)])
  records = outcomes[0].sets[name]['records']
  for baseline, answers in baselines[name].items():
    rows.append([baseline, *_cells(answers, records, hard_if)])
  title = name if len(seeds) == 1 else f'{name}, {len(seeds)} seeds'
  return Table(title, header, rows)


def _cells(answers, records, location) -> list[str]:
  truth = np.array([record['depth'] for record in records])
  images = np.array([record['image'] for record in records])
  if len(set(images)) == 1:  # a single photograph: over its pixels
    images = np.array([record['label'] for record in records])
  correct = depth.within(answers, truth).astype(float)
  parsed = np.isfinite(answers)
  error = np.abs(answers - truth)[parsed] / truth[parsed]
  hard = depth.hard_subset(location, truth)
  return [
    _interval(correct, images),
    _interval(correct[hard], images[hard]) if hard.any() else '-',
    _interval(error, images[parsed]) if parsed.any() else '-',
    str(int((~parsed).sum())),
    str(len(truth)),
  ]


def _interval(values, images) -> str:
  mean, low, high = bootstrap.interval(values, images)
  return f'{mean:.3f} [{low:.3f}, {high:.3f}]'


def _findings(outcomes) -> list[str]:
  """What the paired differences say, also when they say no."""
  found = []
  for name in outcomes[0].sets:
    method = _correct(outcomes, NAMES['marker'], name)
    for other in ('mixed', 'coordinates'):
      rival = _correct(outcomes, NAMES[other], name)
      difference = bootstrap.paired_difference(method[0], rival[0], method[1])
      mean, low, high = difference
      verdict = 'better' if low > 0 else 'worse' if high < 0 else 'no different'
      found.append(
        f'{name}: "{NAMES["marker"]}" is {verdict} than "{NAMES[other]}" by '
        f'{mean:+.3f} delta1 [{low:+.3f}, {high:+.3f}].'
      )
  return found


def _correct(outcomes, arm: str, name: str):
  """(correct, image) of every answer of an arm, seed after seed."""
  correct, images = [], []
  for outcome in outcomes:
    if outcome.arm.name != arm:
      continue
    records = outcome.sets[name]['records']
    truth = np.array([record['depth'] for record in records])
    correct.append(depth.within(predictions(outcome.sets[name]), truth))
    single = len({record['image'] for record in records}) == 1
    key = 'label' if single else 'image'
    images.append(np.array([record[key] for record in records]))
  return np.concatenate(correct).astype(float), np.concatenate(images)
