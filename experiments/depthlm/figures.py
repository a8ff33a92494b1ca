"""Pictures of the miniature: curves, differences, marked and real images."""

from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use('Agg')  # before pyplot: reports are drawn without a display

import matplotlib.pyplot as plt
import numpy as np

from experiments.depthlm import comparisons, scan_figures
from experiments.depthlm.answers import pooled, said
from experiments.depthlm.scan import SCANNED
from experiments.miniature import Outcome, Picture
from vlm.methods.depthlm import text
from vlm.metrics import depth

SHOWN = 12
REAL = ' (real)'
RANGES = np.array([1, 2, 3, 4.5, 6.5, 9, 12, 20])  # metres


def draw(
  task: Any,
  outcomes: Sequence[Outcome],
  baselines: dict[str, dict[str, np.ndarray]],
  differences: Sequence[dict[str, Any]],
) -> list[Picture]:
  """All pictures of the report, of the first outcome where one is shown."""
  method = outcomes[0]
  main = (comparisons.LONGER, *comparisons.QUICK)
  few = [outcome for outcome in outcomes if outcome.arm.name in main]
  pictures = [
    Picture(
      'Training loss per answer token, by arm (first seed).',
      _curves(few, outcomes),
    ),
    Picture(
      'Share of answers within 1.25x of the truth, by set. The rules show the '
      'constant answer.',
      _bars(few, baselines),
    ),
    Picture(
      'Mean relative error and delta1 against the true distance, unseen rooms.',
      _by_range(few),
    ),
  ]
  if len(few) < len(outcomes):
    pictures += _comparisons(outcomes, differences)
  for name, rows in task.eval_sets().items():
    records = method.sets[name]['records']
    if name == SCANNED:
      pictures += scan_figures.draw(task, rows, records)
    elif name.endswith(REAL):
      pictures.append(
        Picture(
          f'{name}, outside the training domain: where the method was asked, '
          'coloured by the ratio of its answer to the true distance, and '
          'answers against truth.',
          _photograph(rows, records),
        )
      )
    else:
      pictures.append(
        Picture(
          f'{name}: what the method saw, its answer and the true distance, '
          'metres. Green is within 1.25x.',
          _marked(task, rows, records),
        )
      )
  pictures.append(
    Picture('The method: answers against truth.', _scatter(method, baselines))
  )
  return pictures


def _comparisons(outcomes, differences) -> list[Picture]:
  return [
    Picture(
      'Paired differences of delta1 on unseen rooms, 95 % over images; right '
      'of the rule the reference is better.',
      _forest(differences),
    ),
    Picture(
      'delta1 against the number of pictures, at as many steps.',
      _scale(outcomes),
    ),
  ]


def _curves(few: Sequence[Outcome], outcomes: Sequence[Outcome]):
  figure, axis = plt.subplots(figsize=(6, 3.2), layout='constrained')
  for outcome in few:
    if outcome.arm.seed == few[0].arm.seed:
      axis.plot(*zip(*_losses(outcome, outcomes)), label=outcome.arm.name)
  axis.set(xlabel='step', ylabel='loss (nats per token)')
  axis.legend(frameon=False)
  return figure


def _losses(
  outcome: Outcome, outcomes: Sequence[Outcome]
) -> list[tuple[int, float]]:
  """(step, loss), those of the run it goes on from before its own."""
  start = (outcome.arm.start, outcome.arm.seed)
  found = []
  for other in outcomes:
    if (other.arm.name, other.arm.seed) == start:
      found = _losses(other, outcomes)
  done = found[-1][0] if found else 0
  return found + [
    (done + row['step'], row['loss'])
    for row in outcome.history
    if row.get('loss') is not None
  ]


def _bars(outcomes: Sequence[Outcome], baselines):
  names = list(baselines)
  arms = list(dict.fromkeys(outcome.arm.name for outcome in outcomes))
  figure, axis = plt.subplots(figsize=(8, 3.2), layout='constrained')
  width = 0.8 / len(arms)
  for number, arm in enumerate(arms):
    per_seed = np.array(
      [
        [pooled([outcome], arm, name).correct.mean() for name in names]
        for outcome in outcomes
        if outcome.arm.name == arm
      ]
    )
    places = np.arange(len(names)) + (number - (len(arms) - 1) / 2) * width
    axis.bar(places, per_seed.mean(0), width * 0.95, label=arm)
    for row in per_seed:
      axis.plot(places, row, 'k.', markersize=3)
  for place, name in enumerate(names):
    found = pooled(outcomes[:1], arms[0], name)
    constant = baselines[name]['constant (median)']
    level = found._replace(said=constant).correct.mean()
    axis.hlines(level, place - 0.45, place + 0.45, color='k', linewidth=1)
  axis.set_xticks(
    range(len(names)), [name.replace(' (', '\n(') for name in names]
  )
  axis.set(ylabel='delta1', ylim=(0, 1))
  axis.legend(frameon=False, fontsize=8)
  return figure


def _by_range(outcomes: Sequence[Outcome]):
  figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout='constrained')
  middles = np.sqrt(RANGES[:-1] * RANGES[1:])
  for arm in dict.fromkeys(outcome.arm.name for outcome in outcomes):
    found = pooled(outcomes, arm, 'unseen rooms')
    place = np.digitize(found.truth, RANGES) - 1
    error = np.abs(found.said - found.truth) / found.truth
    for axis, values in zip(axes, (error, found.correct), strict=True):
      means = [
        np.nanmean(values[place == n]) if (place == n).sum() >= 5 else np.nan
        for n in range(len(middles))
      ]
      axis.plot(middles, means, 'o-', markersize=3, label=arm)
  axes[0].set(ylabel='mean |answer - truth| / truth', ylim=(0, None))
  axes[1].set(ylabel='delta1', ylim=(0, 1))
  for axis in axes:
    axis.set(xlabel='true distance (m)')
  axes[1].legend(frameon=False, fontsize=7)
  return figure


def _forest(differences: Sequence[dict[str, Any]]):
  figure, axis = plt.subplots(
    figsize=(8, 0.8 + 0.3 * len(differences)), layout='constrained'
  )
  for place, found in enumerate(differences):
    mean, low, high = found['sets']['unseen rooms']
    axis.plot([low, high], [place, place], color='tab:blue')
    axis.plot(mean, place, 'o', color='tab:blue', markersize=4)
  axis.axvline(0, color='k', linewidth=0.8)
  axis.set_yticks(
    range(len(differences)),
    [f'{d["reference"]} - {d["rival"]}' for d in differences],
    fontsize=7,
  )
  axis.invert_yaxis()
  axis.set(xlabel='difference of delta1')
  return figure


def _scale(outcomes: Sequence[Outcome]):
  figure, axis = plt.subplots(figsize=(5, 3), layout='constrained')
  for name in ('unseen rooms', 'wider lenses', 'longer lenses'):
    levels = [
      pooled(outcomes, arm, name).correct.mean()
      for arm in comparisons.SCALE.values()
    ]
    axis.plot(list(comparisons.SCALE), levels, 'o-', label=name)
  axis.set(xscale='log', xlabel='pictures', ylabel='delta1')
  axis.set_xticks(
    list(comparisons.SCALE), [f'{count:,}' for count in comparisons.SCALE]
  )
  axis.minorticks_off()
  axis.legend(frameon=False, fontsize=8)
  return figure


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


def _photograph(rows: Sequence[Any], records: Sequence[dict[str, Any]]):
  """The first photograph, and the answers about all of them."""
  answers = said(records)
  truth = np.array([record['depth'] for record in records])
  first = np.array([record['image'] == 0 for record in records])
  labels = [record['label'] for record in records if record['image'] == 0]
  places = rows[0]['pixel_coords'][labels]
  figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 3.2), width_ratios=(1.5, 1), layout='constrained'
  )
  left.imshow(rows[0]['image'])
  ratio = (answers / truth)[first]
  shown = left.scatter(
    *places.T, c=ratio, cmap='coolwarm', vmin=0.25, vmax=1.75, s=14
  )
  left.axis('off')
  figure.colorbar(shown, ax=left, label='answer / truth', shrink=0.8)
  _diagonal(right, truth, answers)
  return figure


def _scatter(outcome: Outcome, baselines):
  names = [name for name in baselines if not name.endswith(REAL)]
  figure, axes = plt.subplots(
    1, len(names), figsize=(3 * len(names), 3), layout='constrained'
  )
  for axis, name in zip(np.atleast_1d(axes), names, strict=True):
    found = pooled([outcome], outcome.arm.name, name)
    _diagonal(axis, found.truth, found.said)
    axis.set_title(name, fontsize=9)
  return figure


def _diagonal(axis, truth: np.ndarray, answers: np.ndarray) -> None:
  """Log-log scatter with the band in which delta1 counts."""
  ends = np.array([min(1.0, truth.min()), 25.0])
  axis.fill_between(ends, ends / 1.25, ends * 1.25, color='0.9')
  axis.plot(truth, answers, '.', markersize=3)
  axis.set(
    xscale='log', yscale='log', xlabel='true range (m)', ylabel='answer (m)'
  )
