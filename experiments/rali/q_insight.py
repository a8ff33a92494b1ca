r"""Q-Insight: image quality by reasoning that is learnt from rewards.

  python -m launch.train --config=experiments/rali/q_insight.py:full \
    --config.model.init_from=Qwen/Qwen2.5-VL-7B-Instruct \
    --config.data.path=gs://BUCKET/Data-DeQA-Score \
    --config.sets.degradations="('refA_sd_brief/metas/train_dist.json',)"
  python -m launch.compile --config=experiments/rali/q_insight.py:full \
    --table --steps=train,logprobs,prefill,decode
  python -m launch.train --config=experiments/rali/q_insight.py:tiny,arm=base

Sizes: `full` (arXiv 2503.22679, section 5 of its recipe), `tiny` (the world of
photographs, minutes), `smoke` (seconds). Arms:

  score_degradation  both tasks in one stream, the method
  score              the score task alone
  no_think           both tasks, answers without reasoning
  no_think_score     the score task alone, answers without reasoning
  rank               VisualQuality-R1's reward on one set
  sft_score          supervised: the rating as text
  sft_level          supervised: Q-Align's five words
  sft_regression     a regression head on the last state of the prompt, which is
                     a column of the head that no token needs; squared error
  deqa               supervised: the words by DeQA-Score's soft labels, and the
                     order of the pictures of a set
  sft_description    supervised: a teacher's descriptions, then ratings (RACT)
  base               tiny only: captions with mistakes, which every arm of the
                     miniature starts from
  base_no_think      tiny only: the same, with nothing but the answers
  base_bottleneck    tiny only: base, whose answers never see the image
  bottleneck         tiny only: the method from there, answers seeing as little
"""

import dataclasses

from ml_collections import ConfigDict

from data import dct
from experiments.common import base_config, parse_arg
from experiments.rali import sets
from experiments.rali.miniature import vocabulary
from vlm.methods.rali.prompts import Wording
from vlm.methods.rali.score_reward import THRESHOLD

SUPERVISED = {
  'sft_score': ('score', 'answer'),
  'sft_level': ('level', 'level'),
  'sft_regression': ('score', 'number'),
  'deqa': ('level', 'number'),
  'sft_description': ('description', 'answer'),
  'base': ('description', 'answer'),
  'base_no_think': ('score', 'answer'),
  'base_bottleneck': ('description', 'answer'),
}
BASES = ('base', 'base_no_think', 'base_bottleneck')
BOTTLENECKS = ('base_bottleneck', 'bottleneck')
REWARDED = (
  'score_degradation',
  'score',
  'no_think',
  'no_think_score',
  'rank',
  'bottleneck',
)
OTHER_SETS = ('spaq', 'kadid', 'pipal', 'livew', 'agiqa', 'csiq')
# A picture of 1024 x 768 pixels is 37 x 27 visual tokens; patches come in
# windows of 64, which other shapes of as many pixels fill less well.
PIXELS, VISUAL, UNITS = 1024 * 768, 1024, 5_120
FIM_PAD = 151_662  # of Qwen2.5's tokenizer, for code; nobody writes it
CENTRE = 3.0  # of opinions in [1, 5]
TEXT = 384  # tokens: system message, question and template, with room
PROMPTS = 16  # of Q-Insight's step


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of one size, model and arm; see the module's docstring."""
  options = parse_arg(
    arg,
    ('full', 'tiny', 'smoke'),
    model='qwen2.5-vl-7b',
    arm='score_degradation',
    seed=0,
  )
  if options.arm not in (*REWARDED, *SUPERVISED):
    raise ValueError(
      f'arm={options.arm!r}, expected one of {(*REWARDED, *SUPERVISED)}'
    )
  if options.size == 'full' and options.arm in (*BASES, 'bottleneck'):
    raise ValueError(f'arm={options.arm}: published checkpoints are the base')
  config = base_config()
  config.task = 'experiments.rali.task'
  config.seed = options.seed
  config.workdir = f'runs/rali/{options.size}-{options.arm}-{options.seed}'
  config.wording = dataclasses.asdict(Wording())
  config.iqa = {
    'target': 'score',  # of supervised training; see answers.py
    'reward': 'score',  # or 'rank'
    'format': 'strict',  # of vlm/methods/rali/answer_format.py
    'threshold': THRESHOLD,
    'think': True,
    # Answers see no image, in training neither; tiny only (bottleneck.py).
    'bottleneck': False,
    'reader': 'answer',  # of vlm/methods/rali/readers.py, in evaluation
    'decimals': 2,
    'max_pixels': PIXELS,
  }
  config.sets = {'train': (), 'degradations': (), 'eval': (), 'scored': ()}
  fill = _full if options.size == 'full' else _small
  fill(config, options)
  _arm(config, options.arm)
  return config


def _arm(config: ConfigDict, arm: str) -> None:
  """What an arm changes."""
  if arm in BOTTLENECKS:
    config.iqa.bottleneck, config.runtime.attention = True, 'xla'
  if arm in SUPERVISED:
    config.iqa.target, config.iqa.reader = SUPERVISED[arm]
    config.iqa.think = arm in ('sft_description', 'base', 'base_bottleneck')
    config.wording.system = ''
    generic = (sets.GENERIC,) if arm in BASES else ()
    config.sets.train = generic or config.sets.train
    config.sets.degradations = generic
    if arm == 'sft_regression':
      config.objective = 'regression'
      # In the miniature the column of the token that fills rows.
      column = 0 if 'photos' in config else FIM_PAD
      config.regression = {'of': 'prompt', 'column': column, 'centre': CENTRE}
    if arm == 'deqa':
      config.objective = 'levels'
    return
  config.objective = 'grpo'
  if arm in ('score', 'no_think_score', 'rank'):
    config.sets.degradations = ()
  if arm.startswith('no_think'):
    config.iqa.think, config.iqa.format = False, 'answer_only'
  if arm == 'rank':
    # Lenient as its authors have it; one set, whose opinions can be ordered.
    config.iqa.reward, config.iqa.format = 'rank', 'lenient'
    config.iqa.reader = 'last_answer'


def _full(config: ConfigDict, options: ConfigDict) -> None:
  rank, supervised = options.arm == 'rank', options.arm in SUPERVISED
  config.model.preset = options.model
  config.model.init_from = 'gs://BUCKET/CHECKPOINT'
  config.runtime.dtype, config.runtime.remat = 'bfloat16', 'block'
  config.sets.train = ('kadid',) if rank else ('koniq',)
  config.sets.degradations = (
    'gs://BUCKET/Data-DeQA-Score/KADIS700K/refA_sd_brief/metas/train_dist.json',
  )
  config.sets.eval = ('koniq', *OTHER_SETS)
  config.data.path = config.data.images = 'gs://BUCKET/Data-DeQA-Score'
  config.data.seq_len, config.data.units = VISUAL + TEXT, UNITS
  config.data.visual_tokens, config.data.workers = VISUAL, 16
  config.data.on_bad = 'skip'
  config.optimizer.lr, config.optimizer.schedule = 1e-6, 'linear'
  config.checkpoint.every, config.log_every = 200, 1
  config.eval.max_new_tokens, config.eval.batch_size = 1024, 64
  if supervised:
    config.optimizer.lr = 1e-5
    config.batch_size, config.steps = 128, 110  # two epochs of KonIQ
    return
  # Ten epochs: (7,046 + about 7,000) images by 16 prompts of 8 completions;
  # VisualQuality-R1: 6,100 images by 64 prompts of 6.
  config.batch_size, config.steps = (64, 950) if rank else (PROMPTS, 8_800)
  _rewarded(config, 6 if rank else 8, 256, 0.04 if rank else 0.001)
  # One prompt with its completions at a time on four of 64 chips.
  config.mesh.tensor = config.rollout.mesh.tensor = 4
  config.accumulate = config.batch_size // PROMPTS
  if not rank:  # whose rows would stand for Q-Insight's
    _slices(config)


def _slices(config: ConfigDict) -> None:
  pairs = {'mesh.tensor': 2, 'rollout.mesh.tensor': 2}
  config.slices = (('v5e:8x8', {}), ('v6e:8x8', {}), ('v5p:2x4x4', pairs))
  config.table = 'experiments/rali/README.md'


def _small(config: ConfigDict, options: ConfigDict) -> None:
  """A small VLM on the world of photographs, 32 x 32 pixels."""
  smoke, supervised = options.size == 'smoke', options.arm in SUPERVISED
  config.photos = {
    'seed': 0,
    'train': 64 if smoke else 1_500,  # of a family
    'test': 24 if smoke else 400,
    'generic': 64 if smoke else 8_000,
  }
  config.sets.train = ('A',)
  config.sets.degradations = ('A',)
  config.sets.eval = ('A', 'C') if smoke else tuple('ABCDE')
  config.wording = {
    'system': '',
    'score': vocabulary.SCORE,
    'degradation': vocabulary.DEGRADATION,
  }
  config.iqa.decimals = 1
  config.measure = {
    'draws': 4,  # of each test picture, whose ratings are averaged
    'crops': 1 if smoke else 8,  # of each real photograph
    'partner': '',  # workdir of a run whose halves are exchanged with ours
    'timed': 24 if smoke else 100,  # pictures whose cost is measured
    'describe': (),  # families whose training photographs are described
    'samples': 3,  # descriptions of each
  }
  # {family: folder of the run that described it}; without one, captions.
  config.described = dict.fromkeys('ABCDE', '')
  config.data.points, config.data.visual_tokens = 1, 17  # and the newline
  config.data.seq_len = 52
  config.model.vision = {
    'image_size': 24,  # four patches of features along each side
    'patch': 6,
    'width': 32 if smoke else 64,
    'depth': 2,
    'heads': 4,
    'mlp_width': 64 if smoke else 128,
    'pixel_std': (1 / (2 * dct.RANGE),) * 3,
  }
  config.model.decoder = {
    'width': 32 if smoke else 64,
    'depth': 2,
    'heads': 4,
    'kv_heads': 4,
    'head_dim': 8 if smoke else 16,
    'mlp_width': 64 if smoke else 192,
    'rope_theta': 1e4,
    'tied_head': False,
  }
  config.runtime.unroll = True
  config.loss_chunk = 64
  config.log_every = 10 if smoke else 25
  config.eval.batch_size = 24 if smoke else 100
  config.eval.max_new_tokens = 24
  config.optimizer.lr = 1e-3
  if supervised:
    config.optimizer.warmup = 5 if smoke else 20
    config.steps, config.batch_size = (30, 16) if smoke else (500, 64)
    if not smoke and options.arm not in BASES:
      config.steps = 250  # ten times through a family
    return
  config.steps, config.batch_size = (4, 8) if smoke else (160, 24)
  if not smoke:
    # At the pilot's 1e-3 twenty steps went nearly 4 nats from the base.
    config.optimizer.lr, config.optimizer.warmup = 5e-4, 10
  _rewarded(config, 4 if smoke else 8, 24, 0.001)


def _rewarded(
  config: ConfigDict, group: int, new_tokens: int, beta: float
) -> None:
  config.rl.update(group=group, new_tokens=new_tokens, beta=beta)
