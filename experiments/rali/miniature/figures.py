"""Pictures of the miniature: rewards, agreement by arm, answers, ablation."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.miniature import Outcome, Picture, names_of, seeds_of
from experiments.rali.miniature.readings import (
  HOME,
  greedy,
  number,
  out_of_domain,
)
from vlm.methods.rali.readers import CONSTANT, read_score

SHOWN = 3  # arms whose answers are drawn
PREFIX = 'rollout/reward/'
REWARDS = tuple(PREFIX + name for name in ('answer', 'rank', 'format'))


def draw(
  outcomes: Sequence[Outcome], answers: Sequence[str] = ()
) -> list[Picture]:
  """All pictures that the outcomes have something for.

  Args:
    outcomes: of all arms; those of RALI have measured['rali']['cases'].
    answers: arms whose answers are drawn against opinions; the first few if
      none of these was run.
  """
  made = [
    Picture(
      'Agreement with opinions where arms were trained (A) and elsewhere (mean '
      'of the other sets): mean, and a point for each seed.',
      agreement(outcomes),
    )
  ]
  if any(_rewarded(outcome) for outcome in outcomes):
    caption = (
      'Mean reward of the completions by step: mean and range of the seeds.'
    )
    made.insert(0, Picture(caption, rewards(outcomes)))
  names = names_of(outcomes)
  spoken = [name for name in answers if name in names] or names[:SHOWN]
  for name in spoken:
    made.append(
      Picture(
        f'"{name}", first seed: greedy ratings against opinions, by set. What '
        'could not be read is drawn at 3.0 as a cross.',
        ratings(seeds_of(outcomes, name)[0]),
      )
    )
  made += [
    Picture(
      f'"{name}" without each of its parts: SRCC in domain and elsewhere, a '
      'point for each seed.',
      ablation(seeds_of(outcomes, name)),
    )
    for name in names
    if 'rali' in seeds_of(outcomes, name)[0].measured
  ]
  return made


def _rewarded(outcome: Outcome) -> list[str]:
  """The rewards that a run logged."""
  seen = {key for row in outcome.history for key in row}
  return [name for name in REWARDS if name in seen]


def rewards(outcomes: Sequence[Outcome]) -> Figure:
  """Reward curves, one panel for each kind."""
  kinds = [k for k in REWARDS if any(k in _rewarded(o) for o in outcomes)]
  figure = Figure(figsize=(4 * len(kinds), 3.2), layout='constrained')
  panels = figure.subplots(1, len(kinds), squeeze=False)[0]
  for panel, kind in zip(panels, kinds):
    for name in names_of(outcomes):
      curves = [_curve(run, kind) for run in seeds_of(outcomes, name)]
      curves = [curve for curve in curves if curve]
      if not curves:
        continue
      # An interrupted run may have other rows: steps that all seeds logged.
      steps = sorted(set.intersection(*(set(curve) for curve in curves)))
      values = np.array([[curve[step] for step in steps] for curve in curves])
      (line,) = panel.plot(steps, values.mean(0), label=name)
      low, high = values.min(0), values.max(0)
      panel.fill_between(steps, low, high, color=line.get_color(), alpha=0.15)
    panel.set(xlabel='step', title=kind.removeprefix(PREFIX))
    panel.legend(frameon=False, fontsize=6)
  return figure


def _curve(outcome: Outcome, kind: str) -> dict[int, float]:
  rows = [row for row in outcome.history if row.get(kind) is not None]
  return {row['step']: row[kind] for row in rows}


def agreement(outcomes: Sequence[Outcome]) -> Figure:
  """SRCC in and out of domain, a pair of bars for each arm."""
  names = names_of(outcomes)
  home = [
    [greedy(o, HOME, 'srcc') for o in seeds_of(outcomes, n)] for n in names
  ]
  away = [
    [out_of_domain(o, greedy, 'srcc') for o in seeds_of(outcomes, n)]
    for n in names
  ]
  return _bars(names, {HOME: home, 'other sets': away})


def ablation(runs: Sequence[Outcome]) -> Figure:
  """SRCC of RALI's cases, as its runs measured them."""
  cases = [run.measured['rali']['cases'] for run in runs]
  names = list(cases[0])
  home = [[number(c[n][HOME]['srcc']) for c in cases] for n in names]
  others = [
    [[number(c[n][s]['srcc']) for s in c[n] if s != HOME] for c in cases]
    for n in names
  ]
  away = [[np.mean(np.nan_to_num(part)) for part in each] for each in others]
  return _bars(names, {HOME: home, 'other sets': away})


def _bars(
  names: Sequence[str], groups: dict[str, Sequence[Sequence[float]]]
) -> Figure:
  """Horizontal bars, means of what each name has, the values as points."""
  figure = Figure(figsize=(7, 0.5 + 0.42 * len(names)), layout='constrained')
  axis, height = figure.subplots(), 0.8 / len(groups)
  for number_, (label, values) in enumerate(groups.items()):
    values = [np.nan_to_num(part) for part in values]
    places = np.arange(len(names)) + (number_ - (len(groups) - 1) / 2) * height
    axis.barh(places, [v.mean() for v in values], height * 0.95, label=label)
    for place, part in zip(places, values):
      axis.plot(part, [place] * len(part), 'k.', markersize=3)
  axis.set_yticks(range(len(names)), names, fontsize=7)
  axis.invert_yaxis()
  axis.axvline(0, color='#222222', lw=0.8)
  axis.set_xlabel('SRCC')
  axis.legend(frameon=False, fontsize=7)
  return figure


def ratings(outcome: Outcome) -> Figure:
  """Greedy ratings against opinions, a panel for each set."""
  sets = outcome.sets
  figure = Figure(figsize=(2.2 * len(sets), 2.6), layout='constrained')
  panels = figure.subplots(
    1, len(sets), sharex=True, sharey=True, squeeze=False
  )
  for panel, (name, found) in zip(panels[0], sets.items()):
    mos = np.array([r['gt_score_norm'] for r in found['records']])
    reader = outcome.arm.config.get('iqa', {}).get('reader', '')
    said = np.array(
      [_rating(r['prediction'], reader) for r in found['records']]
    )
    read = ~np.isnan(said)
    # Ratings have one decimal: points of one place would hide each other.
    spread = np.random.default_rng(0).uniform(-0.04, 0.04, len(said))
    panel.plot(mos[read], (said + spread)[read], '.', markersize=2, alpha=0.5)
    panel.plot(mos[~read], np.full((~read).sum(), CONSTANT), 'rx', markersize=3)
    panel.plot([1, 5], [1, 5], color='#222222', lw=0.6)
    srcc = greedy(outcome, name, 'srcc')
    panel.set_title(f'{name}: SRCC {srcc:.2f}', fontsize=8)
    panel.set_xlabel('opinion', fontsize=8)
  panels[0][0].set_ylabel('rating', fontsize=8)
  return figure


def _rating(said: str | float, reader: str) -> float:
  """The rating in an answer; a regression says nothing but it."""
  if isinstance(said, str):
    said, _ = read_score(said, reader)
  return np.nan if said is None else float(said)
