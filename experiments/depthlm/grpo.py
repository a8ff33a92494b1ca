"""DepthLM by GRPO, the comparison of the paper (spec 2.7).

  python -m launch.train --config=experiments/depthlm/depthlm.py:tiny \
    --config.steps=300 --config.workdir=runs/depthlm/short
  python -m launch.train --config=experiments/depthlm/grpo.py:tiny \
    --config.init_from=runs/depthlm/short
  experiments/depthlm/grpo.py:full,model=qwen2.5-vl-3b,reward=negative_l1

Same rows, prompt, crops and backbone as SFT, from a checkpoint that a short SFT
has taught the format (from scratch no answer is ever rewarded). Equal numbers
of samples are compared, and cost is generated plus trained tokens.
"""

from ml_collections import ConfigDict

from experiments.common import parse_arg
from experiments.depthlm import depthlm
from vlm.methods.depthlm.rewards import REWARDS


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of one size, backbone and reward; see the module's docstring.

  Raises:
    ValueError: an unknown model or reward.
  """
  options = parse_arg(
    arg,
    ('full', 'tiny', 'smoke'),
    model='qwen2.5-vl-3b',
    reward='negative_l1',
    seed=0,
  )
  if options.reward not in REWARDS:
    raise ValueError(
      f'reward={options.reward!r}, expected one of {sorted(REWARDS)}'
    )
  config = depthlm.get_config(
    f'{options.size},model={options.model},seed={options.seed}'
  )
  config.objective = 'grpo'
  config.workdir = f'runs/depthlm/grpo-{options.size}-{options.reward}'
  config.reward = options.reward  # of vlm/methods/depthlm/rewards.py
  config.rl.group = 8
  config.rl.clip_low = config.rl.clip_high = 0.2
  config.rl.beta = 0.04
  config.rl.new_tokens = config.eval.max_new_tokens
  # As many answers as SFT has samples in a step.
  config.batch_size //= config.rl.group
  if options.size != 'full':
    _short(config, options.size == 'smoke')
  config.rollout.rows = config.batch_size
  config.rollout.samples = config.rl.group
  config.rollout.new_tokens = config.rl.new_tokens
  return config


def _short(config: ConfigDict, smoke: bool) -> None:
  config.init_from = f'runs/depthlm/{"smoke" if smoke else "tiny"}-marker-0'
  config.steps = 4 if smoke else 200
  config.batch_size = 4 if smoke else 16
  config.log_every = 2 if smoke else 10
  # Steps of RL are small steps around a model that answers already.
  config.optimizer.kind = 'adam'
  config.optimizer.lr = 3e-4
  config.optimizer.rules = ()
  config.optimizer.warmup = 0
  config.rl.table_every = 2 if smoke else 50
