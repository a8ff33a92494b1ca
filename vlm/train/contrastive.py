"""Contrastive training: an image and its text shall find each other.

Each row of a batch is a pair; all other rows are what it is told apart from, so
a step needs all embeddings of the global batch at once, but not all activations
(gradient caching, GradCache, arXiv 2101.06983): pairs are embedded in parts
without keeping activations, the loss gives the gradient of every embedding, and
each part is embedded again to send its own through the towers.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vlm.losses.contrastive import PairScores, clamped_scale, info_nce, sigmoid
from vlm.models.clip import unit
from vlm.models.partition import context_mesh
from vlm.sharding.batch import microbatches, rejoined
from vlm.sharding.mesh import BATCH_AXES
from vlm.train.step import Objective

LOSSES = ('softmax', 'sigmoid')


def contrastive(
  model: Any,
  *,
  loss: str = 'softmax',
  share_equal: bool = False,
  parts: int = 1,
  block: int = 1024,
  max_scale: float = 100.0,
) -> Objective:
  """The contrastive objective of a model with two towers.

  Args:
    model: has `encode_image` and `encode_text`, a parameter `logit_scale` (the
      logarithm), and `logit_bias` for sigmoid; see `clip.Clip`.
    loss: 'softmax' (`info_nce`) or 'sigmoid', of vlm/losses/contrastive.py.
    share_equal: rows with the same `text_ids` are positives of each other;
      otherwise each row's only positive is its own. Equal texts have equal
      logits, so that the softmax loss is the same either way; sigmoid's is not,
      and an equal text is then right for the accuracies.
    parts: embed the batch in so many parts, keeping activations of none; they
      must divide the rows of every device.
    block: side of the largest tile of logits on a device.
    max_scale: largest inverse temperature.

  Returns:
    objective(params, batch, key) -> (summed loss in nats, metrics). The batch
    holds `pixels` [B, S, S, 3], `tokens` [B, T] and `text_ids` int32 [B], equal
    where texts are, 0 in padding; see data/pairs.py. Metrics over pairs: loss;
    i2t_accuracy and t2i_accuracy, in the batch; duplicate_share, of pairs
    whose text is another's as well; cut_share, of texts that were shortened;
    image_norm and text_norm, lengths of embeddings. logit_scale and logit_bias.

  Raises:
    ValueError: an unknown loss, or sigmoid for a model without a bias.
  """
  if loss not in LOSSES:
    raise ValueError(
      f'--config.contrastive.loss={loss!r}, expected one of {LOSSES}'
    )
  if loss == 'sigmoid' and 'logit_bias' not in model.abstract_params:
    raise ValueError(
      "--config.contrastive.loss='sigmoid' needs a model with a logit_bias; "
      'set --config.contrastive.loss=softmax for a published CLIP'
    )

  def objective(params, batch, key: jax.Array):
    del key  # nothing is drawn
    embed = functools.partial(_embed, parts=parts)
    images, image_norm = embed(
      lambda x: model.encode_image(params, x).embedding, batch['pixels']
    )
    texts, text_norm = embed(
      lambda x: model.encode_text(params, x).embedding, batch['tokens']
    )
    text_ids = batch['text_ids']
    present = text_ids > 0
    own = jnp.where(present, 1 + jnp.arange(len(text_ids)), 0)
    scale = clamped_scale(params['logit_scale'], max_scale)
    axes = () if context_mesh() is None else BATCH_AXES
    towers = images, texts, scale
    ids = text_ids if share_equal else own
    if loss == 'softmax':
      scores = info_nce(*towers, ids, block=block, axes=axes)
    else:
      bias = params['logit_bias'].astype(jnp.float32)
      scores = sigmoid(*towers, bias, ids, block=block, axes=axes)
    numerator, metrics = _metrics(scores, present)
    mean = lambda values: _mean(values, present)
    metrics |= {
      'duplicate_share': (_repeated(text_ids), jnp.sum(present)),
      'cut_share': mean(batch['cut']),
      'image_norm': mean(image_norm),
      'text_norm': mean(text_norm),
      'logit_scale': (scale, 1.0),
    }
    if loss == 'sigmoid':
      metrics['logit_bias'] = (bias, 1.0)
    return numerator, metrics

  return objective


def _repeated(ids: Int[Array, 'B']) -> jax.Array:
  """How many rows have an id above 0 that another row has too."""
  ids = jnp.sort(ids)
  same = (ids[1:] == ids[:-1]) & (ids[1:] > 0)
  edge = jnp.zeros(1, bool)
  before = jnp.concatenate([edge, same])
  return jnp.sum(before | jnp.concatenate([same, edge]))


def _embed(
  encode: Callable, inputs: jax.Array, *, parts: int
) -> tuple[Float[Array, 'B E'], Float[Array, 'B']]:
  """Unit embeddings of all rows, and their lengths before."""

  def run(inputs):
    embedding = encode(inputs).astype(jnp.float32)
    return unit(embedding), jnp.linalg.norm(embedding, axis=-1)

  if parts == 1:
    return run(inputs)
  # The backward pass of a loop over recomputed parts is gradient caching.
  mesh = context_mesh()
  pieces = jax.lax.map(jax.checkpoint(run), microbatches(inputs, parts, mesh))
  return jax.tree.map(lambda piece: rejoined(piece, mesh), pieces)


def _metrics(scores: PairScores, present: jax.Array):
  """(summed loss, metrics) of the scores of a batch."""
  total = jnp.sum(scores.image_loss + scores.text_loss) / 2
  return total, {
    'loss': (total, jnp.sum(present)),
    'i2t_accuracy': _mean(scores.image_right, present),
    't2i_accuracy': _mean(scores.text_right, present),
  }


def _mean(values: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
  """A metric over the rows that are pairs."""
  return jnp.sum(jnp.where(present, values, 0)), jnp.sum(present)
