"""Fine-tunes a published video model with compressed videos; sizes its prefill.

  python -m launch.train --config=experiments/flashvid/video.py \
    --config.model.init_from=llava-hf/llava-onevision-qwen2-7b-ov-hf \
    --config.data.path=gs://BUCKET/talks.jsonl --flashvid.retention=0.1
  python -m launch.compile --config=experiments/flashvid/video.py \
    --topology=v5e:2x4 --steps=prefill,decode --config.flashvid.retention=0.1

Rows are conversations about videos as of experiments/sft. A row has room for
one video of 32 frames beside 512 tokens of text. FlashVID itself is without
training; this trains through its merged tokens, which every layer then sees (a
training row has no last token that could say what to prune).

Sizes: `full`; `smoke`, which a test runs on a checkpoint made on the spot.
"""

from ml_collections import ConfigDict

from experiments.common import base_config, parse_arg
from experiments.sft import sft

TEXT = 512
# (temporal units, tokens of each, tiles or patches of the video)
VIDEOS = {
  'llava-onevision-0.5b': (32, 196, 32),
  'llava-onevision-7b': (32, 196, 32),
  # 32 frames of 448 x 448 pixels, two to a unit.
  'qwen2.5-vl-3b': (16, 256, 16_384),
  'qwen2.5-vl-7b': (16, 256, 16_384),
  # 32 frames of 512 x 512 pixels, two to a unit.
  'qwen3-vl-8b': (16, 256, 16_384),
  'internvl3-8b': (32, 256, 32),
}


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of one model; see the module's docstring."""
  options = parse_arg(
    arg, ('full', 'smoke'), model='llava-onevision-7b', retention=0.25
  )
  if options.size == 'smoke':
    return _smoke(options.retention)
  if options.model not in VIDEOS:
    raise ValueError(
      f'model={options.model!r}, expected one of {sorted(VIDEOS)}'
    )
  config = sft.get_config(f'full,model={options.model}')
  config.workdir = f'runs/flashvid/{options.model}'
  config.flashvid.update(_published(options.model, options.retention))
  frames, tokens, config.data.units = VIDEOS[options.model]
  # One more token: the newline behind a video of LLaVA-OneVision.
  config.data.visual_tokens = frames * tokens + 1
  config.data.seq_len = frames * tokens + TEXT
  config.data.clips = (1, frames, tokens)
  config.data.frames = 32
  config.data.packing = False
  config.rollout.rows = 8
  config.rollout.samples = 1
  config.rollout.new_tokens = 16
  return config


def _published(model: str, retention: float) -> dict:
  """What was released for a model (section 3 of the method's settings)."""
  settings = {'retention': retention}
  if model.startswith('qwen'):
    settings |= {'selection': 'attn_div', 'min_segments': 4}
  if model == 'qwen3-vl-8b':
    settings |= {'layer': 28}
  return settings


def _smoke(retention: float) -> ConfigDict:
  """Set --config.model.init_from and --config.data.path."""
  config = base_config()
  config.task = 'experiments.sft.task'
  config.workdir = 'runs/flashvid/smoke'
  config.steps = 4
  config.batch_size = 8
  config.log_every = 2
  # Clips of 8 frames of 56 x 84 pixels: 4 units of 2 x 3 tokens.
  config.data.seq_len, config.data.units, config.data.visual_tokens = (
    96,
    128,
    24,
  )
  config.data.clips = (1, 4, 6)
  config.data.frames = 8
  config.data.eval_path = ''
  config.flashvid.update({'retention': retention, 'min_segments': 2})
  return config
