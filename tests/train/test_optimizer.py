"""The optimiser equals AdamW written out; rules act on the paths they name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from vlm.train.optimizer import OptimizerConfig, make_optimizer, make_schedule

PARAMS = {
  'decoder': {
    'layers': {'kernel': np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)},
    'norm': {'scale': np.array([1.0, 2.0], np.float32)},
  },
  'head': {'kernel': np.array([0.3, -0.0, -0.7], np.float32)},
  'vision': {'kernel': np.array([2.0, -1.0], np.float32)},
}
GRADS = [
  jax.tree.map(lambda p, s=s: np.cos(p * (s + 1)).astype(np.float32), PARAMS)
  for s in range(3)
]


def run(config, steps=3):
  optimizer = make_optimizer(config, PARAMS, steps)
  params, state = PARAMS, optimizer.init(jax.tree.map(jnp.asarray, PARAMS))
  update = jax.jit(optimizer.apply)
  params, _ = optimizer.split(jax.tree.map(jnp.asarray, params))
  for grads in GRADS[:steps]:
    params, state, _ = update(optimizer.split(grads)[0], state, params)
  return params, state, optimizer


def adamw(params, grads, rates, decay, clip, b1, b2):
  """AdamW over a flat dict, in float64, as the formulas read."""
  params = {k: v.astype(np.float64) for k, v in params.items()}
  m = dict.fromkeys(params, 0.0)
  v = dict.fromkeys(params, 0.0)
  for t, (grad, rate) in enumerate(zip(grads, rates), start=1):
    norm = np.sqrt(
      sum(np.sum(g.astype(np.float64) ** 2) for g in grad.values())
    )
    for k in params:
      g = grad[k] * min(1.0, clip / norm)
      m[k] = b1 * m[k] + (1 - b1) * g
      v[k] = b2 * v[k] + (1 - b2) * g * g
      step = m[k] / (1 - b1**t) / (np.sqrt(v[k] / (1 - b2**t)) + 1e-8)
      params[k] = params[k] - rate[k] * (step + decay[k] * params[k])
  return params


def flat(tree):
  return {
    'kernel': tree['decoder']['layers']['kernel'],
    'scale': tree['decoder']['norm']['scale'],
    'head': tree['head']['kernel'],
  }


def test_three_updates_equal_the_formulas():
  """Clip of the trainable norm, decay by path, rate multiplier, warm-up."""
  got, _, _ = run(
    ConfigDict(
      dict(
        lr=0.1,
        schedule='linear',
        warmup=2,
        weight_decay=0.2,
        clip=0.5,
        b1=0.8,
        b2=0.9,
        rules=(
          (r'vision/.*', dict(freeze=True)),
          (r'head/.*', dict(lr=0.5)),
          (r'.*/kernel', dict(decay=0.3, lr=9.0)),
          (r'decoder/layers/.*', dict(lr=7.0)),
        ),
      )
    ),
  )
  # Warm-up 1/2, 1; then x = 0 at count 2. The first rule that sets a field
  # decides it: 'lr' of layers comes from '.*/kernel'.
  shared = np.array([0.05, 0.1, 0.1])
  rates = [dict(kernel=9 * r, scale=r, head=0.5 * r) for r in shared]
  decay = dict(kernel=0.3, scale=0.0, head=0.3)
  want = adamw(
    flat(PARAMS), [flat(g) for g in GRADS], rates, decay, 0.5, 0.8, 0.9
  )
  for name, array in flat(got).items():
    np.testing.assert_allclose(array, want[name], rtol=2e-5, err_msg=name)


def test_frozen_parameters_have_no_state():
  params, state, optimizer = run(
    dict(rules=((r'(vision|head)/.*', dict(freeze=True)),))
  )
  assert optimizer.frozen == {'vision/kernel', 'head/kernel'}
  assert set(params) == {'decoder'}
  shapes = sorted(leaf.shape for leaf in jax.tree.leaves(state))
  # Two counters and two moments of the two trainable arrays.
  assert shapes == [(), (), (2,), (2,), (2, 2), (2, 2)]


def test_moments_of_bfloat16_parameters_are_float32():
  half = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), PARAMS)
  optimizer = make_optimizer({}, half, 10)
  state = optimizer.init(half)
  trainable, _ = optimizer.split(half)
  moved, state, _ = optimizer.apply(half, state, trainable)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(moved)} == {'bfloat16'}
  assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {
    'float32',
    'int32',
  }


@pytest.mark.parametrize(
  ('kind', 'want'),
  [
    ('constant', [0.5, 1, 1, 1, 1, 1]),
    ('linear', [0.5, 1, 1, 0.75, 0.5, 0.25]),
    ('cosine', [0.5, 1, 1, 0.853553, 0.5, 0.146447]),
    ('rsqrt', [0.5, 1, 0.816497, 0.707107, 0.632456, 0.577350]),
  ],
)
def test_schedules(kind, want):
  schedule = make_schedule(kind, lr=2.0, warmup=2, steps=6)
  got = schedule(np.arange(6))
  np.testing.assert_allclose(got, 2 * np.array(want), rtol=1e-5)


@pytest.mark.parametrize(
  ('config', 'words'),
  [
    (dict(learning_rate=1), ['optimizer.learning_rate', 'unknown', "'lr'"]),
    (dict(schedule='step'), ['optimizer.schedule', "'step'", 'cosine']),
    (dict(b2=1.0), ['optimizer.b2=1.0', '< 1']),
    (dict(warmup=10), ['optimizer.warmup=10', '--config.steps=10']),
    (dict(rules=((r'tower/.*', {}),)), ["'tower/.*'", 'matches no parameter']),
    (dict(rules=((r'kernel', {}),)), ["'kernel'", 'whole path']),
    (dict(rules=((r'.*', dict(rate=1)),)), ["'rate'", 'freeze']),
    (dict(rules=((r'.*', dict(freeze=True)),)), ['all 4 parameters']),
  ],
)
def test_errors_name_field_and_flag(config, words):
  with pytest.raises(ValueError) as error:
    make_optimizer(config, PARAMS, 10)
  for word in ('--config.optimizer', *words):
    assert word in str(error.value)


def test_config_passes_through():
  config = OptimizerConfig(lr=0.5)
  assert OptimizerConfig.of(config) is config
