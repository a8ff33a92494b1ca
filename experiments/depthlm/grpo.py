"""DepthLM by GRPO, the comparison of the paper (spec 2.7).

  experiments/depthlm/grpo.py:model=qwen2.5-vl-3b,reward=negative_l1

Same rows, prompt, crops and backbone as SFT, from a checkpoint that a short SFT
has taught the format (from scratch no answer is ever rewarded). launch.train
refuses it: `objective` is not 'sft'. Equal numbers of samples are compared, and
cost is generated plus trained tokens.
"""

from ml_collections import ConfigDict

from experiments.common import parse_arg
from experiments.depthlm import depthlm
from vlm.methods.depthlm.rewards import REWARDS


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of one backbone and reward; see the module's docstring.

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
  config.rl = {
    'reward': options.reward,  # of vlm/methods/depthlm/rewards.py
    'group': 8,  # answers of a question
    'advantage_eps': 1e-4,  # (r - mean) / (std + eps) within the group
    'ratio_clip': 0.2,
    'kl': 0.04,  # to the frozen start
    'start': '',  # workdir of the short SFT it starts from
  }
  config.rollout.samples = 8
  config.rollout.new_tokens = config.eval.max_new_tokens
  config.rollout.temperature = 1.0
  if options.size == 'full':
    # As many answers as SFT has samples in a step.
    config.rollout.rows = config.batch_size // config.rl.group
  return config
