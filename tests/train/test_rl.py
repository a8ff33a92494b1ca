"""The GRPO objective: its log-probabilities, its loss, on any mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from data import assemble, pack
from data.examples import left_padded
from data.processors.registry import processor_of
from vlm.losses import drift
from vlm.losses.policy import PolicySettings, policy_loss
from vlm.models import (
  mrope,
  qwen2_5_vision,
  qwen2_5_vl,
  qwen3_vision,
  qwen3_vl,
  registry,
)
from vlm.models.functional import Runtime
from vlm.models.qwen2 import Qwen2Config
from vlm.sharding.batch import to_global
from vlm.sharding.mesh import make_mesh
from vlm.train import rl
from vlm.train import state as states
from vlm.train.optimizer import make_optimizer
from vlm.train.step import make_step

IMAGE, V = 7, 33
P, G, C, LONGEST = 2, 3, 5, 20
DECODER = Qwen2Config(
  vocab_size=V, width=16, depth=2, heads=4, kv_heads=2, head_dim=8,
  mlp_width=32, tied_head=False, mrope_section=(2, 1, 1),
)  # fmt: skip
SIZES = dict(width=16, depth=2, heads=2, mlp_width=32, out_width=16)
MODELS = {
  'qwen2_5_vl': qwen2_5_vl.Qwen25VLConfig(
    qwen2_5_vision.Qwen25VisionConfig(window=56, full_blocks=(1,), **SIZES),
    DECODER,
    image_token=IMAGE,
    video_token=8,
  ),
  'qwen3_vl': qwen3_vl.Qwen3VLConfig(
    qwen3_vision.Qwen3VisionConfig(
      position_side=4, deepstack_blocks=(0,), **SIZES
    ),
    dataclasses.replace(DECODER, mrope_interleaved=True, qk_norm=True),
    image_token=IMAGE,
    video_token=8,
  ),
}


def prompts_of(config):
  """Samples of P prompts of different length, one or two pictures each."""
  rng = np.random.default_rng(0)
  processor = processor_of(config)
  draw = lambda: Image.fromarray(rng.integers(0, 256, (60, 90, 3), np.uint8))
  samples, spans = [], []
  for number in range(P):
    shown = processor.prepare([draw() for _ in range(1 + number)])
    parts = [rng.integers(9, V, 3)]
    for expansion in shown.expansions:
      count = sum(expansion.counts)
      parts += [np.full(count, IMAGE), rng.integers(9, V, 2)]
    tokens = np.concatenate(parts).astype(np.int32)
    spans.append([s for e in shown.expansions for s in e.spans])
    samples.append({
      'tokens': tokens,
      'loss_mask': np.zeros(len(tokens), np.float32),
      'positions': mrope.row_positions(tokens == IMAGE, spans[-1]),
      'pixels': shown.pixels,
      'plan': shown.plan,
    })  # fmt: skip
  spec = processor.row(
    len(samples[-1]['pixels']), seq_len=160, visual=150, placeholders=(IMAGE,)
  )
  return samples, spans, spec


def completions():
  rng = np.random.default_rng(1)
  return {
    'completions': rng.integers(9, V, (P, G, C)).astype(np.int32),
    'lengths': np.array([[5, 1, 3], [2, 5, 4]], np.int32),
  }


@pytest.mark.parametrize('name', MODELS)
def test_logprobs_are_those_of_whole_rows(name):
  """Of pictures, positions in three axes, and features inside the decoder."""
  config = MODELS[name]
  model = registry.build(config, Runtime(attention='xla'))
  params = model.init(jax.random.key(0))
  # Sharp enough to notice a position that is off by one.
  params |= {'decoder': jax.tree.map(lambda x: 1.6 * x, params['decoder'])}
  samples, spans, spec = prompts_of(config)
  said = completions()
  batch = left_padded(samples, spec) | said
  score = lambda params, batch: rl.completion_scores(
    model, params, batch, chunk=2, temperature=0.7
  )
  with jax.default_matmul_precision('highest'):
    found = jax.jit(score)(params, batch)
    rows, starts = [], []
    for p, sample in enumerate(samples):
      for g in range(G):
        own = said['completions'][p, g, : said['lengths'][p, g]]
        tokens = np.concatenate([sample['tokens'], own])
        positions = mrope.row_positions(tokens == IMAGE, spans[p])
        more = {
          'tokens': tokens,
          'positions': positions,
          'loss_mask': np.zeros(len(tokens), np.float32),
        }
        rows.append(pack.pad_sample(sample | more, spec))
        starts.append(len(sample['tokens']))
    whole = assemble.collate(rows, P * G)
    hidden = jax.jit(model.hidden)(params, whole)
    logits = np.asarray(model.logits(params, hidden), np.float64) / 0.7
  worst = 0.0
  for row, start in enumerate(starts):
    p, g = divmod(row, G)
    for t in range(said['lengths'][p, g]):
      z = logits[row, start + t - 1]
      log_p = z - z.max() - np.log(np.exp(z - z.max()).sum())
      want = log_p[said['completions'][p, g, t]]
      worst = max(worst, abs(float(found.logprob[row, t]) - want))
      entropy = -(np.exp(log_p) * log_p).sum()
      assert abs(float(found.entropy[row, t]) - entropy) < 1e-4
  assert worst < 1e-4


# Without biases: that of the keys has gradient 0, of which Adam makes noise.
TEXT = registry.build(
  dataclasses.replace(DECODER, mrope_section=(), qkv_bias=False),
  Runtime(attention='xla'),
)
SETTINGS = PolicySettings(beta=0.1)


def text_batch(rows=8):
  """Prompts of text and everything a step can be given."""
  rng = np.random.default_rng(2)
  length = 6
  sizes = rng.integers(1, length + 1, rows)
  there = np.arange(length) >= length - sizes[:, None]
  shape = (rows, G, C)
  logprobs = lambda: -rng.uniform(0.5, 4, shape).astype(np.float32)
  return {
    'tokens': (rng.integers(9, V, (rows, length)) * there).astype(np.int32),
    'segment_ids': there.astype(np.int32),
    'positions': np.maximum(there.cumsum(1) - 1, 0).astype(np.int32),
    'completions': rng.integers(9, V, shape).astype(np.int32),
    'lengths': rng.integers(1, C + 1, (rows, G)).astype(np.int32),
    'counted': (rng.random((rows, G)) < 0.8).astype(np.float32),
    'advantages': rng.normal(size=(rows, G)).astype(np.float32),
    'sampler_logprobs': logprobs(),
    'old_logprobs': logprobs(),
    'reference_logprobs': logprobs(),
  }


@jax.jit
def text_scores(params, batch):
  return rl.completion_scores(TEXT, params, batch, chunk=99)


def params_of(model):
  return jax.device_get(jax.jit(model.init)(jax.random.key(3)))


def test_the_objective_puts_the_pieces_together():
  params, batch = params_of(TEXT), text_batch()
  run = jax.jit(rl.grpo(TEXT, SETTINGS, drift_bound=0.5, drift_cap=1.5))
  loss, metrics = run(params, batch, jax.random.key(0))
  scores = text_scores(params, batch)
  flat = {
    k: jnp.asarray(v).reshape(-1, C) for k, v in batch.items() if v.ndim == 3
  }
  said = np.arange(C) < batch['lengths'].reshape(-1, 1)
  mask = jnp.asarray(said * batch['counted'].reshape(-1, 1))
  old, sampler = flat['old_logprobs'], flat['sampler_logprobs']
  weights = drift.weights(old, sampler, mask, 0.5, 1.5)
  assert 0 < float((weights != 1).sum()) < mask.size
  want, _ = policy_loss(
    scores.logprob,
    old,
    jnp.asarray(batch['advantages'].reshape(-1)),
    mask,
    SETTINGS,
    flat['reference_logprobs'],
    weights,
  )
  np.testing.assert_allclose(loss, want[0], rtol=1e-5)
  np.testing.assert_allclose(metrics['loss'], want, rtol=1e-5)
  count = (said * batch['counted'].reshape(-1, 1)).sum()
  for name in ('kl', 'entropy', 'ratio', 'clip_share', 'drift/mean'):
    assert metrics[name][1] == count, name
  d = np.abs(old - sampler)[mask > 0]
  np.testing.assert_allclose(metrics['drift/mean'][0], d.sum(), rtol=1e-5)


def test_on_policy_the_old_logprobs_are_its_own():
  params, batch = params_of(TEXT), text_batch()
  del batch['old_logprobs']
  scores = text_scores(params, batch)
  again = batch | {'old_logprobs': np.asarray(scores.logprob).reshape(8, G, C)}
  run = jax.jit(jax.grad(rl.grpo(TEXT, SETTINGS), has_aux=True))
  ours, metrics = run(params, batch, jax.random.key(0))
  theirs, _ = run(params, again, jax.random.key(0))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, ours, theirs)
  assert metrics['ratio'][0] == metrics['ratio'][1] > 0
  assert any(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(ours))


def after_two_steps(shape, devices, accumulate):
  """Parameters, the last metrics, and logprobs under the first parameters."""
  mesh = make_mesh(shape, jax.devices()[:devices])
  optimizer = make_optimizer({'lr': 1e-2}, TEXT.abstract_params, 10)
  state = states.state_from_params(
    params_of(TEXT), optimizer, mesh, reference=True
  )
  placed = states.state_shardings(state)
  step = make_step(
    rl.grpo(TEXT, SETTINGS, drift_bound=0.5),
    optimizer,
    mesh=mesh,
    state_shardings=placed,
    accumulate=accumulate,
  )
  score = rl.make_logprobs(
    TEXT, mesh=mesh, param_shardings=placed['params'], accumulate=accumulate
  )
  batch = to_global(text_batch(16), mesh)
  logprobs = jax.device_get(score(state['params'], batch))
  for _ in range(2):
    state, metrics = step(state, batch)
  jax.tree.map(
    np.testing.assert_array_equal,
    jax.device_get(state['reference']),
    params_of(TEXT),
  )
  return jax.device_get((state['params'], metrics, logprobs))


@pytest.fixture(scope='module')
def one_device():
  return after_two_steps({'fsdp': 1}, 1, 1)


@pytest.mark.parametrize(
  ('shape', 'accumulate'),
  [({'fsdp': 8}, 2), ({'data': 2, 'fsdp': 2, 'tensor': 2}, 1)],
)
def test_devices_and_microbatches_change_nothing(one_device, shape, accumulate):
  found = after_two_steps(shape, 8, accumulate)
  for ours, theirs in zip(found, one_device, strict=True):
    if isinstance(ours, dict) and 'drift/max' in ours:
      # A mean over microbatches of their largest: not the largest of all.
      ours, theirs = (
        {k: v for k, v in m.items() if k != 'drift/max'} for m in (ours, theirs)
      )
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    jax.tree.map(close, ours, theirs)


def test_a_frozen_parameter_is_not_kept_twice():
  mesh = make_mesh({'fsdp': 1}, jax.devices()[:1])
  rules = {'rules': ((r'decoder/(embed|head)/.*', {'freeze': True}),)}
  optimizer = make_optimizer(rules, TEXT.abstract_params, 10)
  abstract = states.abstract_state(
    TEXT.abstract_params, optimizer, mesh, reference=True
  )
  assert set(abstract['reference']['decoder']) == {'layers', 'norm'}
