"""Host batches become global arrays, split over ('data', 'fsdp') on axis 0."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vlm.sharding.mesh import BATCH_AXES


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Sharding of every array of a batch: rows over data and fsdp."""
  return NamedSharding(mesh, P(BATCH_AXES))


def device_part(batch: Mapping) -> dict[str, Any]:
  """Drops the keys that stay on the host (those starting with '_')."""
  return {
    key: device_part(value) if isinstance(value, Mapping) else value
    for key, value in batch.items()
    if not key.startswith('_')
  }


def to_global(batch: Mapping, mesh: Mesh) -> dict[str, Any]:
  """Moves this process's rows to its devices.

  Args:
    batch: nested dict of numpy arrays holding this process's share of the rows;
      keys starting with '_' stay behind.
    mesh: the job's mesh.

  Returns:
    The same tree of global `jax.Array`s, sharded over ('data', 'fsdp').
  """
  sharding = batch_sharding(mesh)
  if jax.process_count() == 1:  # one call for all arrays takes half the time
    return jax.device_put(device_part(batch), sharding)
  return jax.tree.map(
    lambda array: jax.make_array_from_process_local_data(
      sharding, np.asarray(array)
    ),
    device_part(batch),
  )


def microbatches(array: jax.Array, count: int, mesh: Any = None) -> jax.Array:
  """[B, ...] -> [count, B / count, ...], no row changing device.

  Microbatch i takes rows i, i + count, ...: each device's block of rows is
  dealt out evenly.

  Args:
    array: rows, spread over ('data', 'fsdp') of the mesh.
    count: number of microbatches.
    mesh: the job's, concrete or abstract; None on one device.

  Raises:
    ValueError: when the rows do not divide, naming the flag.
  """
  rows = array.shape[0]
  if rows % count:
    raise ValueError(
      f'a batch of {rows} rows does not split into --config.accumulate='
      f'{count} microbatches'
    )
  array = array.reshape(rows // count, count, *array.shape[1:])
  return _pinned(jnp.moveaxis(array, 1, 0), mesh, P(None, BATCH_AXES))


def rejoined(pieces: jax.Array, mesh: Any = None) -> jax.Array:
  """The inverse of `microbatches`: [count, B / count, ...] -> [B, ...]."""
  array = jnp.moveaxis(pieces, 0, 1)
  return _pinned(array.reshape(-1, *array.shape[2:]), mesh, P(BATCH_AXES))


def _pinned(array: jax.Array, mesh: Any, spec: P) -> jax.Array:
  if mesh is None:
    return array
  return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, spec))
