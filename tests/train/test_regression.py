"""A number off the last state: what is read, what is minimised, what learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.models import clip
from vlm.models.functional import Runtime
from vlm.models.qwen2 import LanguageModel, Qwen2Config
from vlm.train import regression

RUNTIME = Runtime(attention='xla')


def words(tied=False):
  facts = Qwen2Config(
    vocab_size=11, width=16, depth=1, heads=2, kv_heads=1, head_dim=8,
    mlp_width=24, tied_head=tied,
  )  # fmt: skip
  return LanguageModel(facts, RUNTIME)


def prompts(lengths, width=6):
  """Prompts that end together."""
  rng = np.random.default_rng(0)
  batch = {
    name: np.zeros((len(lengths), width), np.int32)
    for name in ('tokens', 'segment_ids', 'positions')
  }
  for row, length in enumerate(lengths):
    batch['tokens'][row, -length:] = rng.integers(1, 11, length)
    batch['segment_ids'][row, -length:] = 1
    batch['positions'][row, -length:] = np.arange(length)
  return jax.tree.map(jnp.asarray, batch)


@pytest.mark.parametrize('tied', [False, True])
def test_a_prompts_number_is_the_logit_of_a_token_at_its_end(tied):
  model = words(tied)
  params = model.init(jax.random.key(0))
  batch = prompts([3, 6, 1])
  read = regression.reader(model, 0, centre=3.0)
  logits = model.logits(params, model.hidden(params, batch))
  got = read(params, batch)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, 3 + logits[:, -1, 0], atol=1e-5)
  # Padding on the left is not read.
  shorter = {name: array[:1, -3:] for name, array in batch.items()}
  np.testing.assert_allclose(read(params, shorter), got[:1], atol=1e-5)


def test_a_towers_number_is_a_coordinate_of_its_embedding():
  tower = dict(width=16, depth=1, heads=2, mlp_width=24)
  facts = clip.ClipImageConfig(clip.ClipVisionConfig(16, 8, **tower), 5)
  model = clip.ClipImage(facts, RUNTIME)
  params = model.init(jax.random.key(0))
  drawn = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3))
  pixels = jnp.asarray(drawn, jnp.uint8)
  want = model.encode_image(params, pixels).embedding[:, 4]
  read = regression.reader(model, 4)
  np.testing.assert_allclose(read(params, {'pixels': pixels}), want, atol=1e-6)
  with pytest.raises(ValueError, match=r'column=5, expected 0 to 4'):
    regression.reader(model, 5)


def test_the_loss_is_the_mean_of_the_rows_that_count():
  found = jnp.array([1.0, 4.0, 7.0])
  objective = regression.regression(lambda params, batch: found + params)
  batch = {
    'target': jnp.array([2.0, 2.0, 0.0]),
    'counted': jnp.array([1, 1, 0]),
  }
  run = lambda params: objective(params, batch, jax.random.key(0))
  (loss, metrics), slope = jax.value_and_grad(run, has_aux=True)(0.0)
  assert float(loss) == 5 and float(slope) == 2
  means = {name: float(n / d) for name, (n, d) in metrics.items()}
  assert means == {'loss': 2.5, 'absolute_error': 1.5, 'prediction': 2.5}


def test_a_prompts_number_can_be_learnt():
  model = words()
  params = model.init(jax.random.key(0))
  batch = prompts([3, 6, 1, 5]) | {
    'target': np.float32([1, 5, 2, 3]), 'counted': np.ones(4, np.float32)
  }  # fmt: skip
  objective = regression.regression(regression.reader(model, 0, 3.0))

  @jax.jit
  def step(params):
    loss, slope = jax.value_and_grad(
      lambda params: objective(params, batch, jax.random.key(0))[0]
    )(params)
    return jax.tree.map(lambda p, g: p - 0.02 * g, params, slope), loss

  losses = []
  for _ in range(60):
    params, loss = step(params)
    losses.append(float(loss))
  assert losses[0] > 5 and losses[-1] < 0.05 * losses[0]
