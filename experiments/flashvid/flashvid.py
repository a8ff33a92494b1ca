"""FlashVID: fewer video tokens without training (arXiv 2602.08024).

python -m launch.train --config=experiments/flashvid/flashvid.py:tiny
"""

from ml_collections import ConfigDict

from experiments.common import base_config, parse_arg

FRAME_TOKENS = 64  # 8 x 8 patches
TEXT_TOKENS = 72  # of questions and answers about a clip, most
# Of 64 tokens, such that FlashVID and methods that prune nothing in the decoder
# come to the same tokens per layer exactly: b = 36, 18, 12, 6 of them enter, a
# third of them enters the last of four layers, and 30, 15, 10, 5 is the mean.
RETENTIONS = (30 / 64, 15 / 64, 10 / 64, 5 / 64)


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of one size; see the module's docstring."""
  options = parse_arg(arg, ('tiny', 'smoke'), seed=0, thorough=False)
  config = base_config()
  config.task = 'experiments.flashvid.task'
  config.seed = options.seed
  config.workdir = f'runs/flashvid/{options.size}-{options.seed}'
  smoke = options.size == 'smoke'
  _small_model(config, smoke)
  _short_training(config, smoke)
  _world(config, smoke)
  config.measure = _measured(smoke, options.thorough)
  return config


def _world(config: ConfigDict, smoke: bool) -> None:
  config.clips = {
    'train_clips': 100 if smoke else 100_000,
    'eval_clips': 4 if smoke else 16,
    'frames': (4,) if smoke else (4, 8),  # of clips to ask about
    # Shares of stills and of clips of `frames`: in the first `warmup` rows,
    # where the decoder learns to look up, and afterwards.
    'first': (1.0, 0.0) if smoke else (1.0, 0.0, 0.0),
    'then': (0.2, 0.8) if smoke else (0.15, 0.6, 0.25),
    'warmup': 20 if smoke else 250 * 16,
  }
  config.data.points = 1
  config.data.shuffle = False  # lessons have an order
  frames = (4,) if smoke else (4, 8)
  config.data.buckets = tuple(
    (count * FRAME_TOKENS + 1 + TEXT_TOKENS, count, count * FRAME_TOKENS + 1)
    for count in (1, *frames)
  )


def _measured(smoke: bool, thorough: bool) -> dict:
  """Counts of what `measure.py` asks a trained model."""
  if smoke:
    return {
      'clips': 16,
      'questions': 6,  # about a clip, at most
      'long_clips': 16,
      'link_clips': 2,
      'pictures': 1,
      'retentions': RETENTIONS[-1:],
      'methods': ('FlashVID', 'random'),
      'budget_frames': (8, 16),
    }
  return {
    'clips': 2000 if thorough else 150,
    'questions': 1 if thorough else 4,
    'long_clips': 500 if thorough else 100,
    'link_clips': 32 if thorough else 16,
    'pictures': 2,
    'retentions': RETENTIONS,
    'methods': (),  # all
    'budget_frames': (8, 16, 32, 64),
  }


def _small_model(config: ConfigDict, smoke: bool) -> None:
  config.model.vision = {
    'image_size': 64,
    'patch': 8,
    'width': 32 if smoke else 96,
    'depth': 2 if smoke else 3,
    'heads': 2,
    'mlp_width': 64 if smoke else 256,
  }
  config.model.video_pool = 1
  config.model.init_scale = (
    # What a patch shows has to stand out from where it is, and a word from
    # the mean of what was seen: otherwise looking up is learned late.
    (r'vision/patch/kernel', 4.0),
    (r'vision/position/embedding', 10.0),
    (r'decoder/.*/embedding', 40.0),
  )
  config.model.decoder = {
    'width': 32 if smoke else 96,
    'depth': 2 if smoke else 4,
    'heads': 2,
    'kv_heads': 2,
    'head_dim': 16 if smoke else 48,
    'mlp_width': 64 if smoke else 256,
    'rope_theta': 1e4,
    'tied_head': False,
  }
  config.runtime.unroll = not smoke  # compiling would take longer


def _short_training(config: ConfigDict, smoke: bool) -> None:
  config.steps = 10 if smoke else 650
  config.batch_size = 8 if smoke else 16
  config.log_every = 5 if smoke else 25
  config.loss_chunk = 1024
  config.optimizer.kind = 'muon'
  config.optimizer.lr = 1e-2
  config.optimizer.b2 = 0.95
  config.optimizer.rules = (
    (r'.*/(embedding|bias|scale|newline)|decoder/head/kernel', {'lr': 0.4}),
  )
  config.optimizer.warmup = 5 if smoke else 50
  config.checkpoint.every = 500
  config.eval.batch_size = 16 if smoke else 64
  config.eval.max_new_tokens = 2
