"""Q-Insight in miniature: arms, tables, sentences (spec 9).

Every arm starts from a base that has learnt to speak from captions with
mistakes, is trained on family A alone, and is tested on all five. Whether
reasoning or the second task helps out of domain is what the four arms of the
grid {think, no think} x {score, score + degradation} are for; whatever comes
out is reported.
"""

from collections.abc import Sequence

import numpy as np

from data.sources.photo_rows import scale_of
from experiments.miniature import Arm, Outcome, Summary, Table
from experiments.rali import (
  brisque_scorer,
  figures,
  q_insight,
  reasoning_tables,
)
from experiments.rali.readings import (
  HOME,
  Reading,
  drawn,
  greedy,
  names_of,
  out_of_domain,
  paired,
  range_of,
  seeds_of,
  spread_of,
  verdict,
)

TITLE = 'Q-Insight: image quality by reasoning learnt from rewards'
CLAIM = (
  'Trained by rewards on one data set, a model that describes degradations '
  'before it rates agrees better with the opinions of other data sets than one '
  'trained on the scores. Miniature: procedural photographs of 32 x 32 pixels, '
  'five families with crowds of their own, two hundred thousand parameters '
  'from scratch. Not comparable with published numbers.'
)
BASE, SILENT = 'base', 'base, no think'
BLIND = 'base, bottleneck'
TEACHER = 'GRPO, think, score + degradation'
BLIND_TEACHER = 'GRPO, think, score + degradation, bottleneck'
# Arms whose answers never see the image, and what they stand beside.
BOTTLENECKS = ((BLIND, BASE), (BLIND_TEACHER, TEACHER))
# Name -> (arm of q_insight.py, the arm it starts from).
NAMES = {
  BASE: ('base', ''),
  SILENT: ('base_no_think', ''),
  'SFT, score as text': ('sft_score', SILENT),
  'GRPO, think, score': ('score', BASE),
  'GRPO, think, score + degradation': ('score_degradation', BASE),
  'GRPO, no think, score': ('no_think_score', SILENT),
  'GRPO, no think, score + degradation': ('no_think', SILENT),
  'VisualQuality-R1, think': ('rank', BASE),
  BLIND: ('base_bottleneck', ''),
  BLIND_TEACHER: ('bottleneck', BLIND),
}
# (better, than) that the papers say or imply, out of domain.
CLAIMS = (
  ('GRPO, think, score', 'GRPO, no think, score'),
  (
    'GRPO, think, score + degradation',
    'GRPO, no think, score + degradation',
  ),
  ('GRPO, think, score + degradation', 'GRPO, think, score'),
  ('GRPO, think, score + degradation', 'SFT, score as text'),
  ('GRPO, think, score + degradation', BASE),
  ('VisualQuality-R1, think', 'SFT, score as text'),
)


def arms(seeds: int, thorough: bool) -> list[Arm]:
  """Every arm with every seed; thorough asks for nothing but its seeds."""
  del thorough
  return [
    Arm(name, seed, q_insight.get_config(f'tiny,arm={arm},seed={seed}'), start)
    for seed in range(seeds)
    for name, (arm, start) in NAMES.items()
  ]


def prepare(arms: Sequence[Arm]) -> None:
  """Nothing is shared on disk; an unusable world is found out here."""
  world = arms[0].config.photos
  for name in arms[0].config.sets.eval:
    scale_of(world.seed, name, world.train + world.test)


def summarise(outcomes: Sequence[Outcome]) -> Summary:
  """Agreement in and out of domain, real photographs, paired differences."""
  return Summary(
    TITLE,
    CLAIM,
    [
      _agreement(outcomes, 'greedy answers', greedy),
      _agreement(outcomes, 'mean of drawn answers', drawn),
      _by_set(outcomes),
      _photographs(outcomes),
      *reasoning_tables.tables(outcomes),
    ],
    figures.draw(outcomes, (TEACHER, BLIND_TEACHER)),
    [
      *findings(outcomes),
      *reasoning_tables.sentences(outcomes, BOTTLENECKS),
      *brisque_scorer.sentences(),
    ],
  )


def _agreement(outcomes, title: str, read: Reading) -> Table:
  header = ['arm', 'A PLCC', 'A SRCC', 'B-E PLCC', 'B-E SRCC', 'unread']
  rows = []
  for name in names_of(outcomes):
    runs = seeds_of(outcomes, name)
    cells = [
      spread_of([read(run, HOME, metric) for run in runs])
      for metric in ('plcc', 'srcc')
    ]
    cells += [
      spread_of([out_of_domain(run, read, metric) for run in runs])
      for metric in ('plcc', 'srcc')
    ]
    unread = [sum(read(run, n, 'unread') for n in run.sets) for run in runs]
    rows.append([name, *cells, f'{np.mean(unread):.0f}'])
  bound = outcomes[0].measured['bound']
  others = [value for name, value in bound.items() if name != HOME]
  quality = ['latent quality (bound)', '-', f'{bound[HOME]:.3f}', '-']
  rows.append([*quality, f'{np.mean(others):.3f}', '-'])
  return Table(title, header, rows)


def _by_set(outcomes) -> Table:
  names = list(outcomes[0].sets)
  rows = [
    [name]
    + [
      spread_of([greedy(run, n, 'srcc') for run in seeds_of(outcomes, name)])
      for n in names
    ]
    for name in names_of(outcomes)
  ]
  return Table('SRCC of greedy answers by set', ['arm', *names], rows)


def _photographs(outcomes) -> Table:
  kinds = list(outcomes[0].measured['photographs'])
  rows = []
  for name in names_of(outcomes):
    found = [run.measured['photographs'] for run in seeds_of(outcomes, name)]
    cells = [spread_of([f[kind]['pairs'] for f in found]) for kind in kinds]
    rows.append([name, *cells])
  rows += brisque_scorer.rows(kinds)
  title = (
    'real photographs: pairs ranked by severity (pseudo-labels, chance 0.5)'
  )
  return Table(title, ['arm', *kinds], rows)


def findings(outcomes: Sequence[Outcome]) -> list[str]:
  """What the differences paired by seed say, also when they say no."""
  found = []
  for better, than in CLAIMS:
    pairs = paired(outcomes, better, than)
    if not pairs:
      continue
    gaps = [
      out_of_domain(a, greedy, 'srcc') - out_of_domain(b, greedy, 'srcc')
      for a, b in pairs
    ]
    home = [greedy(a, HOME, 'srcc') - greedy(b, HOME, 'srcc') for a, b in pairs]
    found.append(
      f'"{better}" against "{than}": {np.mean(gaps):+.3f} SRCC out of domain '
      f'({range_of(gaps)}), {np.mean(home):+.3f} in domain: {verdict(gaps)}.'
    )
  return found
