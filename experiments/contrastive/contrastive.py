"""Trains a CLIP on your own pictures and texts.

  python -m launch.train --config=experiments/contrastive/contrastive.py \
    --config.model.init_from=openai/clip-vit-large-patch14-336 \
    --config.data.path=gs://BUCKET/pairs.jsonl
  python -m launch.evaluate --config=experiments/contrastive/contrastive.py \
    --checkpoint=runs/contrastive/full --config.data.eval_path=...
  python -m launch.compile --config=experiments/contrastive/contrastive.py \
    --topology=v5e:4x4 --steps=train

A row is {"image": "a.jpg", "texts": ["...", "..."]}; see task.py.
`--config.accumulate` embeds a batch in so many parts and keeps the activations
of none of them (gradient caching): the loss is still over the whole batch.

Sizes: `full`, CLIP ViT-L/14-336; `smoke`, a small CLIP from scratch on shapes,
seconds on a CPU, `loss=sigmoid` for SigLIP's loss.
"""

from ml_collections import ConfigDict

from experiments.common import base_config, contrastive_fields, parse_arg


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of one size; see the module's docstring."""
  options = parse_arg(arg, ('full', 'smoke'), loss='softmax', batch=256)
  config = base_config()
  config.objective = 'contrastive'
  config.contrastive = contrastive_fields()
  config.contrastive.loss = options.loss
  config.workdir = f'runs/contrastive/{options.size}'
  config.data.texts = 'texts'
  config.data.eval_path = ''
  config.optimizer.b2 = 0.98  # CLIP, table 20
  if options.size == 'smoke':
    return _smoke(config)
  return _full(config, options.batch)


def _full(config: ConfigDict, batch: int) -> ConfigDict:
  config.task = 'experiments.contrastive.task'
  config.steps = 10_000
  config.batch_size = batch
  config.log_every = 20
  config.model.preset = 'clip-l14-336'
  config.model.init_from = 'gs://BUCKET/clip-vit-large-patch14-336'
  config.runtime.dtype = 'bfloat16'
  config.runtime.remat = 'block'
  config.optimizer.lr = 1e-5
  config.optimizer.warmup = 500
  config.optimizer.weight_decay = 0.05
  config.checkpoint.every = 500
  config.data.path = 'gs://BUCKET/pairs.jsonl'
  config.data.images = 'gs://BUCKET/images'
  config.data.workers = 16
  config.data.on_bad = 'skip'
  config.eval.batch_size = 256
  return config


def _smoke(config: ConfigDict) -> ConfigDict:
  config.task = 'experiments.contrastive.toy'
  config.toy = {'train_rows': 240, 'eval_rows': 48, 'size': 32}
  config.steps = 30
  config.batch_size = 48
  config.log_every = 10
  config.model.vision = {
    'image_size': 32,
    'patch': 8,
    'width': 32,
    'depth': 1,
    'heads': 2,
    'mlp_width': 64,
  }
  config.model.text = {
    'context': 16,
    'width': 32,
    'depth': 1,
    'heads': 2,
    'mlp_width': 64,
  }
  config.model.embedding = 24
  config.optimizer.lr = 3e-3
  config.optimizer.warmup = 5
  config.eval.batch_size = 48
  return config
