"""Host batches become global arrays, split over ('data', 'fsdp') on axis 0."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vlm.sharding.mesh import BATCH_AXES

# What a vision-language model reads. Dimensions: B rows, T tokens, I images or
# tiles, S pixels of a side, M visual tokens, K taps of a resampling.
SCHEMA = {
  'tokens': ('B T', ('int32',)),
  'segment_ids': ('B T', ('int32',)),
  'positions': ('B T', ('int32',)),
  'loss_mask': ('B T', ('float32',)),
  'pixels': ('B I S S 3', ('uint8', 'float32')),
  'plan/index': ('B M K', ('int32',)),
  'plan/weight': ('B M K', ('float32',)),
  'plan/valid': ('B M', ('bool',)),
  'plan/grid': ('B M 3', ('int32',)),
}


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


def check(
  batch: Mapping, rows: int, schema: Mapping[str, tuple] = SCHEMA
) -> None:
  """Checks the first host batch of a run against what the step will read.

  Args:
    batch: nested dict of numpy arrays (this process's share).
    rows: expected length of every leading axis.
    schema: path -> (dimension names, dtypes); a name has one size throughout
      the batch, a number is that size. Keys it does not list only need `rows`.

  Raises:
    ValueError: naming key, expected and got.
  """
  sizes: dict[str, tuple[int, str]] = {
    'B': (rows, "this process's share of --config.batch_size")
  }
  for path, array in _items(device_part(batch)):
    if not isinstance(array, np.ndarray | jax.Array):
      raise ValueError(
        f'batch[{path!r}]: expected an array, got {type(array).__name__}; '
        "keys that stay on the host start with '_'"
      )
    if array.dtype.kind not in 'biuf' and array.dtype.name != 'bfloat16':
      raise ValueError(
        f'batch[{path!r}]: dtype {array.dtype} has no place on '
        "a device; keys that stay on the host start with '_'"
      )
    names, dtypes = schema.get(path, ('B', (array.dtype.name,)))
    if array.dtype.name not in dtypes:
      raise ValueError(
        f'batch[{path!r}]: expected dtype {" or ".join(dtypes)}, got '
        f'{array.dtype}'
      )
    _check_shape(path, array.shape, names.split(), path in schema, sizes)


def _check_shape(path, shape, names, whole: bool, sizes) -> None:
  """Binds dimension names to sizes, or says which one disagrees."""
  if len(shape) != len(names) if whole else len(shape) < len(names):
    raise ValueError(
      f'batch[{path!r}]: expected axes [{" ".join(names)}], got shape '
      f'{tuple(shape)}'
    )
  for name, size in zip(names, shape):
    known = (int(name), 'fixed') if name.isdigit() else sizes.get(name)
    if known is None:
      sizes[name] = (size, f'batch[{path!r}]')
    elif known[0] != size:
      raise ValueError(
        f'batch[{path!r}]: axis {name} expected {known[0]} ({known[1]}), got '
        f'{size} in shape {tuple(shape)}'
      )


def _items(tree: Mapping, prefix: str = '') -> Iterator[tuple[str, Any]]:
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from _items(value, f'{prefix}{key}/')
    else:
      yield prefix + key, value
