"""The runs of the miniature of RALI, and which of them start from which.

Quick: the base, a regression head on it, the teacher, and one RALI from its
pre-training to a scorer, with its control. Thorough, besides: the rest of the
grid {think, no think} x {score, score + degradation} and of the supervised
peers, VisualQuality-R1, RALI without seed augmentation and from the weaker
teacher, and RACT: teachers of three more families, what they say as one pool,
and the same families mixed without descriptions; and models whose answers never
see the image.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.miniature import Arm
from experiments.rali import q_insight, ract
from experiments.rali.miniature import towers

BASE, SILENT = 'base', 'base, no think'
WORDS, HEAD = 'SFT, score as text', 'SFT, regression head'
LEVEL, DEQA = 'SFT, level as text', 'DeQA-Score, soft levels'
PLAIN_TEACHER = 'GRPO, think, score'
TEACHER = 'GRPO, think, score + degradation'
RANK = 'VisualQuality-R1, think'
BLIND, BLIND_TEACHER = f'{BASE}, bottleneck', f'{TEACHER}, bottleneck'
# Whose answers never see the image, and what they stand beside.
BOTTLENECKS = ((BLIND, BASE), (BLIND_TEACHER, TEACHER))
CLIP, MSE = 'CLIP with a scorer', 'CLIP, squared error'
RALI = 'RALI'
ONE, PLAIN_RALI = 'RALI, one description', 'RALI of the score-only teacher'
RACT = 'RACT, A to D'
MIXED, MIXED_HEAD = 'GRPO, A to D', 'regression head, A to D'
FAMILIES = ract.FAMILIES
SINGLE = {family: f'GRPO on {family}' for family in FAMILIES[1:]}
# Trained on other families than A alone: of a table of their own.
POOLED = (*SINGLE.values(), MIXED, MIXED_HEAD, RACT)
# They say one number, however often they are asked.
NUMBERS = (HEAD, DEQA, MIXED_HEAD, CLIP, MSE, RALI, ONE, PLAIN_RALI)


@dataclasses.dataclass(frozen=True)
class Link:
  """One run of a chain.

  Attributes:
    make: its config, of a size and a seed.
    start: the run it starts from.
    needs: as of `Arm`.
    thorough: left out of the quick setting.
  """

  make: Callable[[str, int], ConfigDict]
  start: str = ''
  needs: Mapping[str, str] = dataclasses.field(default_factory=dict)
  thorough: bool = False


def _config(
  module: Any, arm: str, fields: Mapping[str, Any], size: str, seed: int
) -> ConfigDict:
  """A module's config of an arm, with some fields changed."""
  option = f'arm={arm},' if arm else ''
  config = module.get_config(f'{size},{option}seed={seed}')
  config.update_from_flattened_dict(fields)
  return config


def _of(module: Any, arm: str = '', fields: Mapping[str, Any] = {}) -> Callable:
  return functools.partial(_config, module, arm, dict(fields))


_vlm = functools.partial(_of, q_insight)
_tower = functools.partial(_of, towers)
_describing = lambda family: {'measure.describe': (family,)}
_on = lambda *names: {'sets.train': names}
_both_on = lambda *names: _on(*names) | {'sets.degradations': names}


LINKS = {
  BASE: Link(_vlm('base')),
  SILENT: Link(_vlm('base_no_think'), thorough=True),
  WORDS: Link(_vlm('sft_score'), SILENT, thorough=True),
  LEVEL: Link(_vlm('sft_level'), SILENT, thorough=True),
  DEQA: Link(_vlm('deqa'), SILENT, thorough=True),
  HEAD: Link(_vlm('sft_regression'), BASE),
  TEACHER: Link(_vlm('score_degradation', _describing('A')), BASE),
  PLAIN_TEACHER: Link(_vlm('score', _describing('A')), BASE, thorough=True),
  'GRPO, no think, score': Link(_vlm('no_think_score'), SILENT, thorough=True),
  'GRPO, no think, score + degradation': Link(
    _vlm('no_think'), SILENT, thorough=True
  ),
  CLIP: Link(_tower('captions')),
  MSE: Link(_tower('mse'), CLIP),
  RALI: Link(_tower('align'), CLIP, {'described.A': TEACHER}),
  RANK: Link(_vlm('rank'), BASE, thorough=True),
  BLIND: Link(_vlm('base_bottleneck'), thorough=True),
  BLIND_TEACHER: Link(_vlm('bottleneck'), BLIND, thorough=True),
  ONE: Link(
    _tower('align', {'contrastive.texts': 1}),
    CLIP,
    {'described.A': TEACHER},
    thorough=True,
  ),
  PLAIN_RALI: Link(
    _tower('align'), CLIP, {'described.A': PLAIN_TEACHER}, thorough=True
  ),
  **{
    name: Link(
      _vlm('score_degradation', _both_on(family) | _describing(family)),
      BASE,
      # Their halves are exchanged: E4 of the specification.
      {'measure.partner': TEACHER},
      thorough=True,
    )
    for family, name in SINGLE.items()
  },
  MIXED: Link(
    _vlm('score_degradation', _both_on(*FAMILIES)), BASE, thorough=True
  ),
  MIXED_HEAD: Link(_vlm('sft_regression', _on(*FAMILIES)), BASE, thorough=True),
  RACT: Link(
    _of(ract),
    TEACHER,
    {'described.A': TEACHER}
    | {f'described.{family}': name for family, name in SINGLE.items()},
    thorough=True,
  ),
}


def arms(seeds: int, thorough: bool, size: str = 'tiny') -> list[Arm]:
  """Every run with every seed."""
  return [
    Arm(name, seed, link.make(size, seed), link.start, link.needs)
    for seed in range(seeds)
    for name, link in LINKS.items()
    if thorough or not link.thorough
  ]
