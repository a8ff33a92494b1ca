"""Can data sets be told apart by a linear classifier of embeddings?

A number in the place of a t-SNE plot. Sets differ in quality too, and quality
is what embeddings shall show: compare images of matched quality.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vlm.models.functional import Params
from vlm.models.visual import VisionLanguageModel


class Accuracy(NamedTuple):
  """How often the domain of a left-out image was named.

  Attributes:
    mean: over images.
    folds: of each fold.
    chance: of always naming the largest domain.
  """

  mean: float
  folds: tuple[float, ...]
  chance: float


def matched(
  quality: Float[np.ndarray, 'N'],
  domains: Sequence[str],
  bins: int = 10,
  seed: int = 0,
) -> Int[np.ndarray, 'M']:
  """Images such that every domain has as many in each bin of quality.

  Args:
    quality: on one scale.
    domains: of each image.
    bins: of equal width.
    seed: of the choice inside a bin.

  Raises:
    ValueError: in no bin are there images of all domains.
  """
  domains, rng = np.asarray(domains), np.random.default_rng(seed)
  names = np.unique(domains)
  low, high = quality.min(), quality.max()
  inside = np.floor((quality - low) / max(high - low, 1e-12) * bins)
  inside = np.minimum(inside, bins - 1)
  chosen = []
  for number in range(bins):
    members = [
      np.flatnonzero((inside == number) & (domains == name)) for name in names
    ]
    count = min(len(part) for part in members)
    chosen += [rng.permutation(part)[:count] for part in members]
  found = np.sort(np.concatenate(chosen))
  if not found.size:
    raise ValueError(
      f'no bin of quality holds images of all of {names.tolist()}; use fewer '
      f'than {bins} bins'
    )
  return found


def linear_accuracy(
  x: Float[np.ndarray, 'N E'],
  domains: Sequence[str],
  folds: int = 5,
  ridge: float = 0.1,
  seed: int = 0,
) -> Accuracy:
  """Cross-validated accuracy of a ridge classifier, one against the rest.

  Args:
    x: embeddings; each fold scales them by the others' mean and spread.
    domains: of each.
    folds: each domain is spread over all of them.
    ridge: of the normal equations, per image.
    seed: of the folds.

  Raises:
    ValueError: one domain alone, or one with fewer images than folds.
  """
  names, labels, counts = np.unique(
    np.asarray(domains), return_inverse=True, return_counts=True
  )
  if len(names) < 2 or counts.min() < folds:
    raise ValueError(
      f'domains {dict(zip(names.tolist(), counts.tolist()))}: expected two or '
      f'more, each with at least {folds} images'
    )
  x = np.asarray(x, np.float64)
  fold = _folds(labels, folds, seed)
  right = np.zeros(len(x), bool)
  for number in range(folds):
    out = fold == number
    right[out] = _predict(x[~out], labels[~out], x[out], ridge) == labels[out]
  shares = tuple(float(right[fold == k].mean()) for k in range(folds))
  return Accuracy(float(right.mean()), shares, float(counts.max() / len(x)))


def visual_embeddings(
  model: VisionLanguageModel, params: Params, batch: Mapping[str, Any]
) -> Float[Array, 'B D']:
  """The mean visual token of each row, as the decoder gets it; float32."""
  visual = model.encode_visual(params, batch['pixels'], batch['plan'])
  return _mean(visual.tokens, visual.valid)


def text_embeddings(
  model: VisionLanguageModel, params: Params, batch: Mapping[str, Any]
) -> Float[Array, 'B D']:
  """The mean last hidden state of each row of texts; float32.

  Args:
    model: a VLM.
    params: its parameters.
    batch: descriptions alone, `rows.continued` of empty prompts: beside an
      image, hidden states would show the image.
  """
  return _mean(model.hidden(params, dict(batch)), batch['segment_ids'] != 0)


def _mean(x: Any, valid: Any) -> jax.Array:
  weights = jnp.asarray(valid, jnp.float32)[..., None]
  total = (x.astype(jnp.float32) * weights).sum(axis=1)
  return total / jnp.maximum(weights.sum(axis=1), 1)


def _folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
  rng, fold = np.random.default_rng(seed), np.zeros(len(labels), np.int64)
  for label in np.unique(labels):
    members = rng.permutation(np.flatnonzero(labels == label))
    fold[members] = np.arange(len(members)) % folds
  return fold


def _predict(x, labels, new, ridge: float) -> np.ndarray:
  mean, spread = x.mean(axis=0), x.std(axis=0)
  spread = np.where(spread > 1e-12, spread, 1.0)
  scaled = lambda x: np.c_[(x - mean) / spread, np.ones(len(x))]
  x, targets = scaled(x), np.eye(labels.max() + 1)[labels]
  penalty = ridge * len(x) * np.eye(x.shape[1])
  penalty[-1, -1] = 0  # the offset
  weights = np.linalg.solve(x.T @ x + penalty, x.T @ targets)
  return (scaled(new) @ weights).argmax(axis=1)
