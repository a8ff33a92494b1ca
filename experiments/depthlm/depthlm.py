"""DepthLM: metric depth as plain text (arXiv 2509.25413).

  python -m launch.train --config=experiments/depthlm/depthlm.py:tiny
  python -m launch.train \
    --config=experiments/depthlm/depthlm.py:tiny,arm=coordinates
  python -m launch.train --config=experiments/depthlm/depthlm.py:full,\
    model=qwen2.5-vl-7b --config.model.init_from=Qwen/Qwen2.5-VL-7B-Instruct
  python -m launch.compile --config=experiments/depthlm/depthlm.py:full \
    --topology=v5e:8x8

Sizes: `smoke` (seconds), `tiny` (minutes on two cores, rooms rendered here),
`full` (a published backbone on DepthLM's row format, see full.py; `tasks=all`
trains the six tasks as one model). Arms, `tiny` and `smoke`:

  marker        the method: red arrow, all focal lengths rescaled to one
  coordinates   the same, with x and y in the question instead of the arrow
  mixed         arrow, cameras mixed as they come
  focal         the same, with the focal length in the question
  ray           the same, the ray's direction (x / z, y / z) answered first
  decimals      the method, answers with two decimals
  unpadded      the method, digits of an answer at no fixed places
  multitask     the method, asked six quantities (vlm/methods/depthlm/tasks.py)
  walks         distance alone, in the rooms of multitask, its control

`images` and `labels` (of an image) say how many there are to train on. `long=1`
is the method with more of all that a miniature can have more of; `long=2` goes
on from its last parameters, with as many new pictures, in a second cosine.
"""

from ml_collections import ConfigDict

from experiments.common import base_config, parse_arg
from experiments.depthlm import full

# Arm -> (prompt, focal mode, tokens of a row): 37 are the picture's,
# question, answer and their ends need the rest.
ARMS = {
  'marker': ('marker_number', 'aniso', 44),
  'coordinates': ('coordinates_number', 'aniso', 50),
  'mixed': ('marker_number', 'none', 44),
  'focal': ('marker_focal_number', 'none', 51),
  'ray': (('how far?', '{rx:+.2f} {ry:+.2f} {d:04.1f}'), 'none', 56),
  'decimals': (('how far?', '{d:05.2f}'), 'aniso', 45),
  'unpadded': (('how far?', '{d:.1f}'), 'aniso', 44),
  'multitask': ('marker_number', 'aniso', 88),  # two pictures of the pose task
  'walks': ('marker_number', 'aniso', 44),
}
IMAGES, LABELS = 8000, 64


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of one size and arm; see the module's docstring."""
  options = parse_arg(
    arg,
    ('tiny', 'smoke', 'full'),
    arm='marker',
    seed=0,
    images=0,  # 0: IMAGES, or as many as the size has
    labels=0,
    steps=0,
    long=0,
    model='llava-onevision-7b',
    tasks='distance',
  )
  if options.arm not in ARMS:
    raise ValueError(f'arm={options.arm!r}, expected one of {list(ARMS)}')
  config = base_config()
  config.task = 'experiments.depthlm.task'
  config.data.points = 1  # no picture is interpolated
  config.seed = options.seed
  config.workdir = f'runs/depthlm/{options.size}-{options.arm}-{options.seed}'
  config.parser = 'strict'  # or 'official', of answers in evaluation
  if options.size == 'full':
    return full.fill(config, options.model, options.tasks)
  return _rooms(config, options)


def _rooms(config: ConfigDict, options: ConfigDict) -> ConfigDict:
  """A small VLM from scratch on rendered rooms."""
  smoke = options.size == 'smoke'
  _small_model(config, smoke)
  _short_training(config, smoke)
  config.steps = options.steps or config.steps
  prompt, focal_mode, config.data.seq_len = ARMS[options.arm]
  config.data.visual_tokens = 37  # 6 x 6 patches and the newline
  config.eval.max_new_tokens = 18 if options.arm == 'ray' else 8
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
    'train_images': options.images or (64 if smoke else IMAGES),
    'eval_images': 16 if smoke else 512,
    # Of a training image; one is drawn each time it is shown.
    'labels': options.labels or LABELS,
    'eval_labels': 1,
    'scanned': 0,  # unseen rooms that are asked all over, for pictures
    'pair_share': 0.0,  # of the stream: two views, how far the camera moved
    'size': 48,
    'focals': (34.0, 68.0),  # log-uniform, training cameras
    'unseen_focals': ((26.0, 32.0), (72.0, 90.0)),
    'world': _halls(),
    'cache': '',
  }
  if options.labels or options.long:
    # A mirror's rounding or a small crop may leave a picture without a label.
    config.data.on_bad = 'skip'
  if options.arm in ('multitask', 'walks'):
    _walked_rooms(config)
  if options.arm == 'multitask':
    _six_tasks(config)
  if options.long:
    _longer(config, options.long, smoke)
  return config


def _longer(config: ConfigDict, cycle: int, smoke: bool) -> None:
  """More pictures, shown less often, cut as the paper cuts its own, longer.

  A lens longer than any in training gives a picture smaller than any, once it
  is brought to one focal length; training crops are as small.
  """
  config.steps = 80 if smoke else 7500
  config.rooms.train_images = 96 if smoke else 32_000
  config.depth.crop_height = config.depth.crop_width = (22, 64)
  if cycle == 2:  # a warm restart (Loshchilov & Hutter, arXiv 1608.03983)
    config.steps //= 2
    config.optimizer.lr /= 2
    config.rooms.train_images *= 2


def _walked_rooms(config: ConfigDict) -> None:
  """Two views of every room, and enough labels for every task."""
  config.rooms.eval_labels = 4  # two of them for the distance of two points
  config.rooms.world.views = 2
  config.rooms.world.walk = (0.5, 3.0)


def _six_tasks(config: ConfigDict) -> None:
  """Every task as often, the pose from two views of a room."""
  names = ('distance', 'axis', 'speed', 'time', 'two_point')
  config.depth.tasks = tuple((name, 1) for name in names)
  config.depth.style = 'number'
  config.rooms.pair_share = 1 / 6
  config.data.units, config.data.visual_tokens = 2, 74


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
