"""Groups of completions: what is logged of them, written, and refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath

from vlm.rollout.groups import Groups, Roller
from vlm.rollout.rewards import Reward, Scorer
from vlm.rollout.settings import Sampling
from vlm.rollout.table import SampleTable
from vlm.sharding.mesh import make_mesh

NAN = np.nan


def objects(*items):
  array = np.empty(len(items), object)
  array[:] = items
  return array


@pytest.fixture
def groups():
  """Three prompts of two tasks; the second says the same three times."""
  completions = np.array(
    [
      [[3, 4, 0], [3, 5, 0], [4, 4, 4]],
      [[5, 5, 0], [5, 5, 0], [5, 5, 0]],
      [[6, 0, 0], [7, 0, 0], [3, 3, 0]],
    ]
  )
  return Groups(
    records=objects({'task': 'a'}, {'task': 'b'}, {'task': 'a'}),
    prompts=objects('one', 'two', 'three'),
    texts=np.array([['x', 'y', 'z'], ['w'] * 3, ['u', 'v', 'x']], object),
    completions=completions,
    lengths=np.array([[2, 2, 3], [2, 2, 2], [1, 1, 2]]),
    truncated=completions[..., -1] == 4,
    sampler_logprobs=np.zeros((3, 3, 3)),
    rewards=np.array(
      [
        [[1, 1], [2, 1], [NAN, 0]],
        [[3, 1], [3, 1], [3, 1]],
        [[0, NAN], [1, 0], [2, 0]],
      ]
    ),
    total=np.array([[1.0, 2, 0], [3, 3, 3], [0, 1, 2]]),
    counted=np.array([[True, True, False], [True] * 3, [True] * 3]),
    advantages=np.array([[-1.0, 1, 0], [0, 0, 0], [-1, 0, 1]]),
    degenerate=np.array([False, True, False]),
  )


@pytest.fixture
def roller():
  rewards = (
    Reward('score', lambda text, record: 1.0),
    Reward('format', lambda text, record: 1.0, 0.0),
  )
  scorer = Scorer(rewards, threads=1)
  mesh = make_mesh({'fsdp': 1}, jax.devices()[:1])
  yield Roller(None, Sampling(3, (0,)), scorer, mesh, 4, 3, str)
  scorer.close()


def test_what_the_log_says_by_hand(groups, roller):
  told = {name: pair[0] / pair[1] for name, pair in roller.told(groups).items()}
  want = {
    'rollout/reward': 15 / 8,  # the sample without a reward is not a zero
    'rollout/reward/score': 15 / 8,
    'rollout/reward/format': 5 / 8,
    'rollout/failed/score': 1 / 9,
    'rollout/failed/format': 1 / 9,
    'rollout/length': 17 / 9,
    'rollout/truncated': 1 / 9,
    'rollout/degenerate': 1 / 3,
    'rollout/identical': 1 / 3,
    'rollout.a/reward': 6 / 5,
    'rollout.b/reward/score': 3.0,
    'rollout.a/identical': 0.0,
    'rollout.b/identical': 1.0,
    'rollout.a/failed/score': 1 / 6,
    'rollout.b/truncated': 0.0,
  }
  for name, value in want.items():
    assert told[name] == pytest.approx(value), name
  # With one task its name says nothing.
  assert not any('.a' in name for name in roller.told(groups.take([0, 2])))


def test_prompts_are_taken_and_joined(groups):
  again = Groups.joined([groups.take([2]), groups.take(slice(0, 2))])
  assert list(again.prompts) == ['three', 'one', 'two']
  np.testing.assert_array_equal(again.lengths, groups.lengths[[2, 0, 1]])
  arrays = again.arrays()
  assert {k: v.dtype.name for k, v in arrays.items()} == {
    'completions': 'int32',
    'lengths': 'int32',
    'counted': 'float32',
    'advantages': 'float32',
    'sampler_logprobs': 'float32',
  }


def test_the_table_is_json_also_where_a_reward_failed(groups, tmp_path):
  folder = epath.Path(tmp_path / 'samples')
  table = SampleTable(folder, ('score', 'format'), every=4, updates=2)
  for step in range(0, 12, 2):
    table(step, groups)
  assert sorted(path.name for path in folder.iterdir()) == [
    '00000000.jsonl', '00000004.jsonl', '00000008.jsonl'
  ]  # fmt: skip
  text = (folder / '00000004.jsonl').read_text()
  rows = [
    json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()
  ]
  assert rows[0]['rewards'] == {'score': [1, 2, None], 'format': [1, 1, 0]}
  assert rows[0]['completions'] == ['x', 'y', 'z'] and rows[0]['step'] == 4
  assert [row['prompt'] for row in rows] == ['one', 'two', 'three']
  SampleTable(folder / 'none', ('score',), every=0)(0, groups)
  assert not (folder / 'none').exists()


@pytest.mark.parametrize(
  ('changes', 'flag'),
  [
    ({'group': 1}, '--config.rl.group=1'),
    ({'sampling': Sampling(3, (0,), temperature=0)}, '--config.rl.temperature'),
  ],
)
def test_groups_that_cannot_differ_are_refused(roller, changes, flag):
  with pytest.raises(ValueError, match=flag):
    dataclasses.replace(roller, **changes)
