"""One step on any mesh: same numbers, same shards, one compile."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vlm.models import registry
from vlm.models.qwen2 import Qwen2Config
from vlm.sharding.batch import to_global
from vlm.sharding.mesh import make_mesh
from vlm.sharding.rules import flatten
from vlm.train import state as states
from vlm.train.optimizer import make_optimizer
from vlm.train.sft import sft
from vlm.train.step import make_eval_step, make_step

CONFIG = Qwen2Config(
  vocab_size=32,
  width=16,
  depth=2,
  heads=4,
  kv_heads=2,
  head_dim=4,
  mlp_width=32,
  tied_head=False,
)
MODEL = registry.build(CONFIG)
OPTIMIZER = dict(lr=1e-2, weight_decay=0.1, clip=0.3, schedule='constant')
ROWS, LENGTH = 16, 12
MESHES = {
  'one': (dict(fsdp=1), 1),
  'data': (dict(data=8, fsdp=1), 8),
  'fsdp': (dict(fsdp=8), 8),
  'fsdp x tensor': (dict(data=2, fsdp=2, tensor=2), 8),
}


def batches(count=3):
  """Rows of very unequal length that count upwards from a random token."""
  rng = np.random.default_rng(0)
  for _ in range(count):
    lengths = np.r_[[LENGTH] * 2, [2] * 10, rng.integers(3, LENGTH, 4)]
    present = (np.arange(LENGTH) < lengths[:, None]).astype(np.int32)
    tokens = rng.integers(1, 20, (ROWS, 1)) + np.arange(LENGTH)
    yield {
      'tokens': (tokens * present).astype(np.int32),
      'segment_ids': present,
      'positions': np.arange(LENGTH, dtype=np.int32) * present,
      'loss_mask': present.astype(np.float32),
    }


@functools.cache
def first_params():
  return jax.device_get(jax.jit(MODEL.init)(jax.random.key(1)))


def start(name='one'):
  """A mesh, an optimiser and a state around the same first parameters."""
  config, count = MESHES[name]
  mesh = make_mesh(config, jax.devices()[:count])
  optimizer = make_optimizer(OPTIMIZER, MODEL.abstract_params, 10)
  return (
    mesh,
    optimizer,
    states.state_from_params(first_params(), optimizer, mesh),
  )


def train(name='one', accumulate=1):
  """Trains three steps; returns the state and the metrics on the host."""
  mesh, optimizer, state = start(name)
  step = make_step(
    sft(MODEL, loss_chunk=5),
    optimizer,
    mesh=mesh,
    state_shardings=states.state_shardings(state),
    accumulate=accumulate,
  )
  history = []
  for batch in batches():
    state, metrics = step(state, to_global(batch, mesh))
    history.append(jax.device_get(metrics))
  assert step._cache_size() == 1
  return state, history


@pytest.fixture(scope='module')
def alone():
  return train('one')


def assert_equal_runs(got, want, atol=1e-5):
  for (path, a), (_, b) in zip(flatten(got[0]), flatten(want[0])):
    np.testing.assert_allclose(
      jax.device_get(a), jax.device_get(b), atol=atol, err_msg=path
    )
  for a, b in zip(got[1], want[1]):
    assert set(a) == set(b)
    for name in a:
      np.testing.assert_allclose(a[name], b[name], rtol=2e-5, err_msg=name)


def test_the_loss_falls_and_metrics_are_complete(alone):
  state, history = alone
  loss = [m['loss'][0] / m['loss'][1] for m in history]
  assert loss[0] > loss[1] > loss[2]
  assert abs(loss[0] - np.log(32)) < 0.5
  assert int(state['step']) == 3
  assert history[0]['finite'] == (1.0, 1.0)
  assert history[0]['learning_rate'] == (np.float32(1e-2), 1.0)
  # Supervised: every token but the first of each row.
  first = next(iter(batches(1)))['segment_ids']
  assert history[0]['loss'][1] == first.sum() - ROWS
  assert history[0]['target_share'] == (first.sum() - ROWS, first.sum())


@pytest.mark.parametrize(
  ('name', 'accumulate'),
  [('data', 1), ('fsdp', 2), ('fsdp x tensor', 1), ('one', 4)],
)
def test_devices_and_accumulation_change_nothing(alone, name, accumulate):
  """Rows of 2 to 12 tokens: a mean of microbatch means would be far off."""
  state, history = train(name, accumulate)
  for (path, a), (_, b) in zip(flatten(state), flatten(alone[0])):
    a, b = jax.device_get((a, b))
    np.testing.assert_allclose(a, b, atol=1e-5, err_msg=path)
  for a, b in zip(history, alone[1]):
    for metric in ('loss', 'accuracy', 'target_share', 'grad_norm'):
      np.testing.assert_allclose(a[metric], b[metric], rtol=2e-5)


def test_state_is_sharded_from_birth():
  mesh, optimizer, given = start('fsdp x tensor')
  state = states.init_state(
    MODEL.init, optimizer, mesh, key=jax.random.key(1), ema=0.5
  )
  abstract = states.abstract_state(
    MODEL.abstract_params, optimizer, mesh, ema=0.5
  )
  want = states.state_shardings(abstract)
  assert states.state_shardings(state) == want
  del want['ema']
  assert states.state_shardings(given) == want
  moments = want['opt_state'][1]
  assert moments.mu == moments.nu == want['params']
  gate = state['params']['decoder']['layers']['mlp']['gate']['kernel']
  assert gate.sharding.spec == P(None, 'fsdp', 'tensor')
  assert gate.addressable_shards[0].data.shape == (2, 8, 16)
  assert want['step'].spec == moments.count.spec == P()
  # The draw does not depend on the mesh.
  for (path, a), (_, b) in zip(
    flatten(state['params']), flatten(first_params())
  ):
    np.testing.assert_allclose(jax.device_get(a), b, atol=1e-6, err_msg=path)


class Line:
  """Two weights and hand-made gradients, for what a decoder hides."""

  params = {
    'w': np.array([3.0, 4.0], np.float32),
    'fixed': {'bias': np.array([0.1, -0.0], np.float32)},
  }

  @staticmethod
  def objective(params, batch, key):
    numerator = jnp.sum(batch['x'] * (params['w'] + params['fixed']['bias']))
    return numerator, {
      'loss': (numerator, jnp.sum(batch['n'])),
      'draw': (jax.random.uniform(key), 1.0),
    }

  def run(self, batches, *, ema=0.0, **options):
    mesh = make_mesh(dict(data=4, fsdp=2))
    rules = ((r'fixed/.*', dict(freeze=True)),)
    optimizer = make_optimizer(
      dict(clip=0.0, lr=0.1, rules=rules), self.params, 9
    )
    state = states.state_from_params(self.params, optimizer, mesh, ema=ema)
    step = make_step(
      self.objective,
      optimizer,
      mesh=mesh,
      state_shardings=states.state_shardings(state),
      ema=ema,
      **options,
    )
    metrics = []
    for batch in batches:
      state, out = step(state, to_global(batch, mesh))
      metrics.append(jax.device_get(out))
    return jax.device_get(state), metrics

  @staticmethod
  def batch(x, n):
    return {
      'x': np.tile(np.asarray(x, np.float32), (16, 1)),
      'n': np.full((16,), n, np.float32),
    }


def test_norms_are_those_of_the_mean_gradient():
  _, (metrics,) = Line().run([Line.batch([3, 4], 2)])
  # The gradient is 16 * (3, 4) / 32; Adam's first update is lr in each place.
  np.testing.assert_allclose(metrics['grad_norm'][0], 2.5, rtol=1e-6)
  np.testing.assert_allclose(
    metrics['update_norm'][0], 0.1 * np.sqrt(2), rtol=1e-5
  )
  np.testing.assert_allclose(
    metrics['param_norm'][0], np.hypot(2.9, 3.9), rtol=1e-6
  )


def test_a_batch_without_targets_moves_nothing():
  state, (metrics,) = Line().run([Line.batch([0, 0], 0)])
  np.testing.assert_array_equal(state['params']['w'], [3, 4])
  assert metrics['loss'] == (0, 0) and metrics['finite'] == (1, 1)


def test_frozen_parameters_keep_every_bit_and_have_no_moments():
  state, _ = Line().run([Line.batch([1, 2], 1)] * 2)
  fixed = state['params']['fixed']['bias']
  assert fixed.tobytes() == Line.params['fixed']['bias'].tobytes()
  assert not any('fixed' in path for path, _ in flatten(state['opt_state']))
  assert (state['params']['w'] < Line.params['w']).all()


def test_ema_follows_the_parameters():
  batches = [Line.batch([1, 2], 1)] * 2
  state, _ = Line().run(batches, ema=0.75)
  path = [Line.params['w'].astype(np.float64)]
  for count in (1, 2):
    path.append(Line().run(batches[:count])[0]['params']['w'])
  want = 0.75**2 * path[0] + 0.75 * 0.25 * path[1] + 0.25 * path[2]
  np.testing.assert_allclose(state['ema']['w'], want, rtol=1e-6)
  np.testing.assert_array_equal(state['params']['w'], path[2])


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_bad_number_clears_the_finite_flag(bad):
  _, metrics = Line().run([Line.batch([1, 1], 1), Line.batch([bad, 1], 1)])
  assert [float(m['finite'][0]) for m in metrics] == [1, 0]


def test_randomness_depends_on_seed_and_step_only():
  batches = [Line.batch([1, 1], 1)] * 2
  _, first = Line().run(batches)
  _, again = Line().run(batches)
  _, other = Line().run(batches, seed=1)
  draws = [[m['draw'][0] for m in run] for run in (first, again, other)]
  assert draws[0] == draws[1]
  assert len({float(draw) for draw in draws[0] + draws[2]}) == 4
  _, (split,) = Line().run(batches[:1], accumulate=2)
  # Each microbatch draws its own number; the first is the whole batch's.
  assert split['draw'][1] == 2 and split['draw'][0] != 2 * draws[0][0]


def test_a_batch_that_does_not_split_is_named():
  with pytest.raises(ValueError, match=r'16 rows.*--config.accumulate=3'):
    Line().run([Line.batch([1, 1], 1)], accumulate=3)


def test_eval_step_counts_like_training(alone):
  mesh, _, state = start('fsdp')
  evaluate = make_eval_step(
    sft(MODEL, loss_chunk=5),
    mesh=mesh,
    param_shardings=states.state_shardings(state['params']),
  )
  got = evaluate(state['params'], to_global(next(batches(1)), mesh))
  for name in ('loss', 'accuracy', 'target_share'):
    np.testing.assert_allclose(got[name], alone[1][0][name], rtol=1e-5)
