"""Fine-tuning on images and texts that do not belong together (App. H).

One matrix W turns region codes and prototypes alike. A batch of words u and
regions mu, of any images and texts, attends to each other; each word must find
itself in what the regions made of it, and each region in what words made of it:

    S = uW (mu W)^T    u' = softmax_row(S) mu W    mu' = softmax_row(S^T) uW
    L = - sum_j log softmax_row(uW u'^T)_jj
        - sum_n log softmax_row(mu W mu'^T)_nn

Afterwards both are used turned. The paper gives no results and no settings; the
batch, Adam and the start at the identity are chosen here.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vlm.methods.mask.directions import product


@dataclasses.dataclass(frozen=True)
class AdaptSettings:
  """Choices of the fine-tuning.

  Attributes:
    steps: of Adam.
    batch: words and regions of a step.
    lr: Adam's.
    seed: of the batches.
  """

  steps: int = 200
  batch: int = 128
  lr: float = 1e-4
  seed: int = 0


def unpaired_loss(
  matrix: Float[Array, 'Z Z'],
  regions: Float[Array, 'I Z'],
  prototypes: Float[Array, 'J Z'],
) -> Float[Array, '']:
  """L of a batch, summed over words and regions; float32.

  Products are taken of what is given: bring vectors to unit length first, else
  long codes make the softmax a choice of one.
  """
  words = product('JZ,ZY->JY', prototypes.astype(jnp.float32), matrix)
  regions = product('IZ,ZY->IY', regions.astype(jnp.float32), matrix)
  scores = product('JZ,IZ->JI', words, regions)
  from_regions = product('JI,IZ->JZ', jax.nn.softmax(scores), regions)
  from_words = product('IJ,JZ->IZ', jax.nn.softmax(scores.T), words)
  return _found(words, from_regions) + _found(regions, from_words)


def adapt(
  regions: Float[Array, 'R Z'],
  prototypes: Float[Array, 'K Z'],
  settings: AdaptSettings | None = None,
) -> tuple[Float[Array, 'Z Z'], Float[Array, 'S']]:
  """(W, the loss of each step); `v @ W` turns prototypes and codes.

  Batches are drawn with replacement from each side on its own.
  """
  settings = settings or AdaptSettings()
  adam = optax.adam(settings.lr)

  def step(state, key):
    matrix, moments = state
    keys = jax.random.split(key)
    batch = [
      x[jax.random.randint(one, (settings.batch,), 0, len(x))]
      for one, x in zip(keys, (regions, prototypes))
    ]
    loss, gradient = jax.value_and_grad(unpaired_loss)(matrix, *batch)
    update, moments = adam.update(gradient, moments, matrix)
    return (optax.apply_updates(matrix, update), moments), loss

  start = jnp.eye(regions.shape[1])
  keys = jax.random.split(jax.random.key(settings.seed), settings.steps)
  run = jax.jit(lambda state: jax.lax.scan(step, state, keys))
  (matrix, _), losses = run((start, adam.init(start)))
  return matrix, losses


def _found(rows: jax.Array, made: jax.Array) -> jax.Array:
  """Cross-entropy of finding each row in what was made of it."""
  logits = product('AZ,BZ->AB', rows, made)
  return -jnp.sum(jnp.diagonal(jax.nn.log_softmax(logits)))
