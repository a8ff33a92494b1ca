"""Parameters written as an HF-style folder, one tensor at a time.

The header of a safetensors file needs shapes and dtypes only, so it is written
first and every tensor follows on its own: the host never holds more than one.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import jax
import numpy as np
from etils import epath

from vlm.convert.checkpoint import (
  DTYPE_NAMES,
  DTYPES,
  INDEX,
  SINGLE,
  Checkpoint,
  Entry,
)
from vlm.convert.names import table_for
from vlm.convert.plan import Plan, flatten, plan, shapes_of
from vlm.convert.tables import Row

_CHUNK = 4 << 20  # bytes made contiguous and written at once


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor to be written.

  Attributes:
    key: its published name.
    dtype: dtype in the file.
    shape: shape in the file.
    read: returns its value; called once, when its turn comes.
  """

  key: str
  dtype: np.dtype
  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]

  @property
  def nbytes(self) -> int:
    """Bytes in the file."""
    return math.prod(self.shape) * self.dtype.itemsize


def save_params(
  folder: epath.PathLike,
  model: Any,
  params: Any,
  hf_config: dict[str, Any],
  max_shard_bytes: int = 5 << 30,
  dtype: Any = None,
  source: epath.PathLike | None = None,
) -> None:
  """Writes safetensors (with an index if sharded) and `config.json`.

  Without a source, names are those of the published checkpoints and tensors
  that our model does not hold (an unused pooling head, say) are absent. All
  processes must call it; the first one writes.

  Args:
    folder: where to; must not hold weights yet.
    model: the registry model of the parameters.
    params: its parameters, on any sharding.
    hf_config: what becomes `config.json`; its dtype is set to the file's.
    max_shard_bytes: start a new file beyond this.
    dtype: dtype in the file; None keeps that of the source or the parameters.
    source: the checkpoint that the parameters were read from. Its spellings,
      its dtypes and the tensors our model does not use are kept, so that
      untouched weights come out bit-equal and nothing is lost.

  Raises:
    ValueError: if the folder holds weights, or the parameters are not those of
      the model.
  """
  shapes, expected = shapes_of(params), shapes_of(model.abstract_params)
  if shapes != expected:
    wrong = sorted(set(shapes.items()) ^ set(expected.items()))[:5]
    raise ValueError(
      f'params: expected the tree of model.abstract_params, differs at {wrong}'
    )
  if source is None:
    tensors = _own_tensors(model, params, None, dtype)
    write_folder(folder, tensors, hf_config, max_shard_bytes)
    return
  with Checkpoint(source) as checkpoint:
    known = plan(checkpoint, model)
    tensors = _own_tensors(model, params, known, dtype)
    tensors += [_copied(checkpoint, entry) for entry in known.unused]
    write_folder(folder, tensors, hf_config, max_shard_bytes)


def write_folder(
  folder: epath.PathLike,
  tensors: Sequence[Tensor],
  hf_config: dict[str, Any],
  max_shard_bytes: int = 5 << 30,
) -> None:
  """Writes any tensors as an HF-style folder; see `save_params`.

  Raises:
    ValueError: if the folder already holds weights.
  """
  folder = epath.Path(folder)
  if (folder / SINGLE).exists() or (folder / INDEX).exists():
    raise ValueError(
      f'{folder}: already holds weights; remove them or choose another --output'
    )
  shards = list(_shards(tensors, max_shard_bytes))
  names = [SINGLE]
  if len(shards) > 1:
    names = [
      f'model-{i + 1:05}-of-{len(shards):05}.safetensors'
      for i in range(len(shards))
    ]
  writes = jax.process_index() == 0
  if writes:
    folder.mkdir(parents=True, exist_ok=True)
  for name, shard in zip(names, shards):
    _write_file(folder / name if writes else None, shard)
  if not writes:
    return
  (folder / 'config.json').write_text(
    json.dumps(_with_dtype(hf_config, tensors), indent=2) + '\n'
  )
  if len(shards) > 1:
    files = {t.key: name for name, shard in zip(names, shards) for t in shard}
    total = sum(tensor.nbytes for tensor in tensors)
    index = {'metadata': {'total_size': total}, 'weight_map': files}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + '\n')


def _own_tensors(
  model: Any, params: Any, known: Plan | None, dtype: Any
) -> list[Tensor]:
  """Every published tensor of the parameters, in the order of the table."""
  flat = flatten(params)
  tensors = []
  for row in table_for(model).active(shapes_of(params)):
    value = flat[row.ours]
    layers = value.shape[0] if row.stacked else 1
    entries = known.sources[row.ours].entries if known else ()
    keys = [entry.key for entry in entries] or row.keys(0, layers)
    shape = row.transform.published_shape(row.layer_shape(value.shape))
    take = _Layers(value, row)
    for i, key in enumerate(keys):
      kept = DTYPES[entries[i].dtype] if entries else value.dtype
      target = np.dtype(dtype or kept)
      read = lambda take=take, i=i: take(i)
      tensors.append(Tensor(key, target, shape, read))
  return tensors


class _Layers:
  """Brings one layer of a parameter to the host, in the published layout."""

  def __init__(self, value: Any, row: Row):
    self._value, self._row = value, row

  def __call__(self, i: int) -> np.ndarray:
    value = self._value
    if isinstance(value, np.ndarray):
      layer = value[i] if self._row.stacked else value
    elif self._row.stacked:
      layer = _pick(_replicated(value))(value, i)
    elif value.is_fully_addressable:
      layer = value
    else:
      layer = _gather(_replicated(value))(value)
    return self._row.transform.backward(np.asarray(layer))


def _replicated(value: jax.Array) -> jax.sharding.Sharding | None:
  """A sharding that lets every process read all of it from its own devices."""
  if not isinstance(value.sharding, jax.sharding.NamedSharding):
    return None
  spec = jax.sharding.PartitionSpec()
  return jax.sharding.NamedSharding(value.sharding.mesh, spec)


@functools.cache
def _pick(sharding: jax.sharding.Sharding | None) -> Callable:
  take = lambda value, i: jax.lax.dynamic_index_in_dim(value, i, 0, False)
  return jax.jit(take, out_shardings=sharding)


@functools.cache
def _gather(sharding: jax.sharding.Sharding | None) -> Callable:
  return jax.jit(lambda value: value, out_shardings=sharding)


def _copied(checkpoint: Checkpoint, entry: Entry) -> Tensor:
  def read() -> np.ndarray:
    lengths = (*entry.shape, 1, 1)[:2]
    return checkpoint.read(entry, (0, lengths[0]), (0, lengths[1]))

  return Tensor(entry.key, DTYPES[entry.dtype], entry.shape, read)


def _shards(
  tensors: Sequence[Tensor], max_shard_bytes: int
) -> Iterator[list[Tensor]]:
  shard: list[Tensor] = []
  for tensor in tensors:
    size = sum(other.nbytes for other in shard)
    if shard and size + tensor.nbytes > max_shard_bytes:
      yield shard
      shard = []
    shard.append(tensor)
  yield shard


def _write_file(path: epath.Path | None, tensors: list[Tensor]) -> None:
  """Writes one file; with no path only takes part in the gathering."""
  if path is None:
    for tensor in tensors:
      tensor.read()
    return
  # The format asks for 8-byte alignment; large items first keeps all aligned.
  ordered = sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)
  header, at = {'__metadata__': {'format': 'pt'}}, 0
  for tensor in ordered:
    header[tensor.key] = {
      'dtype': DTYPE_NAMES[tensor.dtype],
      'shape': list(tensor.shape),
      'data_offsets': [at, at + tensor.nbytes],
    }
    at += tensor.nbytes
  encoded = json.dumps(header, separators=(',', ':')).encode()
  encoded += b' ' * (-len(encoded) % 8)
  with path.open('wb') as handle:
    handle.write(len(encoded).to_bytes(8, 'little'))
    handle.write(encoded)
    for tensor in ordered:
      _write_tensor(handle, tensor)


def _write_tensor(handle: IO[bytes], tensor: Tensor) -> None:
  value = tensor.read()
  if value.shape != tensor.shape:
    raise ValueError(
      f'{tensor.key!r}: expected shape {tensor.shape}, got {value.shape}'
    )
  rows = value if value.shape else value[None]
  step = max(_CHUNK // max(tensor.nbytes // max(len(rows), 1), 1), 1)
  for start in range(0, len(rows), step):
    part = np.ascontiguousarray(rows[start : start + step], tensor.dtype)
    handle.write(part.tobytes())


def _with_dtype(
  config: dict[str, Any], tensors: Sequence[Tensor]
) -> dict[str, Any]:
  """The config with the dtype that most bytes have, under HF's two names."""
  sizes: dict[str, int] = {}
  for tensor in tensors:
    name = tensor.dtype.name
    sizes[name] = sizes.get(name, 0) + tensor.nbytes
  name = max(sizes, key=sizes.get)
  old = {'torch_dtype': name} if 'torch_dtype' in config else {}
  return config | old | {'dtype': name}
