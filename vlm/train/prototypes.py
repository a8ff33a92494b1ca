"""Codes of regions near the prototypes of their words: MASK's objective.

    L = L_ir / M + lambda_1 L_cm + lambda_2 L_cl                        (Eq. 14)

A batch is sets of regions with a word each; pairs are compared with all others
of the microbatch. Beside the networks, the parameters hold what the loss reads
and no gradient moves: the words' vectors, and a bank with a prototype for each
word. The bank is refreshed by a pass over all regions now and then
(launch/objectives/prototypes.py); in between it follows the batches.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm.methods.mask import losses
from vlm.methods.mask.prototypes import Bank, batch_means, empty_bank, followed
from vlm.models.functional import Params
from vlm.train.step import Objective

BANKS = ('follow', 'batch')
FROZEN = (r'bank/.*|words', {'freeze': True})


@dataclasses.dataclass(frozen=True)
class PrototypeSettings:
  """Choices of the objective; defaults are the paper's or the specification's.

  Attributes:
    retention: weight of L_ir, which is divided by the numbers of a region.
    cross_modal: lambda_1.
    consistency: lambda_2.
    temperature: of L_cl.
    negatives: of L_cl, see `losses.consistency`.
    bank: what L_cl takes for a prototype: the bank ('follow'), or the mean of
      the word within the microbatch, with its gradient ('batch').
    decay: of the bank's old value when it follows a step.
    block: pairs that all others meet at a time.
  """

  retention: float = 1.0
  cross_modal: float = 3.0
  consistency: float = 3.0
  temperature: float = losses.TEMPERATURE
  negatives: str = 'others'
  bank: str = 'follow'
  decay: float = 0.99
  block: int = 1024

  def __post_init__(self):
    if self.bank not in BANKS:
      raise ValueError(
        f'--config.mask.bank={self.bank!r}, expected one of {BANKS}'
      )
    if not 0 <= self.decay < 1:
      raise ValueError(
        f'--config.mask.decay={self.decay}, expected 0 <= decay < 1'
      )


class PrototypeModel:
  """The region encoder, with the words' vectors and the bank beside it.

  Args:
    encoder: the networks, a `mask.encoder.RegionEncoder`.
    vectors: float32 [K, N], one for each word.

  Raises:
    ValueError: for vectors of another width than the encoder's words.
  """

  def __init__(self, encoder: Any, vectors: np.ndarray):
    if vectors.shape[1] != encoder.config.words:
      raise ValueError(
        f'word vectors of {vectors.shape[1]} numbers, --config.model.encoder '
        f'expects words={encoder.config.words}'
      )
    self.config, self.runtime, self.encoder = (
      encoder.config,
      encoder.runtime,
      encoder,
    )
    self._vectors = np.asarray(vectors, np.float32)
    self.abstract_params = jax.eval_shape(self.init, jax.random.key(0))

  @property
  def words(self) -> int:
    """K."""
    return len(self._vectors)

  def init(self, key: jax.Array) -> Params:
    """Draws the networks; the bank is empty."""
    bank = empty_bank(self.words, self.config.latent)
    return {
      'encoder': self.encoder.init(key),
      'bank': bank._asdict(),
      'words': jnp.asarray(self._vectors),
    }


def prototypes(model: PrototypeModel, settings: PrototypeSettings) -> Objective:
  """The objective of a region encoder.

  Args:
    model: see `PrototypeModel`.
    settings: weights and choices.

  Returns:
    objective(params, batch, key) -> (summed loss, metrics). The batch holds
    `regions` float32 [B, I, M], `valid` bool [B, I] and `words` int32 [B, I],
    -1 where a region has none. Metrics: over pairs, loss, consistency,
    cross_modal/word and /structure, and prototype_cosine, of a code with its
    prototype; over their regions, retention/divergence, and retention/error,
    per number of a region. `bank` ([K, Z], [K, 1]) is what `follow` reads.
  """

  def objective(params, batch, key: jax.Array):
    regions, valid = batch['regions'], batch['valid']
    paired = valid & (batch['words'] >= 0)
    ids = jnp.where(paired, batch['words'], -1).reshape(-1)
    mean, log_variance = model.encoder.encode(params['encoder'], regions, valid)
    codes = mean.reshape(len(ids), -1)
    own = _prototypes(settings, params['bank'], codes, ids)
    terms = (
      _retained(settings, model, params, batch, key, mean, log_variance, paired)
      | _worded(settings, model, params, mean, valid, codes, ids)
      | _consistent(settings, own, codes, ids)
    )
    count = jnp.sum(paired).astype(jnp.float32)
    total = sum(weight * jnp.sum(term) for weight, term in terms.values())
    metrics = {
      name: (jnp.sum(term), count) for name, (_, term) in terms.items()
    }
    metrics['loss'] = total, count
    cosine = jnp.sum(losses.unit(own) * losses.unit(codes), axis=-1)
    there = ids >= 0
    metrics['prototype_cosine'] = jnp.sum(cosine, where=there), count
    metrics['bank'] = _sums(codes, ids, model.words)
    return total, metrics

  return objective


def follow(settings: PrototypeSettings) -> Callable:
  """(params, summed metrics) -> both, the bank having followed the batch."""

  def absorb(params: Params, metrics: dict[str, Any]):
    metrics = dict(metrics)
    sums, counts = metrics.pop('bank')
    seen = counts[:, 0] > 0
    # Of each word that was seen, the mean stands for its codes.
    ids = jnp.where(seen, jnp.arange(len(seen)), -1)
    means = sums / jnp.maximum(counts, 1)
    bank = followed(Bank(**params['bank']), means, ids, decay=settings.decay)
    return params | {'bank': bank._asdict()}, metrics

  return absorb


def _prototypes(settings, bank, codes, ids) -> jax.Array:
  """What each pair's code is held against: [P, Z]."""
  if settings.bank == 'batch':
    return batch_means(codes, ids, len(bank['seen']))
  return jax.lax.stop_gradient(bank['vectors'])[jnp.maximum(ids, 0)]


def _retained(
  settings, model, params, batch, key, mean, log_variance, paired
) -> dict[str, tuple[float, jax.Array]]:
  if not settings.retention:
    return {}
  regions, valid = batch['regions'], batch['valid']
  drawn = losses.draw(key, mean, log_variance)
  rebuilt = model.encoder.rebuild(params['encoder'], drawn, valid)
  found = losses.retention(regions, rebuilt, mean, log_variance, paired)
  width = regions.shape[-1]
  weight = settings.retention
  return {
    'retention/divergence': (weight / width, found.divergence),
    'retention/error': (weight, found.error / width),
  }


def _worded(
  settings, model, params, mean, valid, codes, ids
) -> dict[str, tuple[float, jax.Array]]:
  if not settings.cross_modal:
    return {}
  predicted = model.encoder.to_words(params['encoder'], mean, valid)
  words = jax.lax.stop_gradient(params['words'])[jnp.maximum(ids, 0)]
  found = losses.cross_modal(
    words,
    predicted.reshape(len(ids), -1),
    codes,
    ids,
    block=settings.block,
  )
  weight = settings.cross_modal
  return {
    'cross_modal/word': (weight, found.word),
    'cross_modal/structure': (weight, found.structure),
  }


def _consistent(
  settings, own, codes, ids
) -> dict[str, tuple[float, jax.Array]]:
  if not settings.consistency:
    return {}
  found = losses.consistency(
    own,
    codes,
    ids,
    temperature=settings.temperature,
    negatives=settings.negatives,
    block=settings.block,
  )
  return {'consistency': (settings.consistency, found)}


def _sums(codes, ids, words: int) -> tuple[jax.Array, jax.Array]:
  """Sums [K, Z] and counts [K, 1] of the codes of each word."""
  slots = jnp.where(ids >= 0, ids, words)  # out of range: dropped
  codes = jax.lax.stop_gradient(codes).astype(jnp.float32)
  ones = jnp.ones((len(ids), 1), jnp.float32)
  total = lambda x: jax.ops.segment_sum(x, slots, words)
  return total(codes), total(ones)
