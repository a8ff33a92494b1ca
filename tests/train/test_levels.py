"""DeQA-Score's loss over rows: its parts, its pairs, what it teaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.test_regression import prompts, words
from vlm.methods.rali import level_loss
from vlm.methods.rali.soft_labels import soft_label
from vlm.train import levels

KEY = jax.random.key(0)
IDS = np.array([4, 2, 7, 9, 1])


def rows(means=(4.4, 2.1, 3.0), groups=(5, 5, 6), word=7):
  """Rows of 24 tokens whose answer is six of them, the level the third."""
  count = len(means)
  batch = prompts([20, 24, 9][:count], width=24)
  tokens = np.array(batch['tokens'])
  tokens[:, -6:] = [3, 5, word, 6, 8, 10]
  others = np.zeros((count, levels.TAIL), np.float32)
  others[:, [-6, -5, -3, -2, -1]] = 1
  return batch | {
    'tokens': jnp.asarray(tokens),
    'level_ids': jnp.asarray(np.tile(IDS, (count, 1))),
    'level_at': jnp.full(count, 3),
    'others': jnp.asarray(others),
    'label': jnp.asarray([soft_label(m, 0.6, 'pdf').probs for m in means]),
    'target': jnp.asarray(means),
    'std': jnp.asarray([0.6, 0.5, 0.7][:count]),
    'group': jnp.asarray(groups[:count]),
    'counted': jnp.ones(count),
  }


@pytest.fixture(scope='module')
def model():
  return words()


@pytest.fixture(scope='module')
def params(model):
  return model.init(jax.random.key(3))


def loss_of(model, params, batch):
  objective = levels.levels(model, loss_chunk=4)
  loss, metrics = objective(params, batch, KEY)
  return float(loss), {n: float(s / c) for n, (s, c) in metrics.items()}


def test_a_pair_of_one_set_costs_what_is_published(model, params):
  batch = rows((4.4, 2.1))
  loss, _ = loss_of(model, params, batch)
  logits = model.logits(params, model.hidden(params, batch))
  logprobs = jax.nn.log_softmax(logits)
  others = []
  for row, tokens in zip(logprobs, batch['tokens']):
    places = [18, 19, 21, 22, 23]
    others.append(-np.mean([row[p - 1, tokens[p]] for p in places]))
  both = lambda x: (jnp.asarray(x[0]), jnp.asarray(x[1]))
  want = level_loss.deqa_loss(
    both(logits[:, 19, IDS]),
    both(logprobs[:, 19, IDS]),
    both(batch['label']),
    both(batch['target']),
    both(batch['std']),
    jnp.mean(jnp.array(others)),
  )
  assert loss == pytest.approx(float(want), rel=1e-5)


def test_only_pictures_of_one_set_are_ordered(model, params):
  whole, parts = loss_of(model, params, rows())
  pair, of_pair = loss_of(model, params, rows((4.4, 2.1)))
  assert parts['order'] == pytest.approx(of_pair['order'] * 2 / 3, rel=1e-5)
  apart, alone = loss_of(model, params, rows(groups=(1, 2, 3)))
  assert alone['order'] == 0 and alone['level'] == parts['level']
  filled = rows(groups=(5, 5, 5)) | {'counted': jnp.array([1, 1, 0])}
  assert loss_of(model, params, filled)[0] == pytest.approx(pair, rel=1e-5)
  assert whole > apart > pair


def test_the_score_does_not_see_the_word_that_is_named(model, params):
  read = levels.reader(model)
  found = [read(params, rows(word=word)) for word in (7, 4)]
  np.testing.assert_allclose(*found, rtol=1e-6)
  hidden = model.hidden(params, rows())
  five = model.logits(params, hidden)[:, -5, IDS]
  want = jax.nn.softmax(five) @ np.array([5.0, 4, 3, 2, 1])
  np.testing.assert_allclose(found[0], want, rtol=1e-4)


def test_opinions_can_be_learnt(model, params):
  batch, objective = rows(), levels.levels(model)
  value = jax.value_and_grad(lambda p: objective(p, batch, KEY)[0])
  step = jax.jit(
    lambda p: jax.tree.map(lambda x, g: x - 0.05 * g, p, value(p)[1])
  )
  for _ in range(80):
    params = step(params)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
  got = levels.reader(model)(params, batch)
  np.testing.assert_allclose(got, batch['target'], atol=0.25)
