"""Names for the axes of activations; a no-op where there is no mesh.

Models say what an axis is ('batch', 'heads', 'ffn', 'vocab'); this file alone
knows which mesh axes that means. An axis that does not divide stays whole: the
parameter rules have already refused or reported such a mesh at start.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

LOGICAL = {
  'batch': ('data', 'fsdp'),
  'rows': ('data',),
  'width': ('fsdp',),
  'heads': ('tensor',),
  'ffn': ('tensor',),
  'vocab': ('tensor',),
}


def context_mesh() -> jax.sharding.AbstractMesh | None:
  """The mesh set by `jax.set_mesh`, or None outside one."""
  mesh = jax.sharding.get_abstract_mesh()
  return None if mesh.empty else mesh


def spec(shape: tuple[int, ...], names: tuple[str | None, ...]):
  """PartitionSpec of an activation under the mesh in context.

  Args:
    shape: the activation's shape.
    names: one logical name or None per axis.

  Returns:
    A PartitionSpec in which axes that do not divide are None.
  """
  mesh = context_mesh()
  entries = []
  for size, name in zip(shape, names, strict=True):
    axes = [a for a in LOGICAL.get(name, ()) if a in mesh.shape]
    ways = math.prod(mesh.shape[a] for a in axes)
    entries.append(tuple(axes) if axes and size % ways == 0 else None)
  return PartitionSpec(*entries)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """Pins an activation's sharding by logical axis names.

  Args:
    x: array with as many axes as `names`.
    *names: keys of `LOGICAL` or None.

  Returns:
    `x`, constrained when an automatic mesh is in context.
  """
  mesh = context_mesh()
  if mesh is None or AxisType.Manual in mesh.axis_types:
    return x
  return jax.lax.with_sharding_constraint(x, spec(x.shape, names))


def over_batch(run: Callable, *arrays: Any) -> Any:
  """Runs a function that treats rows alike on each shard's own rows.

  The compiler cannot divide a Pallas kernel over a mesh, nor does it know that
  what is sorted or gathered within a row needs no other. No-op without a mesh.

  Args:
    run: of arrays with a leading batch axis, or None, giving such arrays.
    *arrays: what it takes; batch sizes that do not divide stay whole.
  """
  mesh = context_mesh()
  if mesh is None or AxisType.Manual in mesh.axis_types:
    return run(*arrays)
  rows = PartitionSpec(spec(arrays[0].shape[:1], ('batch',))[0])
  run = jax.shard_map(run, in_specs=rows, out_specs=rows, check_vma=False)
  return run(*arrays)
