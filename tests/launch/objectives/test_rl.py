"""GRPO from end to end: it learns, resumes bit for bit, and stops in time."""

import json

import jax
import numpy as np
import pytest

from launch import train
from launch.objectives import rl
from tests import word_config

TIMING = {
  'step_time',
  'data_wait',
  'eta',
  'tokens_per_s',
  'flops_per_s',
  'rollout/seconds',
}


@pytest.fixture(autouse=True, scope='module')
def every_program_is_cached():
  """A run that is started again compiles the same programs again."""
  name = 'jax_persistent_cache_min_compile_time_secs'
  before = jax.config.jax_persistent_cache_min_compile_time_secs
  jax.config.update(name, 0)
  yield
  jax.config.update(name, before)


@pytest.fixture
def config(tmp_path):
  config = word_config.get_config()
  config.workdir = str(tmp_path / 'run')
  return config


def run(config):
  rows = []
  _, state = train.run(config, report_row=rows.append)
  params = jax.device_get(state['params'])
  untimed = [{k: v for k, v in r.items() if k not in TIMING} for r in rows]
  return untimed, params


def test_the_reward_rises(config):
  config.steps, config.log_every = 12, 3
  rows, _ = run(config)
  shares = [row['rollout/reward/share'] for row in rows]
  assert shares[0] < 0.35 and shares[-1] > 0.6, shares
  assert rows[-1]['rollout/reward/format'] > rows[0]['rollout/reward/format']
  assert rows[-1]['entropy'] < rows[0]['entropy']
  for row in rows:
    by_task = [
      row[f'rollout.{kind}/reward/share'] for kind in ('long', 'short')
    ]
    assert min(by_task) <= row['rollout/reward/share'] <= max(by_task)
    # Sampler and trainer agree, and a group is not one completion eight times.
    assert row['drift/max'] < 1e-4 and row['drift/corrected'] == 0
    assert row['ratio'] == pytest.approx(1) and row['clip_share'] == 0
    assert 0 <= row['rollout/truncated'] <= 1 <= row['rollout/length'] <= 3
    assert 'kl' not in row  # beta = 0 has no reference to differ from
  assert rows[0]['rollout/identical'] == 0


class Killed(Exception):
  pass


def test_killed_and_resumed_equals_uninterrupted(config):
  """Between two updates with one batch, and with the next one drawn."""
  config.rl.updates, config.rl.ahead, config.rl.beta = 2, True, 0.1
  config.rl.rounds, config.accumulate = 2, 1
  config.checkpoint.every = 3
  folder = config.workdir
  config.workdir = f'{folder}-whole'
  rows, params = run(config)
  assert rows[-1]['rollout/staleness'] == 2  # one batch, two updates
  assert rows[0]['rollout/staleness'] == 0
  assert all(row['kl'] > 0 for row in rows)
  assert any(row['rollout/batches'] > 1 for row in rows)  # groups were replaced
  assert any(row['clip_share'] > 0 for row in rows)

  def die(row):
    if row['step'] == 4:
      raise Killed

  config.workdir = folder
  with pytest.raises(Killed):
    train.run(config, report_row=die)
  resumed, again = run(config)
  jax.tree.map(np.testing.assert_array_equal, params, again)
  assert resumed == rows[-len(resumed) :] and len(resumed) == 2
  tables = [
    {p.name: p.read_text() for p in train.epath.Path(f).glob('samples/*')}
    for f in (folder, f'{folder}-whole')
  ]
  assert tables[0] == tables[1]
  assert {'00000000.jsonl', '00000004.jsonl'} <= set(tables[0])


def test_a_failed_reward_costs_its_sample_and_not_the_run(config):
  config.odd, config.steps = 'broken', 2
  rows, _ = run(config)
  assert 0 < rows[0]['rollout/failed/broken'] < 1
  table = train.epath.Path(config.workdir) / 'samples' / '00000000.jsonl'
  lines = [json.loads(line) for line in table.read_text().splitlines()]
  failed = 0
  for line in lines:
    for g, text in enumerate(line['completions']):
      assert line['counted'][g] == ('h' not in text)
      if 'h' in text:
        failed += 1
        assert line['rewards']['broken'][g] is None
        assert line['advantages'][g] == 0
  assert failed > 0


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('odd', 'specimen', 'earns a format reward of 0.0, expected 1'),
    ('odd', 'endless', '--config.rl.new_tokens=3'),
    ('odd', 'long', 'never cut: raise --config.data.seq_len'),
    ('rl.group', 1, '--config.rl.group'),
    ('rl.temperature', 0.0, '--config.rl.temperature'),
    ('rl.reduction', 'mean', '--config.rl.reduction'),
    ('rl.updates', 0, '--config.rl.updates'),
    ('data.packing', True, '--config.data.packing'),
    ('data.epochs', 1, '--config.data.epochs'),
    ('rollout.mesh.tensor', 3, '--config.rollout.mesh'),
    ('init_from', 'nowhere', '--config.init_from=nowhere'),
    ('objective', 'grp', '--config.objective'),
  ],
)
def test_what_cannot_work_stops_the_run(config, field, value, message):
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=message):
    train.run(config)


def test_a_task_without_rewards_is_refused(config, monkeypatch):
  monkeypatch.delattr('tests.word_task.Task.specimen')
  with pytest.raises(ValueError, match="has no 'specimen'"):
    rl.prepare(config)
