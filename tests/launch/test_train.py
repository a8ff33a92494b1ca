"""launch.train: continues, keeps the best, refuses what cannot work."""

import json

import pytest
from etils import epath

from experiments.common import parse_arg
from experiments.depthlm.depthlm import get_config
from launch import train


@pytest.fixture
def config(tmp_path, tmp_path_factory):
  config = get_config('smoke')
  config.rooms.cache = str(tmp_path_factory.getbasetemp() / 'rooms')
  config.workdir = str(tmp_path / 'run')
  config.steps, config.log_every = 4, 2
  config.optimizer.warmup = 1
  return config


def test_a_run_continues_and_scores_are_logged(config):
  config.checkpoint.every = 2
  config.eval.every = 2
  config.checkpoint.keep_best = 'unseen rooms/delta1'
  config.steps = 2
  train.run(config)
  config.steps = 4
  _, state = train.run(config)
  assert int(state['step']) == 4
  rows = [
    json.loads(line)
    for line in (epath.Path(config.workdir) / 'metrics.jsonl')
    .read_text()
    .splitlines()
  ]
  steps = [row['step'] for row in rows if 'loss' in row]
  assert steps == [2, 4]
  assert sum('unseen rooms/delta1' in row for row in rows) == 2


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('mesh.tensor', 3, '--config.mesh'),
    ('batch_size', 13, '--config.batch_size'),
    ('task', 'experiments.depthlm.tusk', '--config.task'),
    ('data.on_bad', 'ignore', '--config.data.on_bad'),
    ('runtime.remat', 'some', '--config.runtime.remat'),
    ('optimizer.schedule', 'step', '--config.optimizer.schedule'),
    ('model.init_scale', (('no/such', 2.0),), '--config.model.init_scale'),
  ],
)
def test_a_wrong_field_is_named_by_its_flag(config, field, value, message):
  with config.unlocked():
    config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=message):
    train.run(config)


def test_the_hash_ignores_where_a_run_writes(config):
  first = train.config_hash(config)
  config.workdir = 'elsewhere'
  assert train.config_hash(config) == first
  config.seed = 1
  assert train.config_hash(config) != first


def test_arguments_of_config_files():
  options = parse_arg('full,seed=3', ('tiny', 'full'), seed=0, arm='a')
  assert (options.size, options.seed, options.arm) == ('full', 3, 'a')
  with pytest.raises(ValueError, match='not known'):
    parse_arg('huge', ('tiny', 'full'))
  with pytest.raises(ValueError, match='not known'):
    parse_arg('tiny,speed=3', ('tiny', 'full'), seed=0)
