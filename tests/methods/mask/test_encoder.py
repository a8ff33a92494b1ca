"""The networks' sizes, masks and contexts; attention equals loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.methods.mask.encoder import EncoderConfig, RegionEncoder
from vlm.sharding.mesh import BATCH_AXES, make_mesh

SMALL = dict(features=10, latent=8, words=6, depth=2, heads=2, word_heads=3)
VALID = np.array([[1, 1, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0]] * 3, bool)[:8]


@pytest.fixture(scope='module', params=['image', 'none'])
def made(request):
  encoder = RegionEncoder(EncoderConfig(**SMALL, context=request.param))
  return encoder, jax.jit(encoder.init)(jax.random.key(0))


def regions(seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=(8, 4, 10)), jnp.float32)


def run(encoder, params, x, valid):
  mean, log_variance = encoder.encode(params, x, valid)
  latent = mean + log_variance
  rebuilt = encoder.rebuild(params, latent, valid)
  return mean, log_variance, rebuilt, encoder.to_words(params, mean, valid)


def projected(weights, name, row):
  weights = weights[name]
  return np.einsum('d,dnh->nh', row, weights['kernel']) + weights['bias']


def by_loops(params, x, valid, heads, context):
  """Network h in float64: mean and log variance of one image."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)

  def normalised(row):
    return (row - row.mean()) / np.sqrt(row.var() + 1e-5)

  code = params['code']
  x = [
    np.maximum(row @ code['inner']['kernel'] + code['inner']['bias'], 0)
    for row in np.asarray(x, float)
  ]
  for layer in range(len(code['layers'])):
    weights = code['layers'][layer]
    project = functools.partial(projected, weights)
    inner, out = [normalised(row) for row in x], []
    for i, row in enumerate(inner):
      seen = [i] if context == 'none' else np.flatnonzero(valid)
      q, made = project('q', row), []
      for head in range(heads):
        k = [project('k', inner[j])[head] for j in seen]
        v = [project('v', inner[j])[head] for j in seen]
        logits = np.array([q[head] @ key for key in k]) / np.sqrt(len(q[head]))
        odds = np.exp(logits - logits.max())
        made.append(sum(o * value for o, value in zip(odds / odds.sum(), v)))
      o = weights['o']
      out.append(
        x[i] + np.einsum('nh,nhd->d', np.array(made), o['kernel']) + o['bias']
      )
    x = out
  norm, spread = params['norm'], params['log_variance']
  mean = np.array([normalised(r) * norm['scale'] + norm['bias'] for r in x])
  return mean, np.clip(mean @ spread['kernel'] + spread['bias'], -8, 4)


def test_parameters_are_as_many_as_the_papers_table_says():
  params = RegionEncoder(EncoderConfig()).abstract_params
  count = lambda *names: sum(
    np.prod(leaf.shape)
    for leaf in jax.tree.leaves([params[name] for name in names])
  )
  # Z M + Z, 3 (4 Z^2 + 4 Z), 2 Z; the log variance is not in the table.
  assert count('code', 'norm') == 1_049_088 + 3 * 1_050_624 + 1_024
  assert count('rebuild', 'rebuilt') == 262_656 + 1_050_624 + 1_050_624
  assert round(count('word', 'word_again', 'worded') / 1e4) == 142
  assert count('log_variance') == 512 * 512 + 512


def test_the_encoder_equals_loops(made):
  encoder, params = made
  x = regions()
  mean, log_variance = jax.jit(encoder.encode)(params, x, jnp.asarray(VALID))
  for b in (0, 1):
    want = by_loops(params, x[b], VALID[b], 2, encoder.config.context)
    for got, expected in zip((mean[b], log_variance[b]), want):
      np.testing.assert_allclose(
        got[VALID[b]], expected[VALID[b]], rtol=2e-5, atol=2e-5
      )
  assert mean.dtype == log_variance.dtype == jnp.float32


def test_padding_changes_nothing_whatever_it_holds(made):
  encoder, params = made
  x, valid = regions(), jnp.asarray(VALID)
  filled = jnp.where(valid[..., None], x, jnp.nan)

  def total(params, x):
    kept = [
      jnp.where(valid[..., None], y, 0) for y in run(encoder, params, x, valid)
    ]
    return sum(y.sum() for y in kept), kept

  step = jax.jit(jax.value_and_grad(total, has_aux=True))
  (_, want), slope = step(params, x)
  (_, got), filled_slope = step(params, filled)
  for a, b in zip(got, want):
    np.testing.assert_array_equal(a, b)
  for a, b in zip(jax.tree.leaves(filled_slope), jax.tree.leaves(slope)):
    np.testing.assert_array_equal(a, b)
    assert np.isfinite(a).all()


def test_context_says_whether_regions_see_each_other(made):
  encoder, params = made
  valid = jnp.ones((8, 4), bool)
  x = regions()
  before, after = (
    jax.jit(encoder.encode)(params, y, valid)[0] for y in (x, x.at[0, 1].add(1))
  )
  moved = np.abs(after - before).max(-1) > 1e-6
  assert moved[0, 1] and not moved[1:].any()
  assert moved[0, [0, 2, 3]].all() == (encoder.config.context == 'image')
  assert moved[0, [0, 2, 3]].any() == (encoder.config.context == 'image')


def test_eight_devices_equal_one(made):
  encoder, params = made
  mesh = make_mesh({'data': 4, 'fsdp': 2})
  rows = jax.NamedSharding(mesh, jax.P(BATCH_AXES))
  step = jax.jit(lambda *given: run(encoder, *given))
  given = regions(), jnp.asarray(VALID)
  want = step(params, *given)
  with jax.set_mesh(mesh):
    got = step(params, *(jax.device_put(x, rows) for x in given))
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, atol=2e-6)


def test_a_start_of_small_variance_that_stays_in_its_range(made):
  encoder, params = made
  _, log_variance = jax.jit(encoder.encode)(
    params, regions(), jnp.asarray(VALID)
  )
  assert -3 < float(log_variance[VALID].mean()) < -1
  wild = jax.tree.map(lambda x: 100 * x, params)
  _, log_variance = jax.jit(encoder.encode)(wild, regions(), jnp.asarray(VALID))
  assert log_variance.min() == -8 and log_variance.max() == 4


def test_sizes_that_do_not_fit_are_named():
  for changed, message in (
    ({'heads': 3}, 'encoder.heads=3, expected a divisor of encoder.latent=8'),
    ({'word_heads': 4}, 'encoder.word_heads=4, expected a divisor'),
    ({'context': 'batch'}, "encoder.context='batch', expected one of"),
    ({'depth': 0}, 'encoder.depth=0, expected at least 1'),
  ):
    with pytest.raises(ValueError, match=message):
      EncoderConfig(**(SMALL | changed))
