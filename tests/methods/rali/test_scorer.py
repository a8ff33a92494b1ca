"""Stage 3: the released arithmetic against loops, and the fit."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.methods.rali import fit, scorer
from vlm.methods.rali.basis import BasisSettings, make_basis
from vlm.methods.rali.fit import FitSettings
from vlm.methods.rali.scorer import ScorerSettings


def draw_params(width=10, parts=6, count=5, seed=0):
  rng = np.random.default_rng(seed)
  f32 = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {
    'pca_mean': f32(width),
    'pca_scale': f32(width) * 0.3 - 1,
    'pca_components': f32(parts, width),
    'prototypes': f32(count, parts),
    'proto_scores': rng.uniform(1, 5, count).astype(np.float32),
    'logit_scale': np.float32(1 / 0.07),
  }


def draw_embeddings(rows, width=10):
  return jax.random.normal(jax.random.key(1), (rows, width))


def released(params, x):
  """Section 2.6 in float64, one number at a time."""
  params = {k: np.asarray(v, np.float64) for k, v in params.items()}
  parts, width = params['pca_components'].shape
  out = []
  for row in np.asarray(x, np.float64):
    z = [
      sum(
        params['pca_components'][p, e]
        * (row[e] - params['pca_mean'][e])
        / abs(params['pca_scale'][e])
        for e in range(width)
      )
      for p in range(parts)
    ]
    length = max(math.sqrt(sum(value * value for value in z)), 1e-12)
    tau = 1 / max(float(params['logit_scale']), 1e-6)
    logits = []
    for prototype in params['prototypes']:
      norm = max(math.sqrt(sum(v * v for v in prototype)), 1e-12)
      dot = sum(a * b for a, b in zip(z, prototype))
      logits.append(dot / length / norm / tau)
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    total = sum(weights)
    out.append(
      sum(w * f for w, f in zip(weights, params['proto_scores'])) / total
    )
  return np.array(out)


class TestScorer:
  def test_it_equals_the_loops(self):
    x = draw_embeddings(7)
    params = draw_params()
    got = jax.jit(scorer.scores)(params, x)
    np.testing.assert_allclose(got, released(params, x), rtol=2e-5)
    assert got.dtype == jnp.float32

  def test_the_sign_of_the_scale_and_the_lengths_of_vectors_do_not_count(self):
    x = draw_embeddings(4)
    params = draw_params()
    changed = params | {
      'pca_scale': -params['pca_scale'],
      'prototypes': 7 * params['prototypes'],
      'pca_components': 3 * params['pca_components'],
    }
    np.testing.assert_allclose(
      scorer.scores(params, x), scorer.scores(changed, x), rtol=1e-5
    )

  def test_a_scale_below_its_least_gives_the_mean_of_the_scores(self):
    params = draw_params() | {'logit_scale': np.float32(-3)}
    x = draw_embeddings(1)
    want = params['proto_scores'].mean()
    np.testing.assert_allclose(scorer.scores(params, x)[0], want, rtol=1e-5)

  def test_unit_makes_the_length_of_an_embedding_irrelevant(self):
    x = draw_embeddings(3)
    params, unit = draw_params(), ScorerSettings(unit=True)
    ours = scorer.scores(params, x, unit)
    np.testing.assert_allclose(ours, scorer.scores(params, 9 * x, unit), 1e-5)
    length = jnp.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(ours, released(params, x / length), rtol=2e-5)

  def test_an_embedding_at_the_mean_has_a_score_and_a_gradient(self):
    params = draw_params()
    x = jnp.asarray(params['pca_mean'][None])
    value, gradient = jax.value_and_grad(lambda p: scorer.scores(p, x).sum())(
      params
    )
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))

  @pytest.mark.parametrize(
    'name,value,message',
    [
      ('prototypes', np.zeros((5, 7), np.float32), r'prototypes expected .*6'),
      ('pca_mean', np.zeros(9, np.float32), r'pca_mean expected shape .10,'),
      ('proto_scores', np.full(5, np.nan, np.float32), 'proto_scores holds'),
      ('pca_scale', np.zeros(10, np.float32), 'pca_scale holds 0'),
    ],
  )
  def test_what_does_not_fit_is_named(self, name, value, message):
    params = draw_params()
    scorer.check(params, 10)
    with pytest.raises(ValueError, match=message):
      scorer.check(params | {name: value}, 10)
    with pytest.raises(ValueError, match=r'pca_mean expected shape .12,'):
      scorer.check(params, 12)


def problem(count=400, width=12, seed=0):
  """Opinions that bend along one direction of the embeddings."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(count, width)).astype(np.float32)
  quality = np.tanh(x[:, 0] + 0.5 * x[:, 1])
  opinions = 3 + 1.8 * quality + 0.1 * rng.normal(size=count)
  return x, opinions


@pytest.fixture(scope='module')
def started():
  x, opinions = problem()
  train, held = fit.hold_out(len(x))
  made = make_basis(BasisSettings(24, 20, 8), opinions[train], x[train])
  parts = (x[train], opinions[train]), (x[held], opinions[held])
  return scorer.initial_params(made), *parts


class TestFit:
  def test_the_fit_helps_and_the_basis_stays_in_the_table(self, started):
    params, train, held = started
    fitted = fit.fit(
      params, train, held, FitSettings(epochs=30, batch_size=64, lr=1e-2)
    )
    before, after = fitted.rows['unfitted'], fitted.rows['fitted']
    assert after['srcc'] > before['srcc']
    assert after['train_mse'] < 0.7 * before['train_mse']
    predicted = np.asarray(scorer.scores(params, jnp.asarray(held[0])))
    np.testing.assert_allclose(
      before['mse'], np.mean((predicted - held[1]) ** 2), rtol=1e-5
    )
    assert fitted.history[0].items() <= before.items()
    assert fitted.history[fitted.epoch]['srcc'] == max(
      row['srcc'] for row in fitted.history
    )
    for name in ('pca_mean', 'pca_components', 'pca_scale', 'logit_scale'):
      np.testing.assert_array_equal(fitted.params[name], params[name])

  def test_it_is_the_same_on_every_run(self, started):
    settings = FitSettings(epochs=3, batch_size=64)
    one, other = (fit.fit(*started, settings) for _ in range(2))
    assert one.history == other.history

  def test_no_epochs_keep_the_basis(self, started):
    fitted = fit.fit(*started, FitSettings(epochs=0))
    assert fitted.epoch == 0
    assert fitted.rows['fitted'] == fitted.rows['unfitted']
    for name, value in started[0].items():
      np.testing.assert_array_equal(fitted.params[name], value)

  def test_a_pull_holds_the_prototypes(self, started):
    far = {}
    for pull in (0.0, 100.0):
      settings = FitSettings(
        epochs=5, batch_size=64, lr=1e-2, pull=pull, select='mse'
      )
      found = fit.fit(*started, settings).params['prototypes']
      far[pull] = np.abs(found - started[0]['prototypes']).max()
    assert far[100.0] < 0.3 * far[0.0]

  def test_everything_may_be_learned(self, started):
    settings = FitSettings(epochs=2, learn=fit.LEARNABLE, select='mse', lr=1e-3)
    fitted = fit.fit(*started, settings)
    assert fitted.epoch > 0
    for name in fit.LEARNABLE:
      assert (fitted.params[name] != started[0][name]).any()
    np.testing.assert_array_equal(
      fitted.params['pca_mean'], started[0]['pca_mean']
    )

  def test_constant_predictions_survive(self, started):
    params, train, held = started
    flat = params | {'proto_scores': np.full(24, 3.0, np.float32)}
    settings = FitSettings(epochs=2, learn=('prototypes',))
    fitted = fit.fit(flat, train, held, settings)
    assert math.isnan(fitted.rows['unfitted']['srcc'])
    assert fitted.epoch == 0 and np.isfinite(fitted.rows['fitted']['mse'])

  def test_it_stops_when_nothing_gets_better(self, started):
    settings = FitSettings(epochs=50, patience=2, lr=0.0)
    assert len(fit.fit(*started, settings).history) == 3

  def test_wrong_choices_and_numbers_are_named(self, started):
    with pytest.raises(ValueError, match=r"fit.learn=\['tau'\]"):
      FitSettings(learn=('tau',))
    with pytest.raises(ValueError, match='held out: an embedding or'):
      fit.fit(started[0], started[1], (started[2][0], started[2][1] * np.nan))
    with pytest.raises(FloatingPointError, match=r'lower fit.lr'):
      fit.fit(*started, FitSettings(lr=float('inf'), epochs=2, batch_size=64))
    with pytest.raises(ValueError, match='10% of 9 images is 1'):
      fit.hold_out(9)


def test_images_held_out_are_no_others_and_the_same_every_time():
  train, held = fit.hold_out(105, 0.1, seed=3)
  assert len(held) == 10 and not set(train) & set(held)
  assert sorted([*train, *held]) == list(range(105))
  np.testing.assert_array_equal(held, fit.hold_out(105, 0.1, seed=3)[1])
  assert (held != fit.hold_out(105, 0.1, seed=4)[1]).any()
