"""Q-Insight, RALI and RACT in miniature: tables and sentences (spec 9).

Every arm starts from a base that has learnt to speak from captions with
mistakes, or from a CLIP that has learnt them, and is tested on all five
families. Whether reasoning or the second task helps out of domain is what the
four arms of the grid {think, no think} x {score, score + degradation} are for;
whether RALI keeps what its teacher has, what its ablations are. Whatever comes
out is reported.
"""

from collections.abc import Sequence

import numpy as np

from data.sources.photo_rows import scale_of
from experiments.miniature import (
  Arm,
  Outcome,
  Summary,
  Table,
  names_of,
  paired,
  seeds_of,
  spread_of,
)
from experiments.rali.miniature import (
  brisque_scorer,
  chains,
  figures,
  parts,
  reasoning_tables,
)
from experiments.rali.miniature.readings import (
  HOME,
  Reading,
  drawn,
  greedy,
  out_of_domain,
  range_of,
  verdict,
)

TITLE = 'RALI: image quality by reasoning, and without a language model'
CLAIM = (
  'Trained by rewards on one data set, a model that describes degradations '
  'before it rates agrees better with the opinions of other data sets than one '
  'trained on the scores (Q-Insight); a small image tower aligned with its '
  'descriptions does as well (RALI); descriptions of several data sets can be '
  'pooled where their scores cannot (RACT). Miniature: procedural photographs '
  'of 32 x 32 pixels, five families with crowds of their own, two hundred '
  'thousand parameters from scratch. Not comparable with published numbers.'
)
# (better, than) that the papers say or imply, out of domain.
CLAIMS = (
  (chains.PLAIN_TEACHER, 'GRPO, no think, score'),
  (chains.TEACHER, 'GRPO, no think, score + degradation'),
  (chains.TEACHER, chains.PLAIN_TEACHER),
  (chains.TEACHER, chains.WORDS),
  (chains.TEACHER, chains.HEAD),
  (chains.TEACHER, chains.BASE),
  (chains.RANK, chains.WORDS),
  (chains.RALI, chains.CLIP),
  (chains.RALI, chains.MSE),
)


def arms(seeds: int, thorough: bool) -> list[Arm]:
  """Every run with every seed; see chains.py."""
  return chains.arms(seeds, thorough)


def prepare(arms: Sequence[Arm]) -> None:
  """Nothing is shared on disk; an unusable world is found out here."""
  world = arms[0].config.photos
  for name in arms[0].config.sets.eval:
    scale_of(world.seed, name, world.train + world.test)


def summarise(outcomes: Sequence[Outcome]) -> Summary:
  """Agreement in and out of domain, real photographs, paired differences."""
  home = [o for o in outcomes if o.arm.name not in chains.POOLED]
  speaking = [o for o in home if o.arm.name not in chains.NUMBERS]
  tables = [
    _agreement(home, 'greedy answers', greedy),
    _agreement(speaking, 'mean of drawn answers', drawn),
    _by_set(home),
    _photographs(home),
    parts.ablation(outcomes),
    parts.costs(outcomes),
    parts.pooled(outcomes),
    *reasoning_tables.tables(outcomes),
  ]
  return Summary(
    TITLE,
    CLAIM,
    [table for table in tables if table is not None],
    figures.draw(outcomes, (chains.TEACHER, chains.BLIND_TEACHER, chains.RALI)),
    [
      *findings(outcomes),
      *parts.sentences(outcomes),
      *reasoning_tables.sentences(outcomes, chains.BOTTLENECKS),
      *brisque_scorer.sentences(),
    ],
  )


def _agreement(outcomes, title: str, read: Reading) -> Table:
  header = ['arm', 'A PLCC', 'A SRCC', 'B-E PLCC', 'B-E SRCC', 'unread']
  rows = []
  for name in names_of(outcomes):
    runs = seeds_of(outcomes, name)
    unread = [sum(read(run, n, 'unread') for n in run.sets) for run in runs]
    cells = parts.cells(runs, lambda run: read)
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
