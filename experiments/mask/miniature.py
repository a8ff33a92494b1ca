"""MASK in miniature: arms, controls, tables and sentences (spec 9).

An arm is trained once for each seed; everything about words that knowledge does
not have is measured on the trained encoder. The first figure is retrieval of
images by captions with a held-out noun; the sum of recalls of all captions
stands beside it and misleads, as the control of a constant prototype shows.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments.mask import figures, mask, measure, stamps, tables, task
from experiments.miniature import (
  Arm,
  Outcome,
  Summary,
  Table,
  paired,
  seeds_of,
  spread_of,
)
from vlm.metrics import bootstrap

TITLE = 'MASK: images and texts matched without pairs, through words'
CLAIM = (
  'An encoder trained on labelled regions alone matches images with captions, '
  'and words that no region was labelled with get a prototype from the word '
  'vectors of their neighbours. Miniature: procedural scenes of eight things, '
  '64 known words, 22 held-out nouns, real GloVe vectors, a hundred thousand '
  'parameters from scratch. Not comparable with published numbers.'
)
FULL, SUPERVISED = 'MASK', 'supervised on pairs (bound)'
NAMES = {
  FULL: 'mask',
  'without L_cl': 'no_cl',
  'without L_cm': 'no_cm',
  'without L_ir': 'no_ir',
  'attention within the image': 'in_context',
  SUPERVISED: 'supervised',
}
RAW = 'MACK (raw prototypes)'
# (what, better than what): variants of the full arm that are compared.
COMPARED = (
  (tables.RECOMMENDED, tables.DROP),
  (tables.RECOMMENDED, tables.SHUFFLED),
  (tables.RECOMMENDED, tables.CONSTANT),
  (tables.BEST, tables.DROP),
  (tables.BEST, tables.SHUFFLED_BEST),
  (tables.RECOMMENDED, tables.PAPER),
  (tables.RECOMMENDED, tables.PROCRUSTES),
  (tables.ORACLE, tables.RECOMMENDED),
)
K = 5  # of the recall that differences are of


def arms(seeds: int, thorough: bool) -> list[Arm]:
  """Every arm with every seed; thorough asks for nothing but its seeds."""
  del thorough
  return [
    Arm(name, seed, mask.get_config(f'tiny,arm={arm},seed={seed}'))
    for seed in range(seeds)
    for name, arm in NAMES.items()
  ]


def prepare(arms: Sequence[Arm]) -> None:
  """Draws and encodes the scenes that all arms share."""
  task.Task(arms[0].config).world  # noqa: B018  (made when first asked for)


def summarise(outcomes: Sequence[Outcome]) -> Summary:
  """Tables, pictures, and what the paired differences say."""
  real = stamps.run()
  left_out = isinstance(real, str)
  return Summary(
    TITLE,
    CLAIM,
    [
      _variants(outcomes),
      _arms(outcomes),
      _differences(outcomes),
      _poolings(outcomes),
      _reranked(outcomes),
      _colours(outcomes),
      _insight(outcomes),
      *([] if left_out else [_stamps(real)]),
    ],
    figures.draw(outcomes),
    [
      *findings(outcomes),
      *([f'Captioned stamps are left out: {real}.'] if left_out else []),
    ],
  )


def held_out(outcome: Outcome) -> np.ndarray:
  """bool [C]: captions with a held-out noun."""
  return _chosen(outcome, 'held_out')


def _chosen(outcome: Outcome, name: str) -> np.ndarray:
  chosen = np.zeros(len(outcome.measured['owners']), bool)
  chosen[outcome.measured[name]] = True
  return chosen


def _spread(values: Sequence[float]) -> str:
  return spread_of(values, digits=1)


def _cells(runs: Sequence[Outcome], ranks_of: Callable) -> list[str]:
  """R@1, 5, 10 on captions with a held-out noun, and the sum of all."""
  ood = [measure.recalls(ranks_of(run), held_out(run)) for run in runs]
  every = [measure.recalls(ranks_of(run)) for run in runs]
  return [
    *(_spread([one[f't2i_r{k}'] for one in ood]) for k in (1, 5, 10)),
    _spread([one['rsum'] for one in every]),
  ]


HEADER = ['OOD captions R@1', 'R@5', 'R@10', 'Rsum, all captions']


def _variants(outcomes) -> Table:
  runs = seeds_of(outcomes, FULL)
  names = [
    name
    for name in runs[0].measured['ranks']
    if name not in (tables.COLOURS_DROPPED, tables.COLOURS_OUT)
  ]
  rows = [
    [name, *_cells(runs, lambda run, name=name: run.measured['ranks'][name])]
    for name in names
  ]
  rows += [
    [
      f'{RAW}: {name}',
      *_cells(runs, lambda run, name=name: run.measured['mack'][name]),
    ]
    for name in runs[0].measured['mack']
  ]
  title = 'what held-out nouns take (t2i pooling)'
  return Table(title, ['held-out nouns', *HEADER], rows)


def _arms(outcomes) -> Table:
  rows = []
  for name in dict.fromkeys(outcome.arm.name for outcome in outcomes):
    runs = seeds_of(outcomes, name)
    for variant in runs[0].measured['ranks']:
      if variant not in (*measure.SHORT, measure.SUPERVISED):
        continue
      read = lambda run, variant=variant: run.measured['ranks'][variant]
      rows.append([name, variant, *_cells(runs, read)])
  header = ['arm', 'held-out nouns', *HEADER]
  return Table('losses left out, and the bound', header, rows)


def difference(
  runs: Sequence[Outcome],
  better: Callable,
  than: Callable,
  chosen: Callable = held_out,
) -> tuple[bootstrap.Interval, list[float]]:
  """Difference in R@5 of images, in points: of all seeds, and of each.

  Args:
    runs: of one arm, by seed.
    better, than: run -> ranks of the same captions.
    chosen: run -> bool [C], captions that count.
  """
  hits, others, clusters, each = [], [], [], []
  for run in runs:
    here = chosen(run)
    hit, other = (
      100.0 * (np.array(read(run)['images'])[here] < K)
      for read in (better, than)
    )
    hits.append(hit)
    others.append(other)
    clusters.append(np.array(run.measured['owners'])[here])
    each.append(float(np.mean(hit - other)))
  return (
    bootstrap.paired_difference(*map(np.concatenate, (hits, others, clusters))),
    each,
  )


def _read(variant: str, group: str = 'ranks') -> Callable:
  return lambda run: run.measured[group][variant]


def _differences(outcomes) -> Table:
  runs = seeds_of(outcomes, FULL)
  rows = []
  for better, than in COMPARED:
    found, each = difference(runs, _read(better), _read(than))
    rows.append([better, than, _interval(found), _signed(each)])
  found, each = difference(
    runs, _read(tables.RECOMMENDED), _read(tables.RECOMMENDED, 'mack')
  )
  rows.append([FULL, RAW, _interval(found), _signed(each)])
  for name in list(NAMES)[1:-1]:
    if not seeds_of(outcomes, name):
      continue
    found, each = _against(outcomes, name)
    rows.append([FULL, name, _interval(found), _signed(each)])
  return Table(
    f'differences in R@{K} on captions with a held-out noun, paired by caption '
    '(points; 95 % bootstrap over scenes)',
    ['first', 'second', 'first - second', 'by seed'],
    rows,
  )


def _against(outcomes, name: str) -> tuple[bootstrap.Interval, list[float]]:
  """The full arm against another one, seed by seed."""
  pairs = paired(outcomes, FULL, name)
  others = {run.arm.seed: other for run, other in pairs}
  read = _read(tables.RECOMMENDED)
  return difference(
    [run for run, _ in pairs], read, lambda run: read(others[run.arm.seed])
  )


def _interval(found: bootstrap.Interval) -> str:
  return f'{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]'


def _signed(values: Sequence[float]) -> str:
  return ', '.join(f'{value:+.1f}' for value in values)


def _poolings(outcomes) -> Table:
  runs = seeds_of(outcomes, FULL)
  found = runs[0].measured['pooling']
  names = {'trained': FULL, 'raw': RAW}
  rows = []
  for which, poolings in found.items():
    for pooling in poolings:
      each = [
        measure.recalls(run.measured['pooling'][which][pooling]) for run in runs
      ]
      cells = [
        ' / '.join(
          f'{np.mean([one[f"{side}_r{k}"] for one in each]):.1f}'
          for k in (1, 5, 10)
        )
        for side in ('t2i', 'i2t')
      ]
      total = _spread([one['rsum'] for one in each])
      rows.append([names[which], pooling, *cells, total])
  header = ['codes', 'pooling', 'images by texts', 'texts by images', 'Rsum']
  return Table('pooling, held-out nouns from real vectors', header, rows)


def _reranked(outcomes) -> Table:
  runs = seeds_of(outcomes, FULL)
  found = [run.measured['rerank'] for run in runs]
  alphas = found[0]['alpha']
  rows = [
    [name, *(f'{np.mean([f[name][i] for f in found]):.1f}'
             for i in range(len(alphas)))]
    for name in found[0] if name != 'alpha'
  ]  # fmt: skip
  header = ['knowledge', *(f'alpha {alpha:g}' for alpha in alphas)]
  return Table('Rsum of a noisy base, its 15 best re-ranked', header, rows)


def _colours(outcomes) -> Table:
  runs = seeds_of(outcomes, FULL)
  rows = []
  for name in (tables.RECOMMENDED, tables.COLOURS_DROPPED, tables.COLOURS_OUT):
    each = [
      measure.recalls(run.measured['ranks'][name], _chosen(run, 'coloured'))
      for run in runs
    ]
    label = 'colours known' if name == tables.RECOMMENDED else name
    rows.append(
      [label, *(_spread([e[f't2i_r{k}'] for e in each]) for k in (1, 5, 10))]
    )
  return Table(
    'the documented failure: images by captions with a colour',
    ['colours', 'R@1', 'R@5', 'R@10'],
    rows,
  )


INSIGHTS = {
  'noun_accuracy': 'nearest prototype, known nouns',
  'colour_accuracy': 'nearest prototype, colours',
  'rsa': 'RSA, words',
  'rsa_nouns': 'RSA, nouns',
  'ood_cosine': 'cosine to the truth, held-out nouns',
  'shuffled_cosine': '… shuffled vectors',
  'noun_cosine': '… known nouns left out',
  'colour_cosine': '… colours left out',
}


def _insight(outcomes) -> Table:
  rows = []
  for name in dict.fromkeys(outcome.arm.name for outcome in outcomes):
    runs = seeds_of(outcomes, name)
    if 'insight' not in runs[0].measured:
      continue
    mean = lambda key, runs=runs: np.mean(
      [run.measured['insight'][key] for run in runs]
    )
    rows.append([name, *(f'{mean(key):.2f}' for key in INSIGHTS)])
  return Table('prototypes from inside', ['arm', *INSIGHTS.values()], rows)


def _stamps(found: dict[str, Any]) -> Table:
  rows = [
    [name, *(f'{value:.1f}' for value in values)]
    for name, values in found['recalls'].items()
  ]
  return Table(
    f'captioned stamps (real, raw prototypes): images by the '
    f'{found["captions"]} captions with a word of no labelled stamp',
    ['such words', 'R@1', 'R@5', 'R@10'],
    rows,
  )


def findings(outcomes: Sequence[Outcome]) -> list[str]:
  """What replicated and what did not."""
  runs = seeds_of(outcomes, FULL)
  said = []
  for better, than in (*COMPARED[:4], COMPARED[-1]):
    found, each = difference(runs, _read(better), _read(than))
    said.append(
      f'Captions with a held-out noun, "{better}" against "{than}": '
      f'{_interval(found)} points of R@{K}: {verdict(found, each)}.'
    )
  said.append(_fillers(runs))
  for name in list(NAMES)[1:4]:
    if not seeds_of(outcomes, name):
      continue
    found, each = _against(outcomes, name)
    totals = [
      tuple(
        measure.recalls(one.measured['ranks'][tables.RECOMMENDED])['rsum']
        for one in pair
      )
      for pair in paired(outcomes, FULL, name)
    ]
    gap = np.mean([full - less for full, less in totals])
    said.append(
      f'All losses against {name}: {_interval(found)} points on those captions '
      f'and {gap:+.1f} of Rsum: {verdict(found, each)}.'
    )
  return [*said, _knowledge_reranks(runs)]


def _fillers(runs: Sequence[Outcome]) -> str:
  """How much of what Rsum gains any filler gives."""
  total = lambda variant: np.mean(
    [measure.recalls(run.measured['ranks'][variant])['rsum'] for run in runs]
  )
  drop = total(tables.DROP)
  real, constant = (
    total(name) - drop for name in (tables.RECOMMENDED, tables.CONSTANT)
  )
  return (
    f'Over dropping held-out nouns, Rsum gains {real:+.1f} with real vectors '
    f'and {constant:+.1f} with one constant prototype for all of them: a gain '
    'in Rsum alone says little about what a word means.'
  )


def _knowledge_reranks(runs: Sequence[Outcome]) -> str:
  found = [run.measured['rerank'] for run in runs]
  mean = {
    name: np.mean([one[name] for one in found], axis=0)
    for name in ('MASK', 'shuffled', 'constant')
  }
  best = int(np.argmax(mean['MASK']))
  gain = {name: values[best] - values[0] for name, values in mean.items()}
  alpha = found[0]['alpha'][best]
  inside = 0 < best < len(found[0]['alpha']) - 1
  return (
    f'Re-ranking a noisy base is best at alpha {alpha:g} '
    f'({"an optimum inside" if inside else "the end of the sweep"}): Rsum '
    f'{gain["MASK"]:+.1f}, against {gain["shuffled"]:+.1f} with shuffled and '
    f'{gain["constant"]:+.1f} with constant knowledge.'
  )


def verdict(found: bootstrap.Interval, each: Sequence[float]) -> str:
  """One sentence about a difference that a paper says is positive."""
  if len(each) == 1:
    return 'one seed decides nothing'
  if min(each) > 0 and found.low > 0:
    return 'replicated with every seed'
  if max(each) < 0 and found.high < 0:
    return 'did not replicate: the other way round with every seed'
  return 'did not replicate: not told from zero, or seeds differ in sign'
