"""Layers as one array per layer, kernels with their outputs first.

Training keeps layers stacked, for one compiled body. A decode step is bound by
reading weights, and slicing a layer off a stack copies it: on a CPU that alone
doubles the time of a step. So whoever generates many tokens pays for the copies
once (`Runtime(unroll=True)` asks for it; see `vlm.rollout.sampler.prepare`).
"""

import math
from typing import Any

import jax
from flax import nnx

from vlm.models.functional import Params
from vlm.models.layers import Einsum, OutputsFirst


def unstack(layers: nnx.Module, depth: int) -> Params:
  """Tuples of per-layer arrays for `functional.scan`.

  Args:
    layers: the stacked layers, with their parameters.
    depth: how many.

  Returns:
    Their parameters, each a tuple of `depth` arrays; kernels of `Einsum` are
    `OutputsFirst`, in the compute dtype.
  """
  modules = {
    path: module
    for path, module in nnx.iter_modules(layers)
    if isinstance(module, Einsum)
  }

  def split(key_path: tuple, leaf: jax.Array) -> tuple[Any, ...]:
    path = tuple(key.key for key in key_path)
    parts = tuple(leaf[layer] for layer in range(depth))
    module = modules.get(path[:-1])
    if module is None or path[-1] != 'kernel':
      return parts
    return tuple(_outputs_first(module, part) for part in parts)

  params = nnx.to_pure_dict(nnx.state(layers, nnx.Param))
  return jax.tree_util.tree_map_with_path(split, params)


def _outputs_first(module: Einsum, kernel: jax.Array) -> OutputsFirst:
  left, right = module.equation.split('->')
  axes = left.split(',')[1]
  inputs = sum(axis not in right for axis in axes)
  if any(axis not in right for axis in axes[inputs:]):
    raise ValueError(f'{module.equation}: the summed axes do not come first')
  outputs = kernel.shape[inputs:]
  flat = kernel.reshape(-1, math.prod(outputs)).T
  return OutputsFirst(flat.astype(module.dtype), inputs, outputs)
