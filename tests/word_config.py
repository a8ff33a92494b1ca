"""GRPO on tests/word_task.py: a few steps of a model of a few numbers."""

from experiments.common import base_config


def get_config():
  config = base_config()
  config.task, config.objective = 'tests.word_task', 'grpo'
  config.steps, config.log_every, config.batch_size = 6, 2, 8
  config.data.on_bad, config.data.max_bad_share = 'skip', 0.5
  config.data.seq_len, config.data.units = 6, 0
  config.model.vision = {
    'image_size': 8, 'patch': 8, 'width': 8, 'depth': 1, 'heads': 1,
    'mlp_width': 8,
  }  # fmt: skip
  config.model.decoder = {
    'width': 16, 'depth': 1, 'heads': 2, 'kv_heads': 2, 'head_dim': 8,
    'mlp_width': 32, 'tied_head': False,
  }  # fmt: skip
  config.optimizer.lr, config.optimizer.schedule = 1e-2, 'constant'
  config.rl.group, config.rl.new_tokens = 8, 3
  config.rl.table_every = 2
  config.odd = ''
  return config
