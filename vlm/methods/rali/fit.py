"""Stage 3 of RALI: prototypes and their scores, trained on opinions.

The encoder stays as it is, so its embeddings are computed once. The fit gains
in domain and costs out of domain when it goes on for long: it starts from
stage 2's basis, stops by images it does not see, and always reports what the
basis scored before it.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from vlm.methods.rali import scorer
from vlm.methods.rali.scorer import ScorerSettings
from vlm.metrics import correlation

SELECT = ('srcc', 'mse')
# Scores that differ by less, of their size, differ by rounding alone: their
# ranks would be noise.
ROUNDING = 1e-6
LEARNABLE = tuple(name for name in scorer.NAMES if name != 'pca_mean')


@dataclasses.dataclass(frozen=True)
class FitSettings:
  """Choices of stage 3.

  Attributes:
    epochs: at most; 0 keeps the basis.
    batch_size: embeddings of a step.
    lr: Adam's.
    pull: weight of sum ||p - p0||^2 / K over what is learned, which holds it
      near stage 2's basis.
    learn: which parameters; the released scorers', or also 'pca_components',
      'pca_scale' and 'logit_scale'.
    select: what stops the fit, of the images held out: 'srcc' or 'mse'.
    patience: epochs without a better one.
    seed: of the batches.
  """

  epochs: int = 50
  batch_size: int = 256
  lr: float = 1e-3
  pull: float = 0.0
  learn: tuple[str, ...] = ('prototypes', 'proto_scores')
  select: str = 'srcc'
  patience: int = 10
  seed: int = 0

  def __post_init__(self):
    unknown = sorted(set(self.learn) - set(LEARNABLE))
    if unknown:
      raise ValueError(f'fit.learn={unknown}, expected some of {LEARNABLE}')
    if self.select not in SELECT:
      raise ValueError(f'fit.select={self.select!r}, expected one of {SELECT}')
    if self.batch_size < 1 or self.epochs < 0:
      raise ValueError(
        f'fit.batch_size={self.batch_size} and fit.epochs={self.epochs}, '
        'expected at least 1 and 0'
      )


class Fitted(NamedTuple):
  """What stage 3 found.

  Attributes:
    params: of the best epoch, numpy float32.
    epoch: which that was; 0 is stage 2's basis as it came.
    rows: {'unfitted': ..., 'fitted': ...}, each with plcc, srcc and mse of the
      images held out and, with the prefix 'train_', of the others. NaN where
      predictions are constant.
    history: one such row for every epoch, held out alone.
  """

  params: dict[str, np.ndarray]
  epoch: int
  rows: dict[str, dict[str, float]]
  history: list[dict[str, float]]


def hold_out(
  count: int, share: float = 0.1, seed: int = 0
) -> tuple[Int[np.ndarray, 'M'], Int[np.ndarray, 'H']]:
  """Images to train on and images that stop the training, in order.

  Stage 2 must see the first alone: a basis vector knows the opinions of its
  images.

  Raises:
    ValueError: a share that leaves one of them with fewer than two images.
  """
  held = round(count * share)
  if held < 2 or count - held < 2:
    raise ValueError(
      f'{share:.0%} of {count} images is {held}; expected at least 2 held out '
      'and 2 left'
    )
  order = np.random.default_rng(seed).permutation(count)
  return np.sort(order[held:]), np.sort(order[:held])


def fit(
  params: Mapping[str, np.ndarray],
  train: tuple[Float[np.ndarray, 'M E'], Float[np.ndarray, 'M']],
  held: tuple[Float[np.ndarray, 'H E'], Float[np.ndarray, 'H']],
  settings: FitSettings = FitSettings(),
  form: ScorerSettings = ScorerSettings(),
) -> Fitted:
  """Minimises the mean squared error of scores against opinions.

  Args:
    params: of `scorer.initial_params`.
    train: cached embeddings and their opinions.
    held: the same of the images that choose the epoch.
    settings: choices.
    form: of the scorer.

  Raises:
    ValueError: numbers that are not finite.
    FloatingPointError: the loss is no number any more.
  """
  for name, (x, y) in (('train', train), ('held out', held)):
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
      raise ValueError(f'{name}: an embedding or an opinion is not finite')
  start = {name: jnp.asarray(value) for name, value in params.items()}
  learned = {name: start[name] for name in settings.learn}
  rows = [_row(start, held, form)]
  best, best_epoch = learned, 0
  state = optax.adam(settings.lr).init(learned)
  x, y = (jnp.asarray(part, jnp.float32) for part in train)
  for epoch in range(1, settings.epochs + 1):
    batches = _batches(len(x), settings, epoch)
    learned, state, loss = _epoch(
      learned,
      state,
      start,
      x,
      y,
      batches,
      settings.lr,
      settings.pull,
      form=form,
    )
    if not math.isfinite(loss):
      raise FloatingPointError(
        f'the loss of epoch {epoch} is {loss}; lower fit.lr={settings.lr:g}'
      )
    rows.append(_row(start | learned, held, form))
    if _merit(rows[epoch], settings) > _merit(rows[best_epoch], settings):
      best, best_epoch = learned, epoch
    if epoch - best_epoch >= settings.patience:
      break
  ends = {'unfitted': (start, 0), 'fitted': (start | best, best_epoch)}
  table = {
    name: rows[epoch] | _named('train_', _row(found, train, form))
    for name, (found, epoch) in ends.items()
  }
  found = {k: np.asarray(v) for k, v in (start | best).items()}
  return Fitted(found, best_epoch, table, rows)


@functools.partial(jax.jit, static_argnames='form')
def _scores(params, x, form):
  return scorer.scores(params, x, form)


@functools.partial(jax.jit, static_argnames='form')
def _epoch(learned, state, start, x, y, batches, lr, pull, *, form):
  """One pass over the batches [N, B] of row numbers."""
  count = start['proto_scores'].shape[0]

  def loss_of(learned, rows):
    errors = scorer.scores(start | learned, x[rows], form) - y[rows]
    far = sum(jnp.sum(jnp.square(p - start[k])) for k, p in learned.items())
    return jnp.mean(jnp.square(errors)) + pull * far / count

  def step(carry, rows):
    learned, state = carry
    loss, gradient = jax.value_and_grad(loss_of)(learned, rows)
    updates, state = optax.adam(lr).update(gradient, state)
    return (optax.apply_updates(learned, updates), state), loss

  (learned, state), losses = jax.lax.scan(step, (learned, state), batches)
  return learned, state, losses.mean()


def _batches(count: int, settings: FitSettings, epoch: int) -> np.ndarray:
  """Row numbers [N, B]; what does not fill a batch waits for another epoch."""
  size = min(settings.batch_size, count)
  order = np.random.default_rng([settings.seed, epoch]).permutation(count)
  return order[: count // size * size].reshape(-1, size)


def _row(params: Any, data: tuple, form: ScorerSettings) -> dict[str, float]:
  x, opinions = data
  predicted = np.asarray(_scores(params, jnp.asarray(x, jnp.float32), form))
  if np.ptp(predicted) <= ROUNDING * np.abs(predicted).max():
    predicted = np.full_like(predicted, predicted.mean())
  return {
    'plcc': correlation.plcc(predicted, opinions),
    'srcc': correlation.srcc(predicted, opinions),
    'mse': float(np.mean((predicted - np.asarray(opinions)) ** 2)),
  }


def _merit(row: dict[str, float], settings: FitSettings) -> float:
  """Larger is better; a constant scorer is worse than any other."""
  value = row['srcc'] if settings.select == 'srcc' else -row['mse']
  return -math.inf if math.isnan(value) else value


def _named(prefix: str, row: dict[str, float]) -> dict[str, float]:
  return {prefix + name: value for name, value in row.items()}
