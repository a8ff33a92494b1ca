"""Safetensors read by slice, straight into the shardings of the parameters.

Every process reads only what its own devices hold, one pass over each tensor.
On the host there is never more than one block, of at most the largest tensor's
size, plus a few megabytes: a stacked parameter that is larger is filled on the
devices, some layers at a time, into a donated buffer.
"""

import dataclasses
import functools
import gc
import math
import mmap
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from vlm.convert.checkpoint import (
  Checkpoint,
  CheckpointError,
  Entry,
  Readable,
)
from vlm.convert.plan import Source, flatten, plan, unflatten

Span = tuple[int, int]  # start, stop
Index = tuple[Span, ...]  # one span per axis of a parameter

_CHUNK = 4 << 20  # bytes of a tensor read at once
_SMALL = 16 << 20  # blocks below this are not worth a compiled update


def load_params(
  folder: epath.PathLike,
  model: Any,
  shardings: Any = None,
  dtype: Any = None,
) -> dict[str, Any]:
  """Reads a published checkpoint into a model's parameters.

  Args:
    folder: local path or gs:// with `model.safetensors`, or with shards and
      their index. Pickled weights are refused.
    model: a registry model built from the folder's `config.json`.
    shardings: tree of `jax.sharding.Sharding` like `model.abstract_params`;
      None puts everything on one device.
    dtype: dtype of the parameters; None takes the model's `param_dtype`.

  Returns:
    Nested dict of arrays, as `model.abstract_params` says.

  Raises:
    CheckpointError: before any parameter is made, if the folder is incomplete
      or does not fit the model; every offending tensor is named.
  """
  with Checkpoint(folder) as checkpoint:
    return read_params(checkpoint, model, shardings, dtype)


def read_params(
  checkpoint: Readable, model: Any, shardings: Any = None, dtype: Any = None
) -> dict[str, Any]:
  """The same from an opened checkpoint.

  Args:
    checkpoint: the tensors.
    model: see `load_params`, as the others.
    shardings: see there.
    dtype: see there.
  """
  abstract = flatten(model.abstract_params)
  if shardings is None:
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = dict.fromkeys(abstract, one)
  else:
    placed = flatten(shardings)
  _check_shardings(abstract, placed)
  planned = plan(checkpoint, model)
  sources = planned.sources
  _check_twins(checkpoint, planned.twins)
  targets = {
    path: Target(leaf.shape, np.dtype(dtype or leaf.dtype), placed[path])
    for path, leaf in abstract.items()
  }
  budget = max(
    _largest(sources[path], target.dtype) for path, target in targets.items()
  )
  return unflatten(
    {
      path: _load(checkpoint, sources[path], target, budget)
      for path, target in targets.items()
    }
  )


@dataclasses.dataclass(frozen=True)
class Target:
  """What a parameter shall become: shape, dtype, sharding."""

  shape: tuple[int, ...]
  dtype: np.dtype
  sharding: jax.sharding.Sharding

  def indices(self) -> dict[jax.Device, Index]:
    """The part each device of this process holds, with explicit bounds."""
    parts = self.sharding.addressable_devices_indices_map(self.shape)
    return {
      device: tuple(
        part.indices(size)[:2] for part, size in zip(index, self.shape)
      )
      for device, index in parts.items()
    }


def _check_shardings(abstract: dict, placed: dict) -> None:
  if abstract.keys() != placed.keys():
    wrong = sorted(abstract.keys() ^ placed.keys())
    raise ValueError(
      f'shardings: expected the tree of model.abstract_params, differs at '
      f'{wrong[:5]}'
    )


def _check_twins(
  checkpoint: Readable, twins: Sequence[tuple[Entry, Entry]]
) -> None:
  """Refuses a tied model where the weights say that it is not.

  transformers 5 writes `tie_word_embeddings: true` for whole VLMs whose class
  has it as its default (InternVL), whatever the weights are. A look at the
  first rows tells: they are equal or they are two trained matrices.
  """
  for twin, kept in twins:
    rows, columns = (0, min(twin.shape[0], 64)), (0, twin.shape[1])
    if twin.shape != kept.shape or not np.array_equal(
      checkpoint.read(twin, rows, columns), checkpoint.read(kept, rows, columns)
    ):
      raise CheckpointError(
        f'{checkpoint.folder}: config.json ties the head to the embedding, but '
        f'{twin.key!r} differs from {kept.key!r}; set tie_word_embeddings to '
        'false in config.json, also under text_config'
      )


def _largest(source: Source, dtype: np.dtype) -> int:
  """Bytes of the parameter's largest tensor, on disk or as it will be."""
  on_disk = max(entry.end - entry.begin for entry in source.entries)
  return max(on_disk, math.prod(source.layer_shape) * dtype.itemsize)


def _load(
  checkpoint: Readable, source: Source, target: Target, budget: int
) -> jax.Array:
  """One parameter, whole or filled on the devices within the budget."""
  indices = target.indices()
  parts = set(indices.values())
  size = sum(_size(part) for part in parts) * target.dtype.itemsize
  if size <= max(budget, _SMALL) or not source.row.stacked:
    blocks = read_blocks(checkpoint, source, parts, target.dtype)
    return _assemble(target, indices, blocks)
  layers = {part[0] for part in parts}
  if layers != {(0, target.shape[0])}:
    return _load_by_shard(checkpoint, source, target, indices)
  step = budget * target.shape[0] // (2 * size)
  return _fill(checkpoint, source, target, max(step, 1))


def _load_by_shard(
  checkpoint: Readable,
  source: Source,
  target: Target,
  indices: dict[jax.Device, Index],
) -> jax.Array:
  """One shard at a time, where the layer axis itself is sharded."""
  arrays = {}
  for part in set(indices.values()):
    block = read_blocks(checkpoint, source, [part], target.dtype)[part]
    for device, index in indices.items():
      if index == part:
        arrays[device] = jax.device_put(block, device)
    del block
    _settle(list(arrays.values()))
  return jax.make_array_from_single_device_arrays(
    target.shape, target.sharding, [arrays[device] for device in indices]
  )


def _fill(
  checkpoint: Readable, source: Source, target: Target, step: int
) -> jax.Array:
  """Some layers at a time into a donated buffer on the devices."""
  buffer = _zeros(target)()
  write = _write_layers(target.sharding)
  for start in range(0, target.shape[0], step):
    entries = source.entries[start : start + step]
    some = dataclasses.replace(target, shape=(len(entries), *target.shape[1:]))
    indices = some.indices()
    blocks = read_blocks(
      checkpoint,
      dataclasses.replace(source, entries=entries),
      set(indices.values()),
      target.dtype,
    )
    block = _assemble(some, indices, blocks)
    del blocks
    buffer = write(buffer, block, start)
    del block
    _settle(buffer)
  return buffer


@functools.cache
def _zeros(target: Target) -> Callable[[], jax.Array]:
  make = lambda: jnp.zeros(target.shape, target.dtype)
  return jax.jit(make, out_shardings=target.sharding)


@functools.cache
def _write_layers(sharding: jax.sharding.Sharding) -> Callable:
  def write(buffer, block, layer):
    return jax.lax.dynamic_update_slice_in_dim(buffer, block, layer, axis=0)

  return jax.jit(write, out_shardings=sharding, donate_argnums=0)


def _assemble(
  target: Target,
  indices: dict[jax.Device, Index],
  blocks: dict[Index, np.ndarray],
) -> jax.Array:
  arrays = [
    jax.device_put(blocks[index], device) for device, index in indices.items()
  ]
  _settle(arrays)
  return jax.make_array_from_single_device_arrays(
    target.shape, target.sharding, arrays
  )


def _settle(arrays: Any) -> None:
  """Waits until transfers no longer need their blocks on the host."""
  jax.block_until_ready(arrays)
  # JAX lets go of buffers it has borrowed in a hook of Python's collector.
  gc.collect(0)


def _size(index: Index) -> int:
  return math.prod(stop - start for start, stop in index)


def _empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
  """An uninitialised array in pages of its own.

  The page boundary suits XLA's CPU client, which then takes the buffer without
  a copy, and the pages go back to the system at once, where the allocator of
  the process would keep large freed blocks.
  """
  size = math.prod(shape) * dtype.itemsize
  return np.frombuffer(
    mmap.mmap(-1, max(size, 1)), dtype, math.prod(shape)
  ).reshape(shape)


def read_blocks(
  checkpoint: Readable,
  source: Source,
  parts: Collection[Index],
  dtype: np.dtype,
) -> dict[Index, np.ndarray]:
  """Reads parts of one parameter, each published byte at most once.

  Args:
    checkpoint: the opened folder.
    source: the parameter's tensors.
    parts: wanted (start, stop) per axis of the parameter.
    dtype: dtype of the result.

  Returns:
    An array per part, in our layout.
  """
  blocks = {
    part: _empty([stop - start for start, stop in part], dtype)
    for part in parts
  }
  for layer, entry in enumerate(source.entries):
    wanted = []
    for part, block in blocks.items():
      if not source.row.stacked:
        wanted.append((part, block))
      elif part[0][0] <= layer < part[0][1]:
        wanted.append((part[1:], block[layer - part[0][0]]))
    if wanted:
      _read_layer(checkpoint, source, entry, wanted)
  return blocks


def _read_layer(
  checkpoint: Readable,
  source: Source,
  entry: Entry,
  wanted: list[tuple[Index, np.ndarray]],
) -> None:
  """Copies one published tensor into the blocks that want parts of it.

  The first letter of a published axis is cut in the file, the others (the head
  dimension inside a row of heads, say) in memory.
  """
  transform = source.row.transform
  if not transform.axes:
    for _, block in wanted:
      block[...] = checkpoint.read(entry, (0, 1), (0, 1))
    return
  sizes = transform.sizes(source.layer_shape)
  lead, *cross = [group[0] for group in transform.groups][:2]
  cuts = [dict(zip(transform.axes, index)) for index, _ in wanted]
  unit = entry.shape[0] // sizes[lead]
  hull, columns = {}, (0, 1)
  for axis in cross:
    hull[axis] = _hull([cut[axis] for cut in cuts])
    width = entry.shape[1] // sizes[axis]
    columns = (hull[axis][0] * width, hull[axis][1] * width)
  step = max(_CHUNK * sizes[lead] // max(entry.end - entry.begin, 1), 1)
  for start, stop in _steps([cut[lead] for cut in cuts], step):
    data = checkpoint.read(entry, (start * unit, stop * unit), columns)
    have = {axis: (0, size) for axis, size in sizes.items()}
    have |= hull | {lead: (start, stop)}
    ours = transform.forward(
      data, {axis: stop - start for axis, (start, stop) in have.items()}
    )
    for cut, (_, block) in zip(cuts, wanted):
      _copy_overlap(ours, have, block, cut)


def _copy_overlap(
  source: np.ndarray, have: dict[str, Span], block: np.ndarray, cut: dict
) -> None:
  """Copies what `source` (spans `have`) and `block` (spans `cut`) share."""
  take, put = [], []
  for axis, (start, stop) in cut.items():
    low, high = max(start, have[axis][0]), min(stop, have[axis][1])
    if low >= high:
      return
    take.append(slice(low - have[axis][0], high - have[axis][0]))
    put.append(slice(low - start, high - start))
  block[tuple(put)] = source[tuple(take)]


def _hull(spans: list[Span]) -> Span:
  return min(start for start, _ in spans), max(stop for _, stop in spans)


def _steps(spans: list[Span], step: int) -> Iterator[Span]:
  """Covers the union of the spans in steps, nothing twice."""
  at = 0
  for start, stop in sorted(spans):
    at = max(at, start)
    while at < stop:
      end = min(at + step, stop)
      yield at, end
      at = end
