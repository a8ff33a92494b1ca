"""The contrastive objective: cached equals direct, eight devices equal one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.models import clip, registry
from vlm.models.functional import Runtime
from vlm.sharding import rules
from vlm.sharding.batch import to_global
from vlm.sharding.mesh import make_mesh
from vlm.train import loop
from vlm.train.contrastive import contrastive
from vlm.train.optimizer import make_optimizer
from vlm.train.state import state_from_params, state_shardings
from vlm.train.step import make_step

ROWS, SIDE, CONTEXT, END = 16, 16, 6, 19
CONFIG = clip.ClipConfig(
  clip.ClipVisionConfig(SIDE, 8, 16, 1, 2, 24),
  clip.ClipTextConfig(END + 1, CONTEXT, 16, 1, 2, 24, eos_token=END),
  embedding=12,
)


@functools.cache
def model_of(loss='softmax'):
  config = dataclasses.replace(CONFIG, logit_bias=loss == 'sigmoid')
  return registry.build(config, Runtime(attention='xla', unroll=True))


@functools.cache
def params_of(loss='softmax'):
  if loss == 'sigmoid':
    return params_of() | {'logit_bias': jnp.float32(-10)}
  return jax.jit(model_of().init)(jax.random.key(1))


def batch_of(seed=0, rows=ROWS):
  """Rows 3 and 7 have one text; the last is padding."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(0, END, (rows, CONTEXT)).astype(np.int32)
  tokens[:, -1] = END
  ids = 10 + np.arange(rows, dtype=np.int32)
  if rows > 7:
    tokens[7], ids[7] = tokens[3], ids[3]
  pixels = rng.integers(0, 256, (rows, SIDE, SIDE, 3)).astype(np.uint8)
  batch = {
    'pixels': pixels,
    'tokens': tokens,
    'text_ids': ids,
    'cut': (np.arange(rows) < 2).astype(np.float32),
  }
  if rows > 1:
    for array in batch.values():
      array[-1] = 0
  return batch


@functools.cache
def gradient(parts, loss='softmax', **options):
  objective = contrastive(model_of(loss), loss=loss, parts=parts, **options)
  batch = jax.tree.map(jnp.asarray, batch_of())
  run = lambda params: objective(params, batch, jax.random.key(0))
  return jax.jit(jax.value_and_grad(run, has_aux=True))(params_of(loss))


def close(ours, theirs, relative=1e-5):
  """Leaves agree relative to the size of each."""
  ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
  # Gradients that cancel to zero (of key biases) are noise of the largest.
  least = 0.05 * max(float(jnp.abs(leaf).max()) for leaf in theirs)
  for a, b in zip(ours, theirs, strict=True):
    scale = max(float(jnp.abs(b).max()), least)
    np.testing.assert_allclose(a / scale, b / scale, rtol=0, atol=relative)


def test_cached_gradients_equal_direct_ones():
  shared = dict(loss='sigmoid', share_equal=True)
  (value, metrics), grads = gradient(1, **shared)
  (cached, same), pieces = gradient(4, **shared, block=5)
  np.testing.assert_allclose(cached, value, rtol=1e-6)
  close(pieces, grads)
  close(same, metrics)
  moved = grads['vision']['layers']['mlp']['fc1']['kernel']
  assert float(jnp.abs(moved).max()) > 1e-2
  assert metrics['logit_bias'] == (-10, 1) and grads['logit_bias'] != 0


def test_metrics_count_pairs_and_no_padding():
  (value, metrics), _ = gradient(1)
  np.testing.assert_allclose(metrics['loss'], (value, ROWS - 1), rtol=1e-6)
  np.testing.assert_allclose(metrics['duplicate_share'], (2, ROWS - 1))
  np.testing.assert_allclose(metrics['cut_share'], (2, ROWS - 1))
  np.testing.assert_allclose(metrics['logit_scale'], (1 / 0.07, 1), rtol=1e-6)

  @jax.jit
  def by_hand(params, batch):
    images = model_of().encode_image(params, batch['pixels']).embedding
    texts = model_of().encode_text(params, batch['tokens']).embedding
    return images, model_of().logits(params, images, texts)

  images, logits = map(np.asarray, by_hand(params_of(), batch_of()))
  logits = logits[:-1, :-1]
  best = [
    set(np.flatnonzero(np.isclose(row, row.max(), atol=1e-4))) for row in logits
  ]
  right = sum(best[i] == {i} for i in range(ROWS - 1))
  assert int(metrics['i2t_accuracy'][0]) == right
  norm = np.linalg.norm(images[:-1], axis=1).sum()
  np.testing.assert_allclose(metrics['image_norm'][0], norm, rtol=1e-5)


def test_eight_devices_equal_one(devices):
  mesh = make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2}, devices)
  objective = contrastive(model_of(), parts=2, block=3)
  run = lambda params, batch: objective(params, batch, jax.random.key(0))
  params = params_of()
  placed = jax.device_put(params, rules.shardings(mesh, params))
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    step = jax.jit(jax.value_and_grad(run, has_aux=True))
    (value, metrics), grads = step(placed, to_global(batch_of(), mesh))
  (want, same), direct = gradient(1)
  np.testing.assert_allclose(value, want, rtol=1e-6)
  close(jax.device_get(grads), direct)
  close(jax.device_get(metrics), same)


def test_a_frozen_tower_stays_and_what_is_not_a_number_is_named(devices):
  mesh = make_mesh({'data': 1, 'fsdp': 1, 'tensor': 1}, devices[:1])
  model, start = model_of(), jax.device_get(params_of())
  freeze = ((r'text/.*|text_projection/.*', {'freeze': True}),)
  optimizer = make_optimizer(
    {'lr': 1e-2, 'rules': freeze}, model.abstract_params, 4
  )
  state = state_from_params(start, optimizer, mesh)
  step = make_step(
    contrastive(model, parts=2),
    optimizer,
    mesh=mesh,
    state_shardings=state_shardings(state),
  )
  batch = batch_of()
  batch['pixels'] = batch['pixels'].astype(np.float32) / 255
  run = lambda state, batch, steps: loop.train(
    state, step, iter([batch]), steps=steps, mesh=mesh, log_every=1
  )
  state = run(state, batch, 1)
  params = jax.device_get(state['params'])
  for name in ('text', 'text_projection'):
    jax.tree.map(np.testing.assert_array_equal, params[name], start[name])
  kernel = lambda tree: tree['vision']['patch']['kernel']
  assert np.abs(kernel(params) - kernel(start)).max() > 1e-3
  assert params['logit_scale'] != start['logit_scale']
  batch['pixels'][4, 0, 0, 0] = np.nan
  with pytest.raises(loop.NonFinite, match='image_norm is NaN .* at step 2'):
    run(state, batch, 2)


def test_parts_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match=r'16 rows .* --config.accumulate=3'):
    gradient(3)


def test_sigmoid_needs_a_bias():
  with pytest.raises(ValueError, match=r'--config.contrastive.loss'):
    contrastive(model_of(), loss='sigmoid')
