"""DepthLM: metric depth as plain text (arXiv 2509.25413).

  python -m launch.train --config=experiments/depthlm/depthlm.py:tiny
  python -m launch.train \
    --config=experiments/depthlm/depthlm.py:tiny,arm=coordinates
  python -m launch.compile --config=experiments/depthlm/depthlm.py:full \
    --topology=v5e:8x8

Sizes: `smoke` (seconds), `tiny` (minutes on two cores, rooms rendered here),
`full` (LLaVA-OneVision-7B on DepthLM's row format). Arms, `tiny` and `smoke`:

  marker        the method: red arrow, all focal lengths rescaled to one
  coordinates   the same, with x and y in the question instead of the arrow
  mixed         arrow, cameras mixed as they come
  focal         the same, with the focal length in the question
"""

from ml_collections import ConfigDict

from experiments.common import base_config, parse_arg

# Arm -> (prompt, focal mode, tokens of a row): 37 are the picture's,
# question, answer and their ends need the rest.
ARMS = {
  'marker': ('marker_number', 'aniso', 44),
  'coordinates': ('coordinates_number', 'aniso', 50),
  'mixed': ('marker_number', 'none', 44),
  'focal': ('marker_focal_number', 'none', 51),
}


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of one size and arm; see the module's docstring."""
  options = parse_arg(arg, ('tiny', 'smoke', 'full'), arm='marker', seed=0)
  if options.arm not in ARMS:
    raise ValueError(f'arm={options.arm!r}, expected one of {list(ARMS)}')
  config = base_config()
  config.task = 'experiments.depthlm.task'
  config.data.points = 1  # no picture is interpolated
  config.seed = options.seed
  config.workdir = f'runs/depthlm/{options.size}-{options.arm}-{options.seed}'
  if options.size == 'full':
    return _full(config)
  return _rooms(config, options)


def _rooms(config: ConfigDict, options: ConfigDict) -> ConfigDict:
  """A small VLM from scratch on rendered rooms."""
  smoke = options.size == 'smoke'
  _small_model(config, smoke)
  _short_training(config, smoke)
  prompt, focal_mode, config.data.seq_len = ARMS[options.arm]
  config.data.visual_tokens = 37  # 6 x 6 patches and the newline
  config.data.max_bad_share = 0.05
  config.depth = {
    'focal': 48.0,  # f_uni of section 2.1, in pixels
    'focal_mode': focal_mode,
    'size': (48, 48),
    'contrast': 0.2,
    'mirror': True,
    'mark': options.arm != 'coordinates',
    'prompt': prompt,
    'crop_height': None,
    'crop_width': None,
  }
  config.rooms = {
    'train_images': 64 if smoke else 8000,
    'eval_images': 16 if smoke else 512,
    'labels': 64,  # of a training image; one is drawn each time it is shown
    'size': 48,
    'focals': (34.0, 68.0),  # log-uniform, training cameras
    'unseen_focals': ((26.0, 32.0), (72.0, 90.0)),
    'world': _halls(),
    'cache': '',
  }
  return config


def _small_model(config: ConfigDict, smoke: bool) -> None:
  config.model.vision = {
    'image_size': 48,
    'patch': 8,
    'width': 32 if smoke else 128,
    'depth': 2,
    'heads': 4,
    'mlp_width': 64 if smoke else 512,
    # Eight times the published gain, for pictures of a fifth of the contrast:
    # the arrow then stands out of the first layer (`contrast` in _rooms).
    'pixel_std': (0.0625, 0.0625, 0.0625),
  }
  # At the published 0.02 positions drown in the image features (spec 9.1).
  config.model.init_scale = (
    (r'vision/.*/embedding', 25.0),
    (r'decoder/.*/embedding', 10.0),
  )
  config.model.decoder = {
    'width': 64,
    'depth': 2,
    'heads': 4,
    'kv_heads': 4,
    'head_dim': 16,
    'mlp_width': 128,
    'rope_theta': 1e4,
    'tied_head': False,
  }
  config.runtime.unroll = True


def _short_training(config: ConfigDict, smoke: bool) -> None:
  config.steps = 60 if smoke else 1400
  config.batch_size = 16 if smoke else 64
  config.log_every = 20 if smoke else 50
  config.loss_chunk = 64
  # In a trial of 1,000 steps Muon reached 0.64 delta1 on held-out rooms, Adam
  # 0.59. What it leaves to Adam (tables, biases, scales, the head) wants a
  # smaller rate.
  config.optimizer.kind = 'muon'
  config.optimizer.lr = 1e-2
  config.optimizer.b2 = 0.95
  config.optimizer.rules = (
    (r'.*/(embedding|bias|scale|newline)|decoder/head/kernel', {'lr': 0.4}),
  )
  config.optimizer.warmup = 10 if smoke else 100
  config.checkpoint.every = 500
  config.eval.batch_size = 16 if smoke else 128
  config.eval.max_new_tokens = 8


def _halls() -> dict:
  """Sparsely furnished halls, for sensors of 48 x 48 pixels.

  A level camera at one height makes a floor's or a wall's distance readable
  from one picture, as in the pilot (spec 9.1).
  """
  return {
    'eye': (1.5, 1.5),
    'yaw': 0.0,
    'pitch': (0.0, 0.0),
    'roll': 0.0,
    'corridors': 0.0,
    'room_width': (4.0, 14.0),
    'room_length': (5.0, 20.0),
    'room_height': (2.3, 3.3),
    'objects': (1, 3),
    'period': (0.8, 2.0),
  }


def _full(config: ConfigDict) -> ConfigDict:
  """LLaVA-OneVision-7B, section 5 of the paper's recipe."""
  config.steps = 18_000  # 23M samples at this batch size
  config.batch_size = 1280
  config.accumulate = 20
  config.log_every = 10
  config.model.preset = 'llava-onevision-7b'
  config.model.init_from = 'gs://BUCKET/llava-onevision-qwen2-7b-ov-hf'
  config.runtime.dtype = 'bfloat16'
  config.runtime.remat = 'block'
  config.optimizer.lr = 1e-5
  config.optimizer.warmup = 1_800
  config.optimizer.clip = 0.1
  config.checkpoint.every = 3_000
  # 1152 x 768 pixels are exactly 3 x 2 tiles: nothing is rescaled after the
  # focal normalisation, so the common focal length stays exact.
  config.data.seq_len = 5_376
  config.data.units = 7  # tiles
  config.data.visual_tokens = 729 + 54 * (81 + 1)
  config.data.path = 'gs://BUCKET/depthlm/rows.jsonl'
  config.data.images = 'gs://BUCKET/depthlm/images'
  config.data.depth_kind = 'range'  # of rows that do not say
  config.data.eval_path = 'gs://BUCKET/depthlm/eval.jsonl'
  config.data.workers = 16
  config.data.on_bad = 'skip'
  # More HBM takes more rows at a time.
  config.slices = (
    ('v5e:8x8', {'accumulate': 20}),
    ('v6e:8x8', {'accumulate': 10}),
    ('v5p:2x4x4', {'accumulate': 10}),
  )
  config.depth = {
    'focal': 1000.0,
    'focal_mode': 'aniso',
    'size': (768, 1152),
    'mark': True,
    'prompt': 'marker',
    'crop_height': (700, 1200),
    'crop_width': (1000, 1400),
  }
  return config
