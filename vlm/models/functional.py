"""A model as a description plus pure functions of a dict of arrays.

NNX modules describe the computation; parameters live outside, in a pure nested
dict that crosses every jit boundary (measured: 2-7 times less overhead per step
than carrying NNX objects).
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vlm.models.lora import Lora

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Runtime:
  """How a model is executed; never a fact of the checkpoint.

  Attributes:
    dtype: compute dtype; norms, softmax and rope stay in float32.
    param_dtype: dtype in which parameters are stored.
    remat: 'none' keeps every activation, 'block' recomputes whole layers in the
      backward pass, 'dots' keeps matrix products and recomputes the rest.
    attention: 'xla', 'splash' (TPU kernel) or 'auto' (splash on TPU).
    lora: adapters beside some kernels.
    unroll: write the layers out instead of looping over them; a fifth faster
      for two small layers on a CPU, and slow to compile for many.
  """

  dtype: str = 'float32'
  param_dtype: str = 'float32'
  remat: str = 'none'
  attention: str = 'auto'
  unroll: bool = False
  lora: Lora | None = None

  def __post_init__(self):
    for name, allowed in (
      ('remat', ('none', 'block', 'dots')),
      ('attention', ('auto', 'xla', 'splash')),
    ):
      if getattr(self, name) not in allowed:
        raise ValueError(
          f'runtime.{name}={getattr(self, name)!r}, expected one of {allowed}; '
          f'set --config.runtime.{name}'
        )


class Description:
  """An NNX module's structure, without arrays.

  Args:
    build: makes the module from `nnx.Rngs`; called abstractly.
    lora: adapters to add to it.

  Raises:
    ValueError: adapters for which the module has no place.
  """

  def __init__(
    self, build: Callable[[nnx.Rngs], nnx.Module], lora: Lora | None = None
  ):
    self._build = build if lora is None else _with_lora(build, lora)
    module = nnx.eval_shape(lambda: self._build(nnx.Rngs(0)))
    self._graphdef, self._state = nnx.split(module, nnx.Param)
    self.abstract_params: Params = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
      nnx.to_pure_dict(self._state),
    )

  def init(self, key: jax.Array) -> Params:
    """Draws parameters; wrap in `jax.jit` with shardings for large models."""
    return nnx.to_pure_dict(nnx.state(self._build(nnx.Rngs(key)), nnx.Param))

  def bind(self, params: Params) -> Any:
    """Returns the module holding `params`, for use inside one trace."""
    state = jax.tree.map(lambda leaf: leaf, self._state)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(self._graphdef, state)


class Model:
  """A model as pure functions of its parameters.

  A family sets `modules`, the NNX module that holds them; it is made of a
  config, a `Runtime` and `nnx.Rngs`.

  Args:
    config: facts of the checkpoint.
    runtime: execution choices.
  """

  modules: type[nnx.Module]

  def __init__(self, config: Any, runtime: Runtime):
    self.config, self.runtime = config, runtime
    self._description = Description(
      lambda rngs: self.modules(config, runtime, rngs), runtime.lora
    )
    self.abstract_params = self._description.abstract_params

  def init(self, key: jax.Array) -> Params:
    """Draws parameters."""
    return self._description.init(key)


def _with_lora(build: Callable, lora: Lora) -> Callable:
  def adapted(rngs: nnx.Rngs) -> nnx.Module:
    module, found = build(rngs), False
    for path, layer in nnx.iter_modules(module):
      name = '/'.join(map(str, path))
      if hasattr(layer, 'add_lora') and re.fullmatch(lora.targets, name):
        layer.add_lora(lora, rngs)
        found = True
    if not found:
      raise ValueError(
        f'lora targets {lora.targets!r} match no layer of the model; set '
        '--config.model.lora.targets'
      )
    return module

  return adapted


def stack(build: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs):
  """Builds `count` equal layers whose parameters share a leading axis."""
  keys = jax.random.split(rngs.params(), count)
  return nnx.vmap(lambda key: build(nnx.Rngs(key)))(keys)


def part(layers: nnx.Module, start: int, stop: int) -> nnx.Module:
  """Layers start to stop of a stack, as a stack; copies their parameters."""
  graphdef, state = nnx.split(layers)
  return nnx.merge(graphdef, jax.tree.map(lambda x: x[start:stop], state))


POLICIES = {
  'block': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def scan(
  layers: nnx.Module,
  apply: Callable,
  carry: Any,
  xs: Any,
  runtime: Runtime,
  part: tuple[int, int] | None = None,
):
  """Runs stacked layers one after another under `lax.scan`.

  Args:
    layers: module whose parameters have a leading layer axis, or are tuples
      with one entry per layer (see unstacked.py).
    apply: `(layer, carry, x) -> (carry, y)`.
    carry: what flows through the layers.
    xs: per-layer inputs with a leading layer axis, or None; tuples where the
      parameters are. Of the layers that run, where these are a part.
    runtime: says what is recomputed, and whether the loop is written out.
    part: (start, stop), run these layers only, without copying them. Not for
      training: the gradient of every layer would be as large as the stack.

  Returns:
    The last carry and the stacked outputs, or tuples of them.
  """
  graphdef, state = nnx.split(layers)
  if depth := _unstacked_depth(state):
    return _each(graphdef, state, apply, carry, xs, part or (0, depth))
  layer = lambda given: given
  if part is not None:
    stack, state = state, jnp.arange(*part)
    at = jax.lax.dynamic_index_in_dim
    layer = lambda number: jax.tree.map(
      lambda leaf: at(leaf, number, keepdims=False), stack
    )

  def body(carry, x):
    given, x = x
    return apply(nnx.merge(graphdef, layer(given)), carry, x)

  if runtime.remat != 'none':
    # Inside a loop nothing can be merged across the barrier anyway.
    body = jax.checkpoint(
      body, policy=POLICIES[runtime.remat], prevent_cse=runtime.unroll
    )
  return jax.lax.scan(body, carry, (state, xs), unroll=runtime.unroll)


def _unstacked_depth(state: Any) -> int:
  """Layers, where parameters are tuples of one entry per layer, else 0."""
  is_tuple = lambda leaf: isinstance(leaf, tuple)
  first = jax.tree.leaves(state, is_leaf=is_tuple)[0]
  return len(first) if is_tuple(first) else 0


def _each(graphdef, state, apply, carry, xs, part) -> tuple[Any, Any]:
  """Runs unstacked layers one after another; outputs are tuples."""
  is_tuple = lambda leaf: isinstance(leaf, tuple)
  pick = lambda tree, i: jax.tree.map(lambda t: t[i], tree, is_leaf=is_tuple)
  start, stop = part
  ys = []
  for layer in range(start, stop):
    block = nnx.merge(graphdef, pick(state, layer))
    carry, y = apply(block, carry, pick(xs, layer - start))
    ys.append(y)
  return carry, jax.tree.map(lambda *parts: parts, *ys)
