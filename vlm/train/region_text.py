"""Regions and captions that belong together: what MASK does without.

A supervised counterpart on the same features: the same region encoder, a vector
for each word, and a contrastive loss over the images and captions of a batch,
whose scores are those of the matcher (the mean over words of the best region).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from vlm.losses.contrastive import clamped_scale
from vlm.methods.mask.losses import unit
from vlm.models.functional import Params
from vlm.train.step import Objective

SPREAD = 0.02  # standard deviation of fresh word vectors
SCALE = 14.0  # of the first inverse temperature, CLIP's


class RegionTextModel:
  """A region encoder, a table of word vectors, and the logarithm of a scale.

  Args:
    encoder: a `mask.encoder.RegionEncoder`, whose networks g and f are there
      and not trained.
    words: V, rows of the table.
  """

  def __init__(self, encoder: Any, words: int):
    self.config, self.runtime, self.encoder = (
      encoder.config,
      encoder.runtime,
      encoder,
    )
    self.words = words
    self.abstract_params = jax.eval_shape(self.init, jax.random.key(0))

  def init(self, key: jax.Array) -> Params:
    """Draws parameters."""
    first, second = jax.random.split(key)
    shape = self.words, self.config.latent
    return {
      'encoder': self.encoder.init(first),
      'table': SPREAD * jax.random.normal(second, shape),
      'logit_scale': jnp.log(jnp.float32(SCALE)),
    }


def region_text(
  model: RegionTextModel, *, max_scale: float = 100.0
) -> Objective:
  """The contrastive objective of images as regions and captions as words.

  Args:
    model: see `RegionTextModel`.
    max_scale: largest inverse temperature.

  Returns:
    objective(params, batch, key) -> (summed loss, metrics). The batch holds
    `regions` [B, I, M], `valid` bool [B, I] and `caption` int32 [B, J], rows of
    the table, -1 in padding; a row without a word is no pair. Metrics over
    pairs: loss, i2t_accuracy and t2i_accuracy in the batch; logit_scale.
  """

  def objective(params, batch, key: jax.Array):
    del key  # nothing is drawn
    codes, _ = model.encoder.encode(
      params['encoder'], batch['regions'], batch['valid']
    )
    scale = clamped_scale(params['logit_scale'], max_scale)
    logits = scale * _scores(
      codes, batch['valid'], params['table'], batch['caption']
    )
    there = (batch['caption'] >= 0).any(1)
    both = there[:, None] & there
    logits = jnp.where(both, logits, -1e9)
    own = jnp.arange(len(there))
    cross = optax.softmax_cross_entropy_with_integer_labels
    loss = (cross(logits, own) + cross(logits.T, own)) / 2
    total, count = jnp.sum(loss, where=there), jnp.sum(there)
    right = lambda x: jnp.sum((jnp.argmax(x, 1) == own) & there)
    return total, {
      'loss': (total, count),
      'i2t_accuracy': (right(logits), count),
      't2i_accuracy': (right(logits.T), count),
      'logit_scale': (scale, 1.0),
    }

  return objective


def _scores(codes, valid, table, caption) -> jax.Array:
  """Mean over a caption's words of the best region's cosine: [B, C]."""
  words = unit(table)[jnp.maximum(caption, 0)]
  cosines = jnp.einsum('BIZ,CJZ->BCJI', unit(codes), words)
  best = jnp.max(jnp.where(valid[:, None, None], cosines, -1.0), axis=-1)
  said = (caption >= 0).astype(jnp.float32)
  return jnp.sum(best * said, -1) / jnp.maximum(said.sum(-1), 1)
