"""Tables of the miniature beside agreement: RALI's parts, cost, several sets.

Every table takes the outcomes that there are, and is None where none of its
own are among them.
"""

from collections.abc import Sequence

import numpy as np

from experiments.miniature import Outcome, Table, paired, seeds_of, spread_of
from experiments.rali.miniature import chains
from experiments.rali.miniature.readings import (
  HOME,
  case,
  drawn,
  greedy,
  mean_over,
  out_of_domain,
  range_of,
  verdict,
)

# How near to its teacher RALI shall be, SRCC out of domain (spec 9.3).
NEAR = 0.03
REWARD = 'rollout/reward'  # in the log of a run
# Row -> (the run, the case of its ablation), in the paper's order.
CASES = {
  '1 no alignment': (chains.CLIP, 'full'),
  '2 no PCA': (chains.RALI, 'no PCA'),
  '3 no bins': (chains.RALI, 'no bins'),
  '4 no seed augmentation': (chains.ONE, 'full'),
  '5 no score fit': (chains.RALI, 'no fit'),
  '6 full': (chains.RALI, 'full'),
  'no alignment, no score fit': (chains.CLIP, 'no fit'),
  'score-only teacher': (chains.PLAIN_RALI, 'full'),
  'score-only teacher, no score fit': (chains.PLAIN_RALI, 'no fit'),
}
TEACHERS = {
  chains.RALI: chains.TEACHER,
  chains.PLAIN_RALI: chains.PLAIN_TEACHER,
}
# (better, than) that section 2.4 claims, on the set nobody was trained on.
POOLED_CLAIMS = (
  (chains.RACT, chains.MIXED),
  (chains.RACT, chains.MIXED_HEAD),
  (chains.RACT, chains.TEACHER),
  (chains.TEACHER, chains.MIXED),
)


def cells(runs: Sequence[Outcome], read_of) -> list[str]:
  """PLCC and SRCC in the home set, and their means over the others."""
  metrics = ('plcc', 'srcc')
  home = [
    [read_of(run)(run, HOME, metric) for run in runs] for metric in metrics
  ]
  away = [
    [out_of_domain(run, read_of(run), metric) for run in runs]
    for metric in metrics
  ]
  return [spread_of(values) for values in (*home, *away)]


def ablation(outcomes: Sequence[Outcome]) -> Table | None:
  """RALI without each of its parts, beside its teacher and its control."""
  if not seeds_of(outcomes, chains.RALI):
    return None
  rows = []
  for title, (name, kept) in CASES.items():
    if runs := seeds_of(outcomes, name):
      rows.append([title, *cells(runs, lambda run, kept=kept: case(run, kept))])
  others = [
    (chains.MSE, chains.MSE, greedy),
    ('its teacher, greedy', chains.TEACHER, greedy),
    ('its teacher, mean of draws', chains.TEACHER, drawn),
  ]
  for title, name, read in others:
    if runs := seeds_of(outcomes, name):
      rows.append([title, *cells(runs, lambda run, read=read: read)])
  header = ['case', 'A PLCC', 'A SRCC', 'B-E PLCC', 'B-E SRCC']
  return Table('RALI without each of its parts', header, rows)


def costs(outcomes: Sequence[Outcome]) -> Table | None:
  """Parameters and CPU time of a rating, of RALI and of its teacher."""
  pairs = paired(outcomes, chains.RALI, chains.TEACHER)
  if not pairs:
    return None
  cost = lambda run, name: run.measured['cost'][name]
  milliseconds = lambda run, name: f'{1e3 * cost(run, name):.3f}'
  rows = [
    [
      name,
      f'{cost(run, "parameters"):,}',
      milliseconds(run, 'seconds'),
      milliseconds(run, 'features'),
    ]
    for name, run in zip((chains.RALI, chains.TEACHER), pairs[0])
  ]
  net = lambda run: cost(run, 'seconds') - cost(run, 'features')
  ratios = [
    [cost(a, name) / cost(b, name) for a, b in pairs]
    for name in ('parameters', 'seconds')
  ]
  behind = [net(a) / net(b) for a, b in pairs]
  shares = [spread_of(values) for values in (*ratios, behind)]
  rows.append(['ratio', *shares[:2], f'without: {shares[2]}'])
  title = (
    'cost of a greedy rating, CPU time (arms run side by side); the teacher '
    'is small and says little, so that no share of published models follows'
  )
  return Table(title, ['', 'parameters', 'ms', 'of which features'], rows)


def pooled(outcomes: Sequence[Outcome]) -> Table | None:
  """Runs on several families: in domain, and on the family of none."""
  names = (chains.TEACHER, chains.MIXED, chains.MIXED_HEAD, chains.RACT)
  found = {name: seeds_of(outcomes, name) for name in names}
  if not found[chains.RACT]:
    return None
  sets = list(found[chains.RACT][0].sets)
  families = list(chains.FAMILIES)
  rows = []
  for name, runs in found.items():
    if not runs:
      continue
    each = [[greedy(run, n, 'srcc') for run in runs] for n in sets]
    inside = [mean_over(run, families, greedy, 'srcc') for run in runs]
    rates = [run.measured['photographs']['all']['pairs'] for run in runs]
    columns = (*each, inside, rates)
    rows.append([name, *(spread_of(values) for values in columns)])
  header = ['arm', *sets, 'mean A-D', 'photographs']
  title = 'SRCC of greedy answers, trained on one family or on A to D'
  return Table(title, header, rows)


def sentences(outcomes: Sequence[Outcome]) -> list[str]:
  """What the differences between these runs say, paired by seed."""
  return [
    *_learning(outcomes),
    *_near_teacher(outcomes),
    *_parts(outcomes),
    *_pools(outcomes),
  ]


def _learning(outcomes) -> list[str]:
  """Whether rewards rose (spec 9.3: format about 1, score at least doubled)."""
  found = []
  for name in (chains.PLAIN_TEACHER, chains.TEACHER):
    runs = [run for run in seeds_of(outcomes, name) if len(run.history) > 1]
    if not runs:
      continue
    first, last = (
      np.mean([run.history[row][f'{REWARD}/answer'] for run in runs])
      for row in (0, -1)
    )
    shape = np.mean([run.history[-1][f'{REWARD}/format'] for run in runs])
    doubled = 'doubled' if last >= 2 * first else 'did not double'
    found.append(
      f'"{name}": reward of the answer from {first:.2f} to {last:.2f} between '
      f'the first and the last rows of the log: {doubled}; of the format '
      f'{shape:.2f}.'
    )
  return found


def _near_teacher(outcomes) -> list[str]:
  found = []
  for student, teacher in TEACHERS.items():
    for how, read in (('greedy', greedy), ('mean of draws', drawn)):
      gaps = [
        out_of_domain(a, greedy, 'srcc') - out_of_domain(b, read, 'srcc')
        for a, b in paired(outcomes, student, teacher)
      ]
      if not gaps:
        continue
      near = 'within' if np.mean(gaps) >= -NEAR else 'not within'
      found.append(
        f'"{student}" against its teacher ({how}): {np.mean(gaps):+.3f} SRCC '
        f'out of domain ({range_of(gaps)}): {near} {NEAR} of it.'
      )
  return found


def _parts(outcomes) -> list[str]:
  """What the full RALI gains over itself without a part."""
  found = []
  for title, (name, kept) in CASES.items():
    pairs = paired(outcomes, chains.RALI, name)
    if not title[0].isdigit() or title.startswith('6') or not pairs:
      continue
    reads = [(a, b, case(a, 'full'), case(b, kept)) for a, b in pairs]
    away = [
      out_of_domain(a, full, 'srcc') - out_of_domain(b, less, 'srcc')
      for a, b, full, less in reads
    ]
    home = [
      full(a, HOME, 'srcc') - less(b, HOME, 'srcc')
      for a, b, full, less in reads
    ]
    found.append(
      f'RALI against "{title}": {np.mean(away):+.3f} SRCC out of domain '
      f'({range_of(away)}), {np.mean(home):+.3f} in domain: {verdict(away)}.'
    )
  return found


def _pools(outcomes) -> list[str]:
  found = []
  families = chains.FAMILIES
  for better, than in POOLED_CLAIMS:
    pairs = paired(outcomes, better, than)
    if not pairs or not seeds_of(outcomes, chains.RACT):
      continue
    away = lambda run: out_of_domain(run, greedy, 'srcc', families)
    inside = lambda run: mean_over(run, families, greedy, 'srcc')
    gaps = [away(a) - away(b) for a, b in pairs]
    home = [inside(a) - inside(b) for a, b in pairs]
    found.append(
      f'"{better}" against "{than}": {np.mean(gaps):+.3f} SRCC on the family '
      f'of none ({range_of(gaps)}), {np.mean(home):+.3f} on A to D: '
      f'{verdict(gaps)}.'
    )
  return found
