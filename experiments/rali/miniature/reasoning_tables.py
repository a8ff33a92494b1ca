"""Whether scores come from reasoning: tables and sentences of reasoning.py.

Every table takes the outcomes that there are, and is None where no arm reasons.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.miniature import (
  Outcome,
  Table,
  names_of,
  paired,
  seeds_of,
  spread_of,
)
from experiments.rali.miniature.readings import (
  HOME,
  greedy,
  mean_over,
  number,
  out_of_domain,
  range_of,
)
from experiments.rali.miniature.reasoning import MASKED, SEEN, TEXT_ONLY, WAYS

NEAR = 0.05  # SRCC that text may lose and still carry the score (spec 9.3)
CLEARLY = 0.05  # of accuracy, about three deviations at a thousand images


def tables(outcomes: Sequence[Outcome]) -> list[Table]:
  """All that there are, removal and attention side by side."""
  found = [o for o in outcomes if 'reasoning' in o.measured]
  made = [removal(found), attention(found), domains(found), halves(found)]
  return [table for table in made if table.rows]


def _each(
  outcomes: Sequence[Outcome],
  cells: Callable[[list[Outcome]], list[str] | None],
) -> list[list[str]]:
  """A row for each arm that has its cells."""
  rows = []
  for name in names_of(outcomes):
    found = cells(seeds_of(outcomes, name))
    if found is not None:
      rows.append([name, *found])
  return rows


def way(way: str) -> Callable[[Outcome, str, str], float]:
  """Reads a set's numbers of one way of removal."""
  return lambda run, name, metric: number(
    run.measured['reasoning']['removal'][name][way][metric]
  )


def removal(outcomes: Sequence[Outcome]) -> Table:
  """Agreement after the same reasoning, with the image and without it."""

  def cells(runs):
    home = [[way(w)(run, HOME, 'srcc') for run in runs] for w in WAYS]
    away = [[out_of_domain(run, way(w), 'srcc') for run in runs] for w in WAYS]
    lost = [
      f'{np.mean([_share(run, w, "strayed") for run in runs]):.0%}'
      for w in (MASKED, TEXT_ONLY)
    ]
    return [spread_of(values) for values in (*home, *away)] + lost

  header = ['arm']
  header += [f'{part} {w}' for part in (HOME, 'B-E') for w in WAYS]
  header += ['out of shape, masked', 'out of shape, text only']
  title = 'SRCC of ratings after the same reasoning, with and without the image'
  return Table(title, header, _each(outcomes, cells))


def _share(run: Outcome, name: str, what: str) -> float:
  """Ratings of which something is true, among all."""
  parts = run.measured['reasoning']['removal']
  total = lambda key: sum(parts[n][name][key] for n in parts)
  return total(what) / total('count')


def attention(outcomes: Sequence[Outcome]) -> Table:
  """Where the positions look that emit a rating's digits."""

  def cells(runs):
    found = [run.measured['reasoning']['attention'] for run in runs]
    found = [split for split in found if split['rows']]
    if not found:
      return None
    means = np.array([np.mean(split['layers'], axis=0) for split in found])
    first = np.mean([split['layers'] for split in found], axis=0)
    visual = ' / '.join(f'{layer[0]:.2f}' for layer in first)
    return [*(spread_of(part) for part in means.T), visual]

  parts = ['image', 'prompt', 'reasoning', 'answer so far']
  header = ['arm', *parts, 'image by layer']
  title = (
    'attention of the positions that emit digits, mean of heads and layers '
    '(no evidence of cause: read it with the table above)'
  )
  return Table(title, header, _each(outcomes, cells))


def domains(outcomes: Sequence[Outcome]) -> Table:
  """How well sets can be told apart at matched quality."""

  def cells(runs):
    found = _accuracies(runs)
    if not found:
      return None
    row = [spread_of([f[key] for f in found]) for key in ('visual', 'text')]
    return [*row, f'{found[0]["chance"]:.3f}', str(found[0]['images'])]

  header = ['arm', 'image embeddings', 'text embeddings', 'chance', 'images']
  title = 'accuracy of a linear classifier that names the set'
  return Table(title, header, _each(outcomes, cells))


def _accuracies(runs: Sequence[Outcome]) -> list[dict[str, Any]]:
  found = [run.measured['reasoning']['domains'] for run in runs]
  return [f for f in found if 'undefined' not in f]


def halves(outcomes: Sequence[Outcome]) -> Table:
  """Tower of one model, decoder of another: E4, and what training changed."""
  rows = []
  for name in names_of(outcomes):
    runs = seeds_of(outcomes, name)
    for pair in runs[0].measured['reasoning'].get('halves', {}):
      read = lambda run, n, _, pair=pair: number(
        run.measured['reasoning']['halves'][pair][n]
      )
      rows.append([name, pair, *_home_and_away(runs, read)])
    if rows and rows[-1][0] == name:
      rows.append([name, 'its own', *_home_and_away(runs, way(SEEN))])
  header = ['arm', 'halves', 'A SRCC', 'B-E SRCC']
  return Table('tower and decoder of different models, greedy', header, rows)


def _home_and_away(runs, read) -> list[str]:
  return [
    spread_of([read(run, HOME, 'srcc') for run in runs]),
    spread_of([out_of_domain(run, read, 'srcc') for run in runs]),
  ]


def sentences(
  outcomes: Sequence[Outcome], bottlenecks: Sequence[tuple[str, str]] = ()
) -> list[str]:
  """What the tests of spec 9.3 say, also where they say no.

  Args:
    outcomes: all there are.
    bottlenecks: (arm whose answers see no image, the arm that it stands
      beside).
  """
  found = [o for o in outcomes if 'reasoning' in o.measured]
  said = []
  for name in names_of(found):
    runs = seeds_of(found, name)
    said += [_carries(name, runs), *_aligned(name, runs)]
  for blind, usual in bottlenecks:
    said += _compared(found, blind, usual)
  return said


def _lost(run: Outcome, name: str) -> float:
  """Mean SRCC over all sets against that with the image; undefined is 0."""
  mean = lambda w: mean_over(run, list(run.sets), way(w), 'srcc')
  return mean(name) - mean(SEEN)


def _carries(name: str, runs: Sequence[Outcome]) -> str:
  gaps = [_lost(run, TEXT_ONLY) for run in runs]
  hidden = np.mean([_lost(run, MASKED) for run in runs])
  near = [gap >= -NEAR for gap in gaps]
  verdict = 'text carries the score'
  if not any(near):
    verdict = 'text alone does not carry the score'
  elif not all(near):
    verdict = 'seeds differ on whether text carries the score'
  return (
    f'"{name}", rated from its reasoning without the image: '
    f'{np.mean(gaps):+.3f} SRCC over all sets ({range_of(gaps)}), '
    f'{hidden:+.3f} with the image hidden from the answer only: {verdict} '
    f'(within {NEAR}).'
  )


def _aligned(name: str, runs: Sequence[Outcome]) -> list[str]:
  found = _accuracies(runs)
  if not found:
    return []
  gaps = [f['visual'] - f['text'] for f in found]
  clear = [gap >= CLEARLY for gap in gaps]
  verdict = 'text is clearly less of a set than images'
  if not any(clear):
    verdict = 'text is not clearly less of a set than images'
  elif not all(clear):
    verdict = 'seeds differ'
  seen, told = (np.mean([f[key] for f in found]) for key in ('visual', 'text'))
  return [
    f'"{name}", naming the set at matched quality: {seen:.3f} from images, '
    f'{told:.3f} from descriptions, {found[0]["chance"]:.3f} by chance: '
    f'{verdict}.'
  ]


def _compared(outcomes, blind: str, usual: str) -> list[str]:
  pairs = paired(outcomes, blind, usual)
  if not pairs:
    return []
  own = [
    out_of_domain(a, greedy, 'srcc') - out_of_domain(b, greedy, 'srcc')
    for a, b in pairs
  ]
  text = [_lost(a, TEXT_ONLY) - _lost(b, TEXT_ONLY) for a, b in pairs]
  return [
    f'"{blind}" against "{usual}": {np.mean(own):+.3f} SRCC out of domain '
    f'({range_of(own)}); what is left without the image is {np.mean(text):+.3f}'
    f' more of it ({range_of(text)}).'
  ]
