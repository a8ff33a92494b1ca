"""Fine-tunes a published vision-language model on your own conversations.

  python -m launch.train --config=experiments/sft/sft.py:model=qwen2.5-vl-7b \
    --config.model.init_from=Qwen/Qwen2.5-VL-7B-Instruct \
    --config.data.path=gs://BUCKET/talks.jsonl
  python -m launch.compile --config=experiments/sft/sft.py:model=pixtral-12b \
    --table --steps=train,prefill,decode

A row is {"images": ["a.jpg", "b.mp4", ...], "messages": [{"role": "user",
"content": [{"type": "image"}, {"type": "text", "text": "..."}]}, ...]}; see
task.py. `lora=16` trains adapters of that rank instead of everything.

Sizes: `full`; `smoke`, which a test runs on a checkpoint made on the spot.
"""

from ml_collections import ConfigDict

from experiments.common import base_config, parse_arg

# Shapes of a row: tokens, tiles or patches, visual tokens. Two images of a
# megapixel for Qwen-VL, one image of twelve tiles and its thumbnail for
# InternVL, one of 1024 x 1024 pixels for Pixtral.
SHAPES = {
  'qwen2.5-vl-3b': (4_096, 10_368, 2_592),
  'qwen2.5-vl-7b': (4_096, 10_368, 2_592),
  'qwen2.5-vl-72b': (4_096, 10_368, 2_592),
  'qwen3-vl-2b': (4_096, 8_192, 2_048),
  'qwen3-vl-4b': (4_096, 8_192, 2_048),
  'qwen3-vl-8b': (4_096, 8_192, 2_048),
  'qwen3-vl-32b': (4_096, 8_192, 2_048),
  'internvl3-1b': (4_096, 13, 3_328),
  'internvl3-2b': (4_096, 13, 3_328),
  'internvl3-8b': (4_096, 13, 3_328),
  'internvl3-14b': (4_096, 13, 3_328),
  'pixtral-12b': (4_352, 4_096, 4_096),
  'llava-onevision-0.5b': (8_192, 10, 7_371),
  'llava-onevision-7b': (8_192, 10, 7_371),
}


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of one model; see the module's docstring."""
  options = parse_arg(arg, ('full', 'smoke'), model='qwen2.5-vl-7b', lora=0)
  config = base_config()
  config.task = 'experiments.sft.task'
  config.workdir = f'runs/sft/{options.model}'
  config.model.lora.rank = options.lora
  config.model.lora.alpha = 2.0 * options.lora
  if options.size == 'smoke':
    return _smoke(config)
  if options.model not in SHAPES:
    raise ValueError(
      f'model={options.model!r}, expected one of {sorted(SHAPES)}'
    )
  return _full(config, options.model)


def _full(config: ConfigDict, model: str) -> ConfigDict:
  config.steps = 2_000
  config.batch_size = 256
  config.log_every = 10
  config.model.preset = model
  config.model.init_from = 'gs://BUCKET/CHECKPOINT'
  config.runtime.dtype = 'bfloat16'
  config.runtime.remat = 'block'
  config.optimizer.lr = 1e-4 if config.model.lora.rank else 1e-5
  config.optimizer.warmup = 100
  config.checkpoint.every = 500
  config.data.seq_len, config.data.units, config.data.visual_tokens = SHAPES[
    model
  ]
  config.data.path = 'gs://BUCKET/talks.jsonl'
  config.data.images = 'gs://BUCKET/images'
  config.data.eval_path = 'gs://BUCKET/talks-eval.jsonl'
  config.data.workers = 16
  config.data.on_bad = 'skip'
  config.data.packing = True
  config.eval.batch_size = 64
  config.eval.max_new_tokens = 256
  config.rollout.samples = 4
  # Parameters lie whole on every few chips: a step reads all of them.
  config.rollout.mesh.tensor = 2 if model == 'qwen2.5-vl-3b' else 4
  # More HBM takes more rows at a time; v5p:2x4x4 has half the chips.
  config.slices = (
    ('v5e:8x8', {'accumulate': 4}),
    ('v6e:8x8', {'accumulate': 2}),
    ('v5p:2x4x4', {'accumulate': 2}),
  )
  return config


def _smoke(config: ConfigDict) -> ConfigDict:
  """Set --config.model.init_from and --config.data.path."""
  config.steps = 6
  config.batch_size = 8
  config.log_every = 2
  config.data.seq_len, config.data.units, config.data.visual_tokens = (
    96,
    256,
    64,
  )
  config.data.eval_path = ''
  config.eval.batch_size = 8
  config.eval.max_new_tokens = 8
  return config
