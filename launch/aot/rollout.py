"""Compiles the sampler's two programs for a TPU slice that is not there.

`prefill` encodes a batch of prompts with their images and draws a first token;
`decode` is the loop that draws the others. They are the functions that
`vlm.rollout.sampler.sample` runs, lowered from shapes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from launch.aot import programs, verdict
from launch.objectives.rl import ROLLOUT_MESH
from launch.pods import topologies
from vlm.models import flops
from vlm.rollout import decoding
from vlm.rollout.settings import Sampling
from vlm.sharding.mesh import batch_shards
from vlm.sharding.rules import DEFAULT_RULES

STEPS = ('prefill', 'decode')
_DECODED = ('decoder', 'head')  # the parts a new token goes through


@dataclasses.dataclass(frozen=True)
class Rollout:
  """A batch of prompts to be continued, as shapes.

  Attributes:
    model: from `vlm.models.registry.build`.
    batch: nested dict of ShapeDtypeStruct: prompts, padded on the left.
    mesh: mapping with `data`, `fsdp`, `tensor`.
    samples: continuations of each prompt.
    new_tokens: longest continuation.
    rows_flag: what a person sets the number of prompts with.
    rules: sharding table.
  """

  model: Any
  batch: dict[str, Any]
  mesh: Any
  samples: int
  new_tokens: int
  rows_flag: str
  rules: Any = DEFAULT_RULES

  mesh_flag: ClassVar[str] = ROLLOUT_MESH
  # One microbatch; see `programs.Work`.
  accumulate: int = dataclasses.field(default=1, init=False)

  @property
  def counted(self) -> dict[str, Any]:
    """The shapes that reports are about."""
    return self.batch


def compile_step(
  step: str,
  work: Rollout,
  wanted: topologies.Slice,
  *,
  log: Callable[[str], None] = print,
) -> verdict.Report:
  """Compiles 'prefill' or 'decode'.

  Args:
    step: which.
    work: the prompts.
    wanted: the slice to compile for.
    log: gets a line of progress now and then.

  Returns:
    The report; that of 'decode' counts one token of every sample.

  Raises:
    ValueError: when mesh, batch and parameters do not divide, naming the flag.
  """
  mesh = programs.mesh_of(work, wanted)
  arguments = _prefill_arguments(work, mesh)
  lower = lambda: _lower_prefill(work, mesh, arguments)
  if step == 'decode':
    prefix, state = _begun(work, mesh, arguments)
    arguments = {
      'params': arguments['params'],
      'prefix': prefix,
      'state': state,
    }
    lower = lambda: _lower_decode(work, mesh, arguments)
  return programs.compile_lowered(
    step, work, wanted, mesh, lower, arguments, _counts(step, work, mesh), log
  )


def _settings(work: Rollout) -> Sampling:
  return Sampling(work.new_tokens, (0,), temperature=1.0).compiled()


def _prefill_arguments(work: Rollout, mesh: Mesh) -> dict[str, Any]:
  params = programs.abstract_params(work, mesh)
  rows = work.batch['tokens'].shape[0]
  seeds = jax.ShapeDtypeStruct((rows,), jnp.uint32)
  batch = programs.placed(work.batch | {'seeds': seeds}, mesh)
  return {'params': params, 'seeds': batch.pop('seeds'), 'batch': batch}


def _lower_prefill(work: Rollout, mesh: Mesh, arguments: dict[str, Any]):
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    return decoding.prefill.lower(
      work.model,
      arguments['params'],
      arguments['batch'],
      arguments['seeds'],
      None,
      settings=_settings(work),
      samples=work.samples,
      length=work.new_tokens,
      unstacked=False,
    )


def _begun(work: Rollout, mesh: Mesh, arguments: dict[str, Any]):
  """Shapes of what prefill hands to decode, sharded as decode wants them."""
  lowered = _lower_prefill(work, mesh, arguments)
  prefix, state = lowered.out_info
  kv = 'tensor' if _heads_divide(work, mesh) else None

  def place(path: tuple, leaf: Any) -> jax.ShapeDtypeStruct:
    first, last = path[0].key, path[-1].key
    spec = [None] * len(leaf.shape)
    layered = last in ('prefix_k', 'prefix_v') or first == 'cache'
    if len(leaf.shape) > layered:
      spec[int(layered)] = ('data', 'fsdp')
    if last in ('prefix_k', 'prefix_v'):
      spec[2] = kv  # [L, B, K, P, H]
    elif first == 'cache' and len(leaf.shape) == 6:
      spec[3] = kv  # [L, B, n, K, G, H]
    sharding = jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec(*spec)
    )
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  map_paths = jax.tree_util.tree_map_with_path
  return map_paths(place, prefix), map_paths(place, state)


def _heads_divide(work: Rollout, mesh: Mesh) -> bool:
  heads = work.model.decoder_config.kv_heads
  return heads % mesh.shape['tensor'] == 0


def _lower_decode(work: Rollout, mesh: Mesh, arguments: dict[str, Any]):
  rows = work.batch['tokens'].shape[0]
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    return decoding.decode.lower(
      work.model,
      arguments['params'],
      arguments['prefix'],
      arguments['state'],
      jax.ShapeDtypeStruct((rows, work.samples), jnp.bool_),
      jax.ShapeDtypeStruct((), jnp.int32),
      None,
      settings=_settings(work),
    )


def _decoded(work: Rollout) -> dict[str, Any]:
  """The batch, with rows as long as they are on average in the decoder."""
  model, (rows, _) = work.model, work.batch['tokens'].shape
  early, late = model.lengths(work.batch)
  depth = model.decoder_config.depth
  cut = model.prune.layer if model.prune else depth
  mean = round((early * cut + late * (depth - cut)) / depth)
  return work.batch | {'tokens': jax.ShapeDtypeStruct((rows, mean), jnp.int32)}


def _counts(step: str, work: Rollout, mesh: Mesh) -> dict[str, float]:
  """FLOPs and bytes of one prefill, or of one token of every sample."""
  config, batch = work.model.config, _decoded(work)
  rows, length = batch['tokens'].shape
  found = flops.blocks(config, batch)
  ways, tensor = batch_shards(mesh), mesh.shape['tensor']
  if step == 'prefill':
    total = sum(
      block.count * block.forward / (length if block.part == 'head' else 1)
      for block in found
    )
    moved = flops.hbm_bytes(
      config, batch, batch_ways=ways, tensor_ways=tensor, remat='none',
      train=False,
    )  # fmt: skip
    return {'model_flops': total, 'hardware_flops': total, 'hbm_bytes': moved}
  decoder = work.model.decoder_config
  weights = sum(b.count * b.weights for b in found if b.part in _DECODED)
  tokens = rows * work.samples
  heads = decoder.depth * decoder.head_dim
  own = work.new_tokens / 2  # on average, while the samples grow
  attention = 4 * tokens * (length + own) * heads * decoder.heads
  total = 2 * tokens * weights + attention
  held = rows * length + tokens * own
  kv = tensor if _heads_divide(work, mesh) else 1
  cache = 2 * held * heads * decoder.kv_heads / (ways * kv)
  moved = 2.0 * (weights / tensor + cache)  # bfloat16
  return {'model_flops': total, 'hardware_flops': total, 'hbm_bytes': moved}
