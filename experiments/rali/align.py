"""RALI, stage 1: a CLIP's image tower learns what the teacher says of images.

  python -m launch.train --config=experiments/rali/align.py \
    --config.model.init_from=openai/clip-vit-large-patch14-336 \
    --config.data.path=gs://BUCKET/train_koniq_7k.json
  python -m launch.convert --from=orbax --input=runs/rali/align --output=best
  python -m launch.compile --config=experiments/rali/align.py:batch=16384 \
    --table --steps=train

A row is one of Data-DeQA-Score with the teacher's texts (what stands between
its think tags) under `descriptions`; see align_task.py. `text=train` trains the
text tower too, at a tenth of the rate; `texts=1` is the ablation without seed
augmentation.

Published are backbone, loss and data. Rates, epochs, batch and decay are ours
(spec section 5). Sizes: `full`; `smoke`, small towers on shapes, seconds.
"""

from ml_collections import ConfigDict

from experiments.common import parse_arg
from experiments.contrastive import contrastive

# KonIQ's training images without the tenth that is held out.
IMAGES = 6_341
EPOCHS = 10


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of one size; see the module's docstring.

  Raises:
    ValueError: for text= other than frozen or train.
  """
  options = parse_arg(
    arg, ('full', 'smoke'), batch=256, text='frozen', texts=3, seed=0
  )
  if options.text not in ('frozen', 'train'):
    raise ValueError(f"text={options.text!r}, expected 'frozen' or 'train'")
  config = contrastive.get_config(options.size)
  config.workdir = 'runs/rali/align'
  config.seed = options.seed
  config.contrastive.texts = options.texts
  choice = {'freeze': True} if options.text == 'frozen' else {'lr': 0.1}
  config.optimizer.rules = ((r'text/.*', choice),)
  if options.size == 'smoke':
    return config
  return _full(config, options.batch)


def _full(config: ConfigDict, batch: int) -> ConfigDict:
  config.table = 'experiments/contrastive/README.md'
  config.task = 'experiments.rali.align_task'
  config.batch_size = batch
  config.steps = EPOCHS * IMAGES // batch
  epoch = -(-IMAGES // batch)
  config.log_every = 5
  config.optimizer.lr = 1e-5
  config.optimizer.warmup = config.steps // 20
  config.optimizer.weight_decay = 0.05
  config.optimizer.b2 = 0.999
  config.data.path = 'gs://BUCKET/train_koniq_7k.json'
  config.data.images = 'gs://BUCKET'
  config.data.texts = 'descriptions'
  config.data.held_out = 0.1
  config.eval.every = config.checkpoint.every = epoch
  config.checkpoint.keep_best = 'validation/ridge_srcc'
  # Parameters lie whole on every chip: they are small, the batch is large.
  config.mesh.data, config.mesh.fsdp = -1, 1
  # Large batches in parts of 32 pairs a chip; 64 would fill 98 % of it.
  config.slices = (('v5e:8x8', {'accumulate': max(1, batch // 2048)}),)
  return config
