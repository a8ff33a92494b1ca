"""The published setting: three backbones and ours, on files in the row format.

What the paper says stands in section 5 of its recipe; per-model learning rates
and batches were not published, and 1e-5 is that of the released example.
Readers and curation of the sets: data/sources/depth.py and launch.prepare.
"""

import dataclasses

from ml_collections import ConfigDict

from vlm.methods.depthlm.tasks import SINGLE_IMAGE

SAMPLES = 23_000_000  # one label of one picture each; the 3B and 7B go to 60M
TEXT = 160  # tokens: template, question and answer, with room


@dataclasses.dataclass(frozen=True)
class Backbone:
  """What a backbone changes.

  Attributes:
    focal: common focal length, pixels.
    batch: samples of a step.
    multiple: side of what becomes one visual token, pixels.
    units: patches or tiles of the largest training picture.
    visual: its visual tokens; `ends` more stand in its text.
    ends: tokens that end its rows.
    size: (H, W) of every picture, for towers with a fixed grid of tiles.
    slices: compiled by launch.compile --table, with their accumulation.
  """

  focal: float
  batch: int
  multiple: int
  units: int
  visual: int
  ends: int = 0
  size: tuple[int, int] | None = None
  slices: tuple[tuple[str, int], ...] = (
    ('v5e:16x16', 5),
    ('v6e:16x16', 5),
    ('v5p:4x4x8', 2),
  )


# The largest training crop, 1400 x 1200 pixels, is 50 x 43 tokens of 28 pixels
# in 13 x 11 windows of 64 patches, or 88 x 75 of 16 pixels.
_QWEN = Backbone(1000.0, 1280, 28, 9_152, 2_150)
BACKBONES = {
  'qwen2.5-vl-3b': _QWEN,
  'qwen2.5-vl-7b': _QWEN,
  # 384 samples a step are implied upstream; 512 divide among 256 chips.
  'pixtral-12b': Backbone(
    *(750.0, 512, 16, 6_600, 6_600, 75),
    slices=(('v5e:16x16', 2), ('v6e:16x16', 2), ('v5p:4x4x8', 1)),
  ),
  # 1152 x 768 pixels are exactly 3 x 2 tiles: nothing is rescaled after the
  # focal normalisation, so the common focal length stays exact.
  'llava-onevision-7b': Backbone(
    *(1000.0, 1280, 1, 7, 729 + 54 * (81 + 1)),
    size=(768, 1152),
    slices=(
      ('v5e:8x8', 20),
      ('v6e:8x8', 10),
      ('v5p:2x4x4', 10),
      *_QWEN.slices,
    ),
  ),
}

# Equal thirds of driving, ScanNet++ and other rooms; the published weights are
# not known. Poses are Argoverse2's only, as published.
WEIGHTS = {
  'argoverse2': 1,
  'waymo': 1,
  'nuscenes': 1,
  'scannetpp': 3,
  'taskonomy': 1,
  'hm3d': 1,
  'matterport3d': 1,
}


def fill(config: ConfigDict, model: str, tasks: str) -> ConfigDict:
  """Completes the base config for one backbone.

  Args:
    config: `base_config` with DepthLM's task.
    model: a key of `BACKBONES`.
    tasks: 'distance', or 'all' for the six tasks as one model.

  Raises:
    ValueError: for another model, or other tasks.
  """
  if model not in BACKBONES:
    raise ValueError(f'model={model!r}, expected one of {sorted(BACKBONES)}')
  if tasks not in ('distance', 'all'):
    raise ValueError(f"tasks={tasks!r}, expected 'distance' or 'all'")
  backbone = BACKBONES[model]
  config.workdir = f'runs/depthlm/{model}-{tasks}'
  config.model.preset = model
  config.model.init_from = 'gs://BUCKET/CHECKPOINT'
  config.runtime.dtype = 'bfloat16'
  config.runtime.remat = 'block'
  _recipe(config, backbone)
  _shapes(config, backbone, pictures=1 if tasks == 'distance' else 2)
  _sources(config, tasks)
  config.depth = {
    'focal': backbone.focal,
    'focal_mode': 'aniso',
    'size': backbone.size,
    'multiple': backbone.multiple,
    'mark': True,
    'marker_shape': 'arrow',
    'marker_size': 1,
    'prompt': 'marker',
    'crop_height': (700, 1200),
    'crop_width': (1000, 1400),
    'crop_place': 'centre',
    'stretched': ('taskonomy',),
    'label_law': 'usable',
    'tasks': (('distance', 1),),
  }
  if tasks == 'all':
    config.depth.tasks = tuple((name, 1) for name in SINGLE_IMAGE)
  return config


def _recipe(config: ConfigDict, backbone: Backbone) -> None:
  config.batch_size = backbone.batch
  config.steps = SAMPLES // backbone.batch
  config.log_every = 10
  config.optimizer.lr = 1e-5
  config.optimizer.warmup = config.steps // 10
  config.optimizer.clip = 0.1
  config.checkpoint.every = 3_000
  config.accumulate = backbone.slices[0][1]
  config.eval.batch_size = 256
  config.eval.max_new_tokens = 128
  config.table = 'experiments/depthlm/README.md'
  config.slices = tuple(
    (name, {'accumulate': share}) for name, share in backbone.slices
  )


def _shapes(config: ConfigDict, backbone: Backbone, pictures: int) -> None:
  """Rows of one picture, or of two where the pose is asked."""
  tokens = pictures * (backbone.visual + backbone.ends + TEXT)
  config.data.seq_len = tokens + -tokens % 128
  config.data.units = pictures * backbone.units
  config.data.visual_tokens = pictures * backbone.visual
  config.data.packing = pictures > 1  # two samples with one picture each
  config.data.points = int(backbone.size is not None)


def _sources(config: ConfigDict, tasks: str) -> None:
  files = lambda name, weight, pairs='': {
    'path': f'gs://BUCKET/depthlm/{name}.jsonl',
    'images': f'gs://BUCKET/depthlm/{name}',
    'depth_kind': '',  # of rows that do not say: 'range' or 'z'
    'pairs': pairs,  # from data/sources/posed_pairs.py
    'weight': weight,
  }
  config.sets = {name: files(name, w) for name, w in WEIGHTS.items()}
  if tasks == 'all':
    # Six tasks as often: five of one picture, by `config.depth.tasks`.
    pairs = 'gs://BUCKET/depthlm/argoverse2-pairs.json'
    share = sum(WEIGHTS.values()) / 5
    config.sets.pose = files('argoverse2', share, pairs)
  config.data.images = 'gs://BUCKET/depthlm/eval'
  config.data.depth_kind = ''
  config.data.eval_path = 'gs://BUCKET/depthlm/eval.jsonl'
  config.data.workers = 16
  config.data.on_bad = 'skip'
