"""MASK's objectives around an encoder that is one matrix."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.train.prototypes import (
  PrototypeModel,
  PrototypeSettings,
  follow,
  prototypes,
)
from vlm.train.region_text import RegionTextModel, region_text

KEY = jax.random.key(0)
FACTS = types.SimpleNamespace(features=5, latent=4, words=3)


class Linear:
  """Codes are products with one matrix; so is everything else."""

  config, runtime = FACTS, None

  def init(self, key):
    return {'matrix': jax.random.normal(key, (5, 4))}

  def encode(self, params, regions, valid):
    mean = jnp.where(valid[..., None], regions, 0) @ params['matrix']
    return mean, jnp.full_like(mean, -1.0)

  def rebuild(self, params, latent, valid):
    return latent @ params['matrix'].T

  def to_words(self, params, mean, valid):
    return mean[..., :3]


@pytest.fixture
def setting():
  rng = np.random.default_rng(0)
  model = PrototypeModel(Linear(), rng.normal(size=(6, 3)))
  params = model.init(KEY)
  params['bank'] = {
    'vectors': jnp.asarray(rng.normal(size=(6, 4)), jnp.float32),
    'seen': jnp.arange(6) < 5,
  }
  batch = {
    'regions': rng.normal(size=(2, 3, 5)).astype(np.float32),
    'valid': np.array([[True, True, True], [True, True, False]]),
    'words': np.array([[0, 5, -1], [2, 0, 3]], np.int32),
  }
  return model, params, jax.tree.map(jnp.asarray, batch)


def test_the_loss_is_the_weighted_sum_of_its_terms(setting):
  model, params, batch = setting
  settings = PrototypeSettings(
    retention=0.5, cross_modal=2.0, consistency=4.0, temperature=0.2
  )
  total, metrics = prototypes(model, settings)(params, batch, KEY)
  value = {name: float(num) for name, (num, _) in metrics.items()
           if name != 'bank'}  # fmt: skip
  # The divergence is of the whole code, so it is divided here.
  want = (
    0.5 * (value['retention/divergence'] / 5 + value['retention/error'])
    + 2 * (value['cross_modal/word'] + value['cross_modal/structure'])
    + 4 * value['consistency']
  )
  assert float(total) == pytest.approx(want, rel=1e-5)
  # Four regions are valid and have a word.
  assert all(float(den) == 4 for name, (_, den) in metrics.items()
             if name != 'bank')  # fmt: skip
  codes = np.asarray(batch['regions'] @ params['encoder']['matrix'])
  pairs = [(0, 0, 0), (0, 1, 5), (1, 0, 2), (1, 1, 0)]
  unit = lambda x: x / np.linalg.norm(x)
  vectors = np.asarray(params['bank']['vectors'])
  loss = 0.0
  for row, place, word in pairs:
    anchor, own = unit(vectors[word]), codes[row, place]
    others = [codes[r, p] for r, p, w in pairs if w != word]
    logits = [anchor @ unit(x) / 0.2 for x in (own, *others)]
    loss += np.log(np.sum(np.exp(logits))) - logits[0]
  assert value['consistency'] == pytest.approx(loss, rel=1e-4)


def test_padding_changes_nothing(setting):
  model, params, batch = setting
  run = prototypes(model, PrototypeSettings())
  want, _ = run(params, batch, KEY)
  odd = batch | {'regions': batch['regions'].at[1, 2].set(np.nan)}
  found, metrics = run(params, odd, KEY)
  assert float(found) == float(want)
  assert np.isfinite(np.asarray(metrics['bank'][0])).all()
  gradient = jax.grad(lambda p: run(p | rest, odd, KEY)[0])
  rest = {name: params[name] for name in ('bank', 'words')}
  found = gradient({'encoder': params['encoder']})
  assert np.isfinite(np.asarray(found['encoder']['matrix'])).all()


def test_the_bank_follows_means_of_the_batch(setting):
  model, params, batch = setting
  settings = PrototypeSettings(decay=0.9)
  _, metrics = prototypes(model, settings)(params, batch, KEY)
  moved, logged = follow(settings)(params, metrics)
  assert 'bank' not in logged and 'loss' in logged
  codes = np.asarray(batch['regions'] @ params['encoder']['matrix'])
  old = np.asarray(params['bank']['vectors'])
  new = np.asarray(moved['bank']['vectors'])
  mean = (codes[0, 0] + codes[1, 1]) / 2
  np.testing.assert_allclose(new[0], 0.9 * old[0] + 0.1 * mean, rtol=1e-5)
  np.testing.assert_allclose(new[5], codes[0, 1], rtol=1e-5)  # first seen
  np.testing.assert_array_equal(new[[1, 3, 4]], old[[1, 3, 4]])
  assert np.asarray(moved['bank']['seen']).tolist() == [True] * 6


def test_a_loss_without_weight_is_not_there(setting):
  model, params, batch = setting
  for field, name in (
    ('retention', 'retention/error'),
    ('cross_modal', 'cross_modal/word'),
    ('consistency', 'consistency'),
  ):
    run = prototypes(model, PrototypeSettings(**{field: 0.0}))
    assert name not in run(params, batch, KEY)[1]


def test_means_of_the_batch_have_a_gradient_the_bank_has_none(setting):
  model, params, batch = setting
  one = dict(retention=0.0, cross_modal=0.0, consistency=1.0)
  for kind in ('follow', 'batch'):
    run = prototypes(model, PrototypeSettings(bank=kind, **one))
    slope = jax.grad(
      lambda vectors, run=run: run(
        params | {'bank': params['bank'] | {'vectors': vectors}}, batch, KEY
      )[0]
    )(params['bank']['vectors'])
    np.testing.assert_array_equal(slope, 0)
  other = prototypes(model, PrototypeSettings(**one))(params, batch, KEY)[0]
  assert float(other) != float(run(params, batch, KEY)[0])


def test_the_supervised_bound_scores_as_the_matcher_does():
  rng = np.random.default_rng(1)
  model = RegionTextModel(Linear(), 7)
  params = model.init(KEY)
  batch = {
    'regions': rng.normal(size=(3, 2, 5)).astype(np.float32),
    'valid': np.array([[True, True], [True, False], [True, True]]),
    'caption': np.array([[1, 2, -1], [6, -1, -1], [-1, -1, -1]], np.int32),
  }
  total, metrics = region_text(model)(params, batch, KEY)
  unit = lambda x: x / np.linalg.norm(x)
  codes = np.asarray(batch['regions'] @ params['encoder']['matrix'])
  table = np.asarray(params['table'])

  def score(image, caption):
    there = [c for c, v in zip(codes[image], batch['valid'][image]) if v]
    said = [w for w in batch['caption'][caption] if w >= 0]
    best = [max(unit(c) @ unit(table[w]) for c in there) for w in said]
    return 14 * np.mean(best)

  # The third row has no words: it is neither a pair nor anyone's negative.
  scores = np.array([[score(i, c) for c in range(2)] for i in range(2)])
  own = np.diag(scores)
  rows = np.log(np.exp(scores).sum(1)) - own
  columns = np.log(np.exp(scores).sum(0)) - own
  want = (rows + columns).sum() / 2
  assert float(total) == pytest.approx(want, rel=1e-4)
  assert float(metrics['loss'][1]) == 2


def test_wrong_settings_are_named():
  with pytest.raises(ValueError, match='--config.mask.bank'):
    PrototypeSettings(bank='memory')
  with pytest.raises(ValueError, match='--config.mask.decay'):
    PrototypeSettings(decay=1.0)
  with pytest.raises(ValueError, match='words=3'):
    PrototypeModel(Linear(), np.zeros((6, 2)))
