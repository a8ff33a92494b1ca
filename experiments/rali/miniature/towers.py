r"""The student of RALI in miniature: a CLIP of some fifty thousand numbers.

  python -m launch.train \
    --config=experiments/rali/miniature/towers.py:tiny,arm=captions

Arms, each a run of its own:

  captions  both towers from scratch on generic photographs and their captions
            with mistakes: what a published CLIP is at full size
  align     stage 1 on family A: the image tower learns a teacher's descriptions
            (align.py at full size); starts from `captions`, reads the folder of
            `config.described.A`
  mse       the control that RALI has to beat: the image tower learns family A's
            opinions by squared error; starts from `captions`

Whatever was trained without opinions is tested through stages 2 and 3, see
tower_task.py. Sizes: `tiny`, `smoke`.
"""

from ml_collections import ConfigDict

from data import dct
from experiments.common import contrastive_fields, parse_arg
from experiments.rali import q_insight
from vlm.methods.rali import scorer

ARMS = ('captions', 'align', 'mse')
HOME = 'A'
FREEZE_TEXT = ((r'text/.*', {'freeze': True}),)


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of one size and arm; see the module's docstring.

  Raises:
    ValueError: another arm.
  """
  options = parse_arg(arg, ('tiny', 'smoke'), arm='align', seed=0)
  if options.arm not in ARMS:
    raise ValueError(f'arm={options.arm!r}, expected one of {ARMS}')
  smoke = options.size == 'smoke'
  config = q_insight.get_config(f'{options.size},arm=base,seed={options.seed}')
  config.workdir = f'runs/rali/tower-{options.size}-{options.arm}-0'
  config.task = 'experiments.rali.miniature.tower_task'
  config.objective = 'contrastive'
  config.contrastive = contrastive_fields()
  config.sets.degradations = ()
  config.iqa.think, config.iqa.reader = False, 'number'
  _towers(config, smoke)
  # Stages 2 and 3 (spec 9.2); rates and their stop are ours (spec 9.4).
  config.scorer = {
    'components': 8 if smoke else 24,
    'prototypes': 12 if smoke else 48,
    'bins': 10 if smoke else 40,
    'tau': scorer.TAU,
    'epochs': 4 if smoke else 50,
    'lr': 1e-3,
    'held_out': 0.1,
  }
  config.optimizer.lr, config.optimizer.warmup = 1e-3, 2 if smoke else 20
  config.steps, config.batch_size = (20, 16) if smoke else (600, 128)
  if options.arm != 'captions':
    config.sets.train = (HOME,)
    config.steps = 8 if smoke else 200
    config.optimizer.lr = 5e-4
  if options.arm == 'align':
    config.contrastive.texts = 3
    config.optimizer.rules = FREEZE_TEXT
  if options.arm == 'mse':
    config.objective = 'regression'
    config.regression = {
      'of': 'picture', 'column': 0, 'centre': q_insight.CENTRE
    }  # fmt: skip
    config.optimizer.rules = ((r'text.*|logit_scale', {'freeze': True}),)
  return config


def _towers(config: ConfigDict, smoke: bool) -> None:
  size = {
    'width': 24 if smoke else 40,
    'heads': 4,
    'mlp_width': 48 if smoke else 80,
  }
  pixels = {
    'image_size': 24,
    'patch': 6,
    'depth': 2,
    'pixel_mean': (0.5, 0.5, 0.5),
    'pixel_std': (1 / (2 * dct.RANGE),) * 3,
  }
  config.model.vision = size | pixels
  config.model.text = size | {'context': 32, 'depth': 1}
  config.model.embedding = 16 if smoke else 48
  config.model.decoder = {}
