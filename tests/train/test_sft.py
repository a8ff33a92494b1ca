"""The SFT objective counts exactly the supervised tokens."""

import jax
import jax.numpy as jnp
import numpy as np

from vlm.models.inputs import Inputs
from vlm.train.sft import sft


class Bigram:
  """A model whose logits after token i are table[i]."""

  @staticmethod
  def inputs(params, batch):
    x = jax.nn.one_hot(batch['tokens'], params['table'].shape[0])
    return Inputs(x, batch['tokens'], batch['segment_ids'])

  @staticmethod
  def run(params, inputs):
    return inputs.x

  @staticmethod
  def head_kernel(params):
    return params['table']


def test_loss_and_accuracy_by_hand():
  # After 0 comes 1 (p = 1/2), after 1 comes 2 (p = 1/4), else uniform.
  table = jnp.log(
    jnp.array([[1 / 4, 1 / 2, 1 / 4], [1 / 2, 1 / 4, 1 / 4], [1 / 3] * 3])
  )
  batch = {
    'tokens': jnp.array([[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 0, 0]]),
    'segment_ids': jnp.array([[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]]),
    'loss_mask': jnp.array([[0.0, 1, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0]]),
  }
  numerator, metrics = sft(Bigram(), loss_chunk=4)(
    {'table': table}, batch, jax.random.key(0)
  )
  # Supervised: 0->1, 1->2, (2->0 crosses samples), 0->1; and 0->1.
  np.testing.assert_allclose(numerator, 3 * np.log(2) + np.log(4), rtol=1e-6)
  np.testing.assert_allclose(metrics['loss'], (numerator, 4))
  np.testing.assert_allclose(metrics['accuracy'], (3, 4))
  np.testing.assert_allclose(metrics['target_share'], (4, 7))
