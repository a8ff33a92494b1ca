r"""MASK: one visual prototype for every word, and a region encoder for them.

  python -m launch.train --config=experiments/mask/mask.py:full \
    --config.data.path=visual_genome --config.data.features=butd \
    --config.data.vectors=glove.840B.300d.txt
  python -m launch.train --config=experiments/mask/mask.py:tiny
  python -m launch.reproduce --systems=mask --seeds=3

Sizes: `full`, the paper's networks and rates on published features of Visual
Genome's boxes; `tiny`, the world of composed scenes, seconds to train; `smoke`,
the same with features that are drawn, not seen. Arms of the small sizes:

  mask        all losses (Eq. 14)
  no_cl       without L_cl (Eq. 6)
  no_cm       without L_cm (Eq. 7 to 9)
  no_ir       without L_ir (Eq. 4 and 5)
  in_context  regions attend to the others of their image (the paper's figure)
  supervised  the bound: trained on scenes with their captions, of all words
"""

import dataclasses

from ml_collections import ConfigDict

from experiments.common import base_config, parse_arg
from vlm.train.prototypes import FROZEN, PrototypeSettings

ARMS = ('mask', 'no_cl', 'no_cm', 'no_ir', 'in_context', 'supervised')
# Table 8: 128 sets of 36 regions, 4,608 pairs at most; an epoch is a pass over
# as many sets as VG has images with boxes.
SETS, REGIONS = 128, 36
IMAGES, EPOCHS = 107_194, 400


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of one size and arm; see the module's docstring.

  Raises:
    ValueError: for an unknown arm, or one of the small sizes at full size.
  """
  options = parse_arg(arg, ('full', 'tiny', 'smoke'), arm='mask', seed=0)
  if options.arm not in ARMS:
    raise ValueError(f'arm={options.arm!r}, expected one of {ARMS}')
  if options.size == 'full' and options.arm == 'supervised':
    raise ValueError('arm=supervised is of the sizes tiny and smoke')
  config = base_config()
  config.objective = 'prototypes'
  config.seed = options.seed
  config.workdir = f'runs/mask/{options.size}-{options.arm}-{options.seed}'
  config.mask = dataclasses.asdict(PrototypeSettings()) | {'refresh': 1}
  config.optimizer.clip = 0.0  # spec 5: plain Adam, no decay
  config.optimizer.schedule = 'constant'
  config.optimizer.rules = (FROZEN,)
  config.data.vectors = ''
  config.data.subsample = 0.0  # share of the pairs from which words are rarer
  if options.size == 'full':
    _full(config)
  else:
    _small(config, options.size == 'smoke')
  _arm(config, options.arm)
  return config


def _arm(config: ConfigDict, arm: str) -> None:
  """What an arm changes."""
  weight = {
    'no_cl': 'consistency',
    'no_cm': 'cross_modal',
    'no_ir': 'retention',
  }
  if arm == 'mask' and 'measure' in config:
    config.measure.whole = True
  elif arm in weight:
    config.mask[weight[arm]] = 0.0
  elif arm == 'in_context':
    config.model.encoder.context = 'image'
  elif arm == 'supervised':
    config.objective = 'region_text'
    config.optimizer.rules = ()
    config.steps *= 5  # a bound has to be trained to its end


def _full(config: ConfigDict) -> None:
  config.task = 'experiments.mask.genome'
  config.model.encoder = {
    'features': 2048,
    'latent': 512,
    'words': 300,
    'depth': 3,
    'heads': 8,
    'word_heads': 6,
    'context': 'image',  # Table 8: attention over 36 regions
  }
  config.batch_size = SETS  # 128 x 36 = 4,608 pairs
  config.steps = EPOCHS * IMAGES // SETS
  config.mask.refresh = IMAGES // SETS
  config.checkpoint.every = 5 * config.mask.refresh
  config.optimizer.lr = 1e-4
  config.data.path = 'VISUAL_GENOME'  # folder of its json files
  config.data.features = 'FEATURES'  # a file of box features for each image
  config.data.vectors = 'glove.840B.300d.txt'
  config.data.regions, config.data.labels = REGIONS, 24
  config.data.without = ''  # dataset_coco.json, whose test images to leave out
  config.data.minimum, config.data.largest = 5, 12_385  # spec 2.1
  config.data.workers, config.data.on_bad = 16, 'skip'


def _small(config: ConfigDict, smoke: bool) -> None:
  config.task = 'experiments.mask.task'
  config.scenes = {
    'seed': 0,
    'appearance': 'features' if smoke else 'pixels',
    'features': 64 if smoke else 192,
    'filters': 16 if smoke else 128,
    'knowledge': 300 if smoke else 1_600,
    'paired': 100 if smoke else 3_200,
    'test': 60 if smoke else 400,
    'cache': 'runs/worlds',
  }
  config.measure = {'whole': False, 'pictures': 3}
  config.model.encoder = {
    'features': config.scenes.features,
    'latent': 32 if smoke else 64,
    'words': 50,
    'depth': 3,
    'heads': 4,
    'word_heads': 5,
    'context': 'none',  # spec A1: a scene's clutter is not what a word means
  }
  config.mask.temperature = 0.1  # spec 9
  config.mask.refresh = 20 if smoke else config.scenes.knowledge // 32
  config.steps = 60 if smoke else 400
  config.batch_size = 32
  config.log_every = 20 if smoke else 50
  config.optimizer.lr = 1e-3
  config.data.regions, config.data.labels = 8, 2
  config.data.words = 9  # of a caption: three things with colour and texture
