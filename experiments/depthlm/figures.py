"""Pictures of the miniature: curves, marked images, the photograph."""

from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use('Agg')  # before pyplot: reports are drawn without a display

import matplotlib.pyplot as plt
import numpy as np

from data.sources import middlebury
from experiments.miniature import Outcome, Picture
from vlm.methods.depthlm import text
from vlm.metrics import depth

SHOWN = 12
PHOTO = 'photograph (out of domain)'


def draw(
  task: Any,
  outcomes: Sequence[Outcome],
  baselines: dict[str, dict[str, np.ndarray]],
) -> list[Picture]:
  """All pictures of the report, the method's arm being the first outcome."""
  method = outcomes[0]
  pictures = [
    Picture(
      'Training loss per answer token, by arm (first seed).',
      _curves(outcomes),
    ),
    Picture(
      'Share of answers within 1.25x of the truth, by set. The rules show the '
      'constant answer.',
      _bars(outcomes, baselines),
    ),
  ]
  for name, rows in task.eval_sets().items():
    if name == PHOTO:
      pictures.append(
        Picture(
          'The Middlebury motorcycle, outside the training domain: where the '
          'method was asked, coloured by the ratio of its answer to the true '
          'distance, and answers against truth.',
          _photograph(method.sets[name]['records']),
        )
      )
    else:
      pictures.append(
        Picture(
          f'{name}: what the method saw, its answer and the true distance, '
          'metres. Green is within 1.25x.',
          _marked(task, rows, method.sets[name]['records']),
        )
      )
  pictures.append(
    Picture('The method: answers against truth.', _scatter(method))
  )
  return pictures


def _curves(outcomes: Sequence[Outcome]):
  figure, axis = plt.subplots(figsize=(6, 3.2), layout='constrained')
  for outcome in outcomes:
    if outcome.arm.seed == outcomes[0].arm.seed:
      rows = [row for row in outcome.history if row.get('loss') is not None]
      steps = [row['step'] for row in rows]
      axis.plot(steps, [row['loss'] for row in rows], label=outcome.arm.name)
  axis.set(xlabel='step', ylabel='loss (nats per token)')
  axis.legend(frameon=False)
  return figure


def _bars(outcomes: Sequence[Outcome], baselines):
  names = list(outcomes[0].sets)
  arms = list(dict.fromkeys(outcome.arm.name for outcome in outcomes))
  figure, axis = plt.subplots(figsize=(7, 3.2), layout='constrained')
  width = 0.8 / len(arms)
  for number, arm in enumerate(arms):
    per_seed = np.array(
      [
        [_delta1(outcome.sets[name]) for name in names]
        for outcome in outcomes
        if outcome.arm.name == arm
      ]
    )
    places = np.arange(len(names)) + (number - (len(arms) - 1) / 2) * width
    axis.bar(places, per_seed.mean(0), width * 0.95, label=arm)
    for row in per_seed:
      axis.plot(places, row, 'k.', markersize=3)
  for place, name in enumerate(names):
    records = outcomes[0].sets[name]['records']
    truth = np.array([record['depth'] for record in records])
    constant = baselines[name]['constant (median)']
    level = depth.within(constant, truth).mean()
    axis.hlines(level, place - 0.45, place + 0.45, color='k', linewidth=1)
  axis.set_xticks(
    range(len(names)), [name.replace(' (', '\n(') for name in names]
  )
  axis.set(ylabel='delta1', ylim=(0, 1))
  axis.legend(frameon=False, fontsize=8)
  return figure


def _delta1(result: dict[str, Any]) -> float:
  truth = np.array([record['depth'] for record in result['records']])
  return float(depth.within(_answers(result['records']), truth).mean())


def _answers(records: Sequence[dict[str, Any]]) -> np.ndarray:
  return depth.as_array(
    [text.parse_metres(record['prediction']) for record in records]
  )


def _marked(task: Any, rows: Any, records: Sequence[dict[str, Any]]):
  figure, axes = plt.subplots(2, SHOWN // 2, figsize=(8, 3.4))
  figure.set_layout_engine('constrained')
  examples = task.queries(rows)
  for axis in axes.flat:
    axis.axis('off')
  for axis, example, record in zip(axes.flat, examples, records, strict=False):
    answer = text.parse_metres(record['prediction'])
    good = depth.within([answer or np.nan], [record['depth']])[0]
    axis.imshow(example['images'][0], interpolation='nearest')
    axis.set_title(
      f'{record["prediction"]} ({record["depth"]:.1f})',
      fontsize=9,
      color='tab:green' if good else 'tab:red',
    )
  return figure


def _photograph(records: Sequence[dict[str, Any]]):
  photo = middlebury.motorcycle()
  answers = _answers(records)
  truth = np.array([record['depth'] for record in records])
  places = np.array([record['source_pixel'] for record in records])
  figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 3.2), width_ratios=(1.5, 1), layout='constrained'
  )
  left.imshow(photo.rgb)
  shown = left.scatter(
    *places.T, c=answers / truth, cmap='coolwarm', vmin=0.25, vmax=1.75, s=14
  )
  left.axis('off')
  figure.colorbar(shown, ax=left, label='answer / truth', shrink=0.8)
  _diagonal(right, truth, answers)
  return figure


def _scatter(outcome: Outcome):
  names = [name for name in outcome.sets if name != PHOTO]
  figure, axes = plt.subplots(
    1, len(names), figsize=(3 * len(names), 3), layout='constrained'
  )
  for axis, name in zip(np.atleast_1d(axes), names, strict=True):
    records = outcome.sets[name]['records']
    truth = np.array([record['depth'] for record in records])
    _diagonal(axis, truth, _answers(records))
    axis.set_title(name, fontsize=9)
  return figure


def _diagonal(axis, truth: np.ndarray, answers: np.ndarray) -> None:
  """Log-log scatter with the band in which delta1 counts."""
  ends = np.array([1.0, 25.0])
  axis.fill_between(ends, ends / 1.25, ends * 1.25, color='0.9')
  axis.plot(truth, answers, '.', markersize=3)
  axis.set(
    xscale='log', yscale='log', xlabel='true range (m)', ylabel='answer (m)'
  )
