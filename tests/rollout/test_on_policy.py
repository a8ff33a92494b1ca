"""What an on-policy run draws, when, and how it survives being saved."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from vlm.rollout.groups import Groups, Roller
from vlm.rollout.on_policy import OnPolicy
from vlm.rollout.rewards import Reward, Scorer
from vlm.rollout.sampler import Weights
from vlm.rollout.settings import Sampling
from vlm.sharding.mesh import make_mesh

P, G, C = 4, 2, 3


class Prompts:
  """Batch n holds prompts 4 n ... 4 n + 3."""

  def __init__(self):
    self.at = 0

  def __next__(self):
    numbers = np.arange(P) + P * self.at
    self.at += 1
    return {
      'tokens': numbers[:, None].astype(np.int32),
      'plan': {'grid': numbers[:, None, None]},
      '_record': [{'n': int(n)} for n in numbers],
      '_prompt': [str(n) for n in numbers],
    }

  def get_state(self):
    return {'at': self.at}

  def set_state(self, state):
    self.at = state['at']


class FakeRoller(Roller):
  """Odd prompts earn the same twice; notes what happens in `events`."""

  def draw(self, weights, prompts, number):
    self.detokenize.events.append(f'draw {number}')
    numbers = np.array([r['n'] for r in prompts['_record']])
    completions = np.tile(numbers[:, None, None], (1, G, C)).astype(np.int32)
    lengths = np.full((P, G), C, np.int32)

    def groups():
      self.detokenize.events.append(f'rewards {number}')
      total = np.tile(np.arange(G) / 3.0, (P, 1))
      total[numbers % 2 == 1] = 1.0
      objects = np.array([str(n) for n in numbers], object)
      return Groups(
        records=objects,
        prompts=objects,
        texts=completions[..., 0].astype(object),
        completions=completions,
        lengths=lengths,
        truncated=lengths < 0,
        sampler_logprobs=completions / np.float32(-7),
        rewards=total[..., None],
        total=total,
        counted=lengths > 0,
        advantages=(total - total.mean(1, keepdims=True)).astype(np.float32),
        degenerate=numbers % 2 == 1,
      )

    return types.SimpleNamespace(tokens=completions, lengths=lengths), groups

  def told(self, groups):
    return {'rollout/reward': (float(groups.total.sum()), 1.0)}


class Events:
  def __init__(self):
    self.events = []

  def __call__(self, ids):
    return ''


def make(**options):
  scorer = Scorer([Reward('one', lambda text, record: 1.0)], threads=1)
  scorer.close()
  log, mesh = Events(), make_mesh({'fsdp': 1}, jax.devices()[:1])
  roller = FakeRoller(None, Sampling(C, (0,)), scorer, mesh, 1, G, log)
  # As seen by the parameters of the moment, here a number.
  score = lambda state, batch: {
    'old_logprobs': jax.numpy.asarray(batch['completions'] + state['params'])
  }
  return log.events, OnPolicy(
    Prompts(),
    roller,
    publish=lambda state: Weights({}, {}, False),
    logprobs=score,
    **options,
  )


def numbers(batch):
  assert (batch['plan']['grid'][:, 0, 0] == batch['tokens'][:, 0]).all()
  assert (batch['completions'][:, 0, 0] == batch['tokens'][:, 0]).all()
  return batch['tokens'][:, 0].tolist()


def stale(batch):
  return batch['_metrics']['rollout/staleness'][0]


def test_on_policy_draws_when_asked_and_waits():
  events, source = make()
  for step in range(3):
    batch = source.next_with({'params': 10 * step})
    assert numbers(batch) == [P * step + i for i in range(P)]
    assert stale(batch) == 0
    assert (batch['old_logprobs'] - batch['completions'] == 10 * step).all()
  assert events == [f'{what} {n}' for n in range(3) for what in
                    ('draw', 'rewards')]  # fmt: skip


def test_one_step_ahead_the_next_is_drawn_before_rewards_are_waited_for():
  events, source = make(ahead=True)
  batches = [source.next_with({'params': 10 * step}) for step in range(3)]
  assert events == [
    'draw 0', 'draw 1', 'rewards 0', 'draw 2', 'rewards 1', 'draw 3',
    'rewards 2',
  ]  # fmt: skip
  assert [stale(batch) for batch in batches] == [0, 1, 1]
  # Attributed to the parameters that drew them, a step ago.
  seen = [int((b['old_logprobs'] - b['completions']).max()) for b in batches]
  assert seen == [0, 0, 10]


def test_a_batch_serves_several_updates_and_is_logged_once():
  events, source = make(updates=3)
  batches = [source.next_with({'params': step}) for step in range(6)]
  assert [numbers(batch)[0] for batch in batches] == [0, 0, 0, 4, 4, 4]
  assert [bool(batch['_metrics']) for batch in batches] == [
    True,
    False,
    False,
  ] * 2
  assert [int(b['old_logprobs'][0, 0, 0]) for b in batches] == [0] * 3 + [7] * 3


def test_groups_that_teach_nothing_are_replaced():
  _, source = make(rounds=3)
  batch = source.next_with({'params': 0})
  assert numbers(batch) == [0, 2, 4, 6]
  assert batch['_metrics']['rollout/batches'] == (2.0, 1.0)
  assert np.abs(batch['advantages']).min() > 0
  assert numbers(source.next_with({'params': 0})) == [8, 10, 12, 14]


def test_what_is_missing_is_filled_up_when_the_rounds_are_over(monkeypatch):
  _, source = make(rounds=1)
  draw = FakeRoller.draw

  def once(self, weights, prompts, number):
    out, groups = draw(self, weights, prompts, number)
    found = lambda: dataclasses.replace(
      groups(), degenerate=np.arange(P) + P * number != 5
    )
    return out, found

  monkeypatch.setattr(FakeRoller, 'draw', once)
  # Prompt 5 alone teaches; the others come as they were drawn.
  assert numbers(source.next_with({'params': 0})) == [5, 0, 1, 2]


@pytest.mark.parametrize('taken', range(1, 5))
@pytest.mark.parametrize('options', [
  dict(),
  dict(updates=2),
  dict(ahead=True),
  dict(ahead=True, updates=2, rounds=2),
])  # fmt: skip
def test_it_goes_on_where_it_was_saved(options, taken):
  _, whole = make(**options)
  state = lambda step: {'params': 100 * step}
  batches = [whole.next_with(state(step)) for step in range(7)]
  _, first = make(**options)
  for step in range(taken):
    first.next_with(state(step))
  saved = json.loads(json.dumps(first.get_state()))
  _, second = make(**options)
  second.set_state(saved)
  for step in range(taken, 7):
    batch = second.next_with(state(step))
    for told in (batch['_metrics'], batches[step]['_metrics']):
      told.pop('rollout/seconds', None)
    assert batch.keys() == batches[step].keys()
    jax.tree.map(np.testing.assert_array_equal, batch, batches[step])


def test_no_update_at_all_is_refused():
  with pytest.raises(ValueError, match='--config.rl.updates'):
    make(updates=0)
