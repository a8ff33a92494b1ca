"""The one training step, for every objective.

objective(params, batch, key) -> (numerator, metrics), with metrics as
(numerator, denominator) pairs and metrics['loss'] the pair that is minimised.
The loss of a global batch is sum(numerators) / sum(denominators) over
microbatches and devices, so neither padding nor accumulation biases it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vlm.sharding.batch import batch_sharding, microbatches
from vlm.train.optimizer import Optimizer, merge

Objective = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, Any]]]
# (moved parameters, summed metrics) -> parameters, metrics of the log.
Absorb = Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]


def make_step(
  objective: Objective,
  optimizer: Optimizer,
  *,
  mesh: Mesh,
  state_shardings: Any,
  accumulate: int = 1,
  seed: int = 0,
  ema: float = 0.0,
  absorb: Absorb | None = None,
) -> Callable[[Any, Any], tuple[Any, dict[str, Any]]]:
  """Builds `step(state, batch) -> (state, metrics)`, jitted, state donated.

  Args:
    objective: see the module's docstring; its key is
      fold_in(fold_in(key(seed), step), microbatch).
    optimizer: from `make_optimizer`.
    mesh: the job's mesh.
    state_shardings: tree of NamedSharding, see `state.state_shardings`.
    accumulate: microbatches per step; the batch axis must divide by it and by
      the batch shards, see `check_batch_size`.
    seed: of the run.
    ema: decay of state['ema'].
    absorb: moves frozen parameters by what the objective's metrics say of the
      batch; it takes out of them what is not for the log.

  Returns:
    The jitted step. Metrics stay (numerator, denominator) pairs on device: the
    objective's, and grad_norm (before clipping), param_norm, update_norm,
    learning_rate and finite (1 when loss and gradient are finite).
  """
  trainable_shardings, _ = optimizer.split(state_shardings['params'])

  def step(state, batch):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      key = jax.random.fold_in(jax.random.key(seed), state['step'])
      trainable, frozen = optimizer.split(state['params'])

      def loss(trainable, batch, key):
        numerator, metrics = objective(merge(trainable, frozen), batch, key)
        return numerator.astype(jnp.float32), metrics

      grads, metrics = _gradients(
        loss, trainable, batch, key, accumulate, mesh, trainable_shardings
      )
      return _update(state, grads, metrics, optimizer, ema, absorb)

  return jax.jit(
    step,
    in_shardings=(state_shardings, batch_sharding(mesh)),
    out_shardings=(state_shardings, NamedSharding(mesh, P())),
    donate_argnums=0,
  )


def make_eval_step(
  objective: Objective, *, mesh: Mesh, param_shardings: Any, seed: int = 0
) -> Callable[[Any, Any], dict[str, Any]]:
  """Builds `evaluate(params, batch) -> metrics`, jitted, nothing donated."""

  def evaluate(params, batch):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      _, metrics = objective(params, batch, jax.random.key(seed))
      return _pairs(metrics)

  return jax.jit(
    evaluate,
    in_shardings=(param_shardings, batch_sharding(mesh)),
    out_shardings=NamedSharding(mesh, P()),
  )


def _gradients(loss, params, batch, key, accumulate, mesh, shardings):
  """Sums gradients of the numerator (float32) and metrics over microbatches."""

  def micro(index, batch):
    (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(
      params, batch, jax.random.fold_in(key, index)
    )
    grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
    # Stated per microbatch, so that gradients are scattered to their shards
    # instead of being held whole.
    grads = jax.lax.with_sharding_constraint(grads, shardings)
    return grads, _pairs(metrics)

  if accumulate == 1:
    return micro(0, batch)

  def add(total, inputs):
    return jax.tree.map(jnp.add, total, micro(*inputs)), None

  pieces = jax.tree.map(lambda x: microbatches(x, accumulate, mesh), batch)
  shapes = jax.eval_shape(
    micro, 0, jax.tree.map(lambda piece: piece[0], pieces)
  )
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  total, _ = jax.lax.scan(add, zeros, (jnp.arange(accumulate), pieces))
  return total


def _update(state, grads, metrics, optimizer: Optimizer, ema, absorb):
  """Divides, clips, moves the parameters, and completes the metrics."""
  _, denominator = metrics['loss']
  # A batch without a single target has gradient 0, not 0 / 0.
  denominator = jnp.where(denominator == 0, 1.0, denominator)
  grads = jax.tree.map(lambda g: g / denominator, grads)
  trainable, frozen = optimizer.split(state['params'])
  moved, opt_state, updates = optimizer.apply(
    grads, state['opt_state'], trainable
  )
  params = merge(moved, frozen)
  if absorb is not None:
    params, metrics = absorb(params, metrics)
  new = state | {
    'params': params,
    'opt_state': opt_state,
    'step': state['step'] + 1,
  }
  if ema:
    new['ema'] = jax.tree.map(
      lambda mean, p: (ema * mean + (1 - ema) * p).astype(mean.dtype),
      state['ema'],
      new['params'],
    )
  grad_norm = optax.tree_utils.tree_norm(grads)
  finite = jnp.isfinite(grad_norm) & jnp.isfinite(metrics['loss'][0])
  extra = {
    'grad_norm': grad_norm,
    'param_norm': optax.tree_utils.tree_norm(moved),
    'update_norm': optax.tree_utils.tree_norm(updates),
    'learning_rate': optimizer.schedule(state['step']),
    'finite': finite,
  }
  return new, metrics | _pairs({k: (v, 1.0) for k, v in extra.items()})


def _pairs(metrics: dict[str, Any]) -> dict[str, Any]:
  """Metrics as float32 (numerator, denominator) pairs."""
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), metrics)
