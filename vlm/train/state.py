"""The training state: one pure dict, sharded from birth.

state = {'params', 'opt_state', 'step' (int32)}, and 'ema' and 'reference' when
asked for. The optimiser's moments are sharded as their parameters; scalars are
replicated. The reference is the trainable part of the first parameters; what
is frozen it shares with 'params'.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vlm.sharding.rules import DEFAULT_RULES, shardings
from vlm.train.optimizer import Optimizer


def abstract_state(
  abstract_params: Any,
  optimizer: Optimizer,
  mesh: Mesh,
  rules=DEFAULT_RULES,
  *,
  ema: float = 0.0,
  reference: bool = False,
) -> dict[str, Any]:
  """Shapes, dtypes and shardings of a state, without arrays.

  Args:
    abstract_params: nested dict of ShapeDtypeStruct.
    optimizer: gives the optimiser state.
    mesh: the job's mesh.
    rules: sharding table, see `vlm.sharding.rules`.
    ema: above 0, the state holds averaged parameters.
    reference: whether the state keeps the first parameters.

  Returns:
    The state with ShapeDtypeStructs that carry NamedShardings; lower a step
    from it, or restore a checkpoint into it.
  """
  placed = shardings(mesh, abstract_params, rules)
  trainable, _ = optimizer.split(placed)
  replicated = NamedSharding(mesh, P())
  abstract = jax.eval_shape(
    lambda params: _assemble(params, optimizer, ema, reference), abstract_params
  )
  spread = {'params': placed, 'step': replicated}
  # `jit(init)` alone would leave the moments unsharded, so they are told.
  spread['opt_state'] = optax.tree_utils.tree_map_params(
    optimizer.transform,
    # A moment that another part of the optimiser keeps is masked out here.
    lambda moment, sharding: moment if _masked(moment) else sharding,
    abstract['opt_state'],
    trainable,
    transform_non_params=lambda _: replicated,
    is_leaf=_masked,
  )
  if ema:
    spread['ema'] = placed
  if reference:
    spread['reference'] = trainable
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    abstract,
    spread,
  )


def _masked(node: Any) -> bool:
  return isinstance(node, optax.MaskedNode)


def state_shardings(abstract: Any) -> Any:
  """Shardings of an abstract (or real) state."""
  return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def init_state(
  model_init: Callable[[jax.Array], Any],
  optimizer: Optimizer,
  mesh: Mesh,
  rules=DEFAULT_RULES,
  *,
  key: jax.Array,
  ema: float = 0.0,
  reference: bool = False,
) -> dict[str, Any]:
  """Draws a state directly into its shards.

  Args:
    model_init: key -> params, jit-able.
    optimizer: gives the optimiser state.
    mesh: the job's mesh.
    rules: sharding table.
    key: typed key.
    ema: above 0, the state holds averaged parameters.
    reference: whether the state keeps the first parameters.

  Returns:
    The state; no array ever exists unsharded.
  """
  abstract = abstract_state(
    jax.eval_shape(model_init, key),
    optimizer,
    mesh,
    rules,
    ema=ema,
    reference=reference,
  )
  draw = jax.jit(
    lambda key: _assemble(model_init(key), optimizer, ema, reference),
    out_shardings=state_shardings(abstract),
  )
  return draw(key)


def state_from_params(
  params: Any,
  optimizer: Optimizer,
  mesh: Mesh,
  rules=DEFAULT_RULES,
  *,
  ema: float = 0.0,
  reference: bool = False,
) -> dict[str, Any]:
  """A state around given (for example converted) parameters.

  Args:
    params: nested dict of arrays, already sharded or on the host.
    optimizer: gives the optimiser state.
    mesh: the job's mesh.
    rules: sharding table.
    ema: above 0, the state holds averaged parameters.
    reference: whether the state keeps the first parameters.

  Returns:
    The state. Arrays already in place are shared, not copied: a step that
    donates the state consumes them.
  """
  abstract = abstract_state(
    jax.eval_shape(lambda: params),
    optimizer,
    mesh,
    rules,
    ema=ema,
    reference=reference,
  )
  placed = state_shardings(abstract)
  params = jax.device_put(params, placed['params'])
  rest = {name: value for name, value in placed.items() if name != 'params'}

  def complete(params):
    state = _assemble(params, optimizer, ema, reference)
    return {name: state[name] for name in rest}

  return {'params': params} | jax.jit(complete, out_shardings=rest)(params)


def _assemble(
  params: Any, optimizer: Optimizer, ema: float, reference: bool
) -> dict[str, Any]:
  state = {
    'params': params,
    'opt_state': optimizer.init(params),
    'step': jnp.zeros((), jnp.int32),
  }
  if ema:
    # The step donates the state, so the average needs its own buffers.
    state['ema'] = jax.tree.map(jnp.copy, params)
  if reference:
    trainable, _ = optimizer.split(params)
    state['reference'] = jax.tree.map(jnp.copy, trainable)
  return state
