r"""RACT: one model for several data sets, from descriptions (arXiv 2510.11369).

  for SET in koniq spaq kadid pipal; do
    python -m launch.train --config=experiments/rali/q_insight.py:full \
      --config.sets.train="('$SET',)" --config.workdir=runs/rali/$SET
    python -m launch.describe --config=experiments/rali/q_insight.py:full \
      --checkpoint=runs/rali/$SET --set=$SET --samples=1 --rows=described \
      --output=descriptions/$SET.json
  done
  python -m launch.train --config=experiments/rali/ract.py:full \
    --config.init_from=runs/rali/koniq

Models that were trained on one set each describe its images; opinions of
different sets disagree, descriptions do not. The pool of descriptions then
trains the vision tower alone, and only one set keeps its scores, so that the
answer stays calibrated. Sizes as in q_insight.py; `tiny` and `smoke` take the
captions of the world of photographs where `config.described` names no folder
of a run that described them.
"""

from ml_collections import ConfigDict

from experiments.common import parse_arg
from experiments.rali import q_insight

SETS = ('koniq', 'spaq', 'kadid', 'pipal')
SCORED = 'koniq'
FAMILIES = ('A', 'B', 'C', 'D')
# Tower, merger or projector learn; what reasons does not.
FREEZE_DECODER = ((r'decoder/.*', {'freeze': True}),)


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of one size and model; see the module's docstring."""
  options = parse_arg(
    arg, ('full', 'tiny', 'smoke'), model='qwen2.5-vl-7b', seed=0
  )
  config = q_insight.get_config(
    f'{options.size},model={options.model},arm=sft_description,'
    f'seed={options.seed}'
  )
  config.workdir = f'runs/rali/ract-{options.size}-{options.seed}'
  config.sets.degradations = ()
  config.optimizer.rules = FREEZE_DECODER
  if options.size == 'full':
    config.sets.train = tuple(f'descriptions/{name}.json' for name in SETS)
    config.sets.scored = (SCORED,)
    config.data.images = 'gs://BUCKET/Data-DeQA-Score'
    # Two epochs (ours; the paper's are unknown) of 42,000 images.
    config.optimizer.lr, config.batch_size, config.steps = 1e-5, 128, 660
    return config
  config.sets.train, config.sets.scored = FAMILIES, FAMILIES[:1]
  if options.size == 'tiny':
    config.steps = 188  # two epochs, as at full size
  return config
