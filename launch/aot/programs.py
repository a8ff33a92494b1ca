"""Compiles the real steps for a TPU slice that is not there.

From shapes alone: the state and the batch are ShapeDtypeStructs with shardings
on an abstract topology, lowered through the very functions that train. The
compiler then says whether they fit, and the compiled program says what every
chip holds and what it sends.
"""

import contextlib
import dataclasses
import resource
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
from jax.sharding import AbstractMesh, Mesh

from launch.aot import hlo
from launch.aot.verdict import Memory, Report
from launch.pods import topologies
from vlm.models import flops
from vlm.sharding import mesh as mesh_lib
from vlm.sharding.batch import batch_sharding
from vlm.sharding.mesh import batch_shards
from vlm.sharding.rules import DEFAULT_RULES, flatten, match, shardings, specs
from vlm.train.optimizer import Optimizer
from vlm.train.state import abstract_state, state_shardings
from vlm.train.step import Absorb, Objective, make_eval_step, make_step

# Parts of `vlm.models.flops` and the parameters that must all be frozen for a
# part to need no gradients.
PARTS = (
  ('vision', r'vision/.*'),
  ('text', r'text/.*'),
  ('projector', r'projector/.*'),
  ('decoder', r'decoder/layers/.*'),
  ('head', r'decoder/(head|embed)/.*'),
)
# Steps that take a batch in microbatches.
ACCUMULATED = 'train', 'logprobs'
# Enough to compile what does not fit, in order to see what it would hold.
UNBOUNDED = 64


@dataclasses.dataclass(frozen=True)
class Work:
  """A training job as shapes.

  Attributes:
    model: from `vlm.models.registry.build`.
    objective: see `vlm.train.step`.
    optimizer: see `vlm.train.optimizer`.
    batch: nested dict of ShapeDtypeStruct, the global batch of one step.
    mesh: mapping with `data`, `fsdp`, `tensor`.
    accumulate: microbatches per step.
    cached: the objective makes them itself, and embeds each twice.
    ema: decay of averaged parameters, 0 for none.
    reference: whether the state keeps the first parameters.
    seen: what goes through the model, as `flops.blocks` counts it, where that
      is not the batch.
    absorb: how frozen parameters follow a step, see `make_step`.
    rules: sharding table.
  """

  model: Any
  objective: Objective
  optimizer: Optimizer
  batch: dict[str, Any]
  mesh: Any
  accumulate: int = 1
  cached: bool = False
  ema: float = 0.0
  reference: bool = False
  seen: dict[str, Any] | None = None
  absorb: Absorb | None = None
  rules: Any = DEFAULT_RULES

  # What a person sets `mesh` and the rows of `batch` with.
  mesh_flag: ClassVar[str] = mesh_lib.FLAG
  rows_flag: ClassVar[str] = '--config.batch_size'

  @property
  def counted(self) -> dict[str, Any]:
    """The shapes that reports are about."""
    return self.seen or self.batch

  @property
  def frozen(self) -> tuple[str, ...]:
    """Parts of the model without gradients."""
    paths = [path for path, _ in flatten(self.model.abstract_params)]
    named = []
    for part, pattern in PARTS:
      held = [path for path in paths if match(path, ((pattern, True),))]
      if held and self.optimizer.frozen.issuperset(held):
        named.append(part)
    return tuple(named)


def check(work: Any, wanted: topologies.Slice) -> None:
  """Refuses in seconds what would not compile, and needs no compiler.

  Args:
    work: a `Work`, or a `rollout.Rollout`.
    wanted: the slice to compile for.

  Raises:
    ValueError: when mesh, batch and parameters do not divide, naming the flag.
  """
  flag = work.mesh_flag
  shape = mesh_lib.MeshShape.of(work.mesh, flag).resolve(wanted.chips, flag)
  sizes = shape.dcn_data * shape.data, shape.fsdp, shape.tensor
  mesh = AbstractMesh(sizes, mesh_lib.AXES)
  rows = jax.tree.leaves(work.batch)[0].shape[0]
  mesh_lib.check_batch_size(mesh, rows, work.accumulate, work.rows_flag)
  specs(mesh, work.model.abstract_params, work.rules, flag)


def mesh_of(work: Any, wanted: topologies.Slice) -> Mesh:
  """The mesh of a job over a slice that is not there, checked.

  Takes and raises what `check` does.
  """
  check(work, wanted)
  devices = topologies.abstract_devices(wanted)
  return mesh_lib.make_mesh(work.mesh, devices, work.mesh_flag)


def compile_train(
  work: Work,
  wanted: topologies.Slice,
  *,
  limit: int | None = None,
  options: dict[str, Any] | None = None,
  log: Callable[[str], None] = print,
) -> Report:
  """Compiles the training step: real optimiser, donated state.

  Args:
    work: the job.
    wanted: the slice to compile for.
    limit: bytes of HBM to allow; the chip's by default.
    options: options of the compiler.
    log: gets a line of progress now and then.

  Returns:
    The report; `fits` is False when the compiler refuses for lack of HBM.

  Raises:
    ValueError: when mesh, batch and parameters do not divide, naming the flag.
    jax.errors.JaxRuntimeError: for any other refusal of the compiler.
  """
  mesh = mesh_of(work, wanted)
  state = abstract_state(
    work.model.abstract_params,
    work.optimizer,
    mesh,
    work.rules,
    ema=work.ema,
    reference=work.reference,
  )
  step = make_step(
    work.objective,
    work.optimizer,
    mesh=mesh,
    state_shardings=state_shardings(state),
    accumulate=1 if work.cached else work.accumulate,
    ema=work.ema,
    absorb=work.absorb,
  )
  arguments = {'state': state, 'batch': placed(work.batch, mesh)}
  return compile_lowered(
    'train',
    work,
    wanted,
    mesh,
    lambda: step.lower(*arguments.values()),
    arguments,
    counts('train', work, mesh),
    log,
    limit=limit,
    options=options,
  )


def compile_forward(
  work: Work,
  wanted: topologies.Slice,
  *,
  limit: int | None = None,
  options: dict[str, Any] | None = None,
  log: Callable[[str], None] = print,
) -> Report:
  """Compiles the evaluation step: parameters and batch to metrics.

  Takes, returns and raises what `compile_train` does.
  """
  mesh = mesh_of(work, wanted)
  params = abstract_params(work, mesh)
  where = jax.tree.map(lambda leaf: leaf.sharding, params)
  step = make_eval_step(work.objective, mesh=mesh, param_shardings=where)
  arguments = {'params': params, 'batch': placed(work.batch, mesh)}
  return compile_lowered(
    'forward',
    work,
    wanted,
    mesh,
    lambda: step.lower(*arguments.values()),
    arguments,
    counts('forward', work, mesh),
    log,
    limit=limit,
    options=options,
  )


def abstract_params(work: Any, mesh: Mesh) -> dict[str, Any]:
  """Shapes of a model's parameters with their shardings on a mesh."""
  params = work.model.abstract_params
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    params,
    shardings(mesh, params, work.rules),
  )


def placed(batch: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
  """Shapes of a batch, its rows over data and fsdp."""
  sharding = batch_sharding(mesh)
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    batch,
  )


def compile_lowered(
  name: str,
  work: Any,
  wanted: topologies.Slice,
  mesh: Mesh,
  lower: Callable[[], Any],
  arguments: dict[str, Any],
  counts: dict[str, float],
  log: Callable[[str], None],
  *,
  limit: int | None = None,
  options: dict[str, Any] | None = None,
) -> Report:
  """Lowers, compiles, and reads the result, whether it fits or not.

  Args:
    name: of the step.
    work: has `model`, `counted` and `accumulate`.
    wanted: the slice to compile for.
    mesh: over its devices.
    lower: makes the lowered step.
    arguments: of the step, to name the largest.
    counts: `model_flops`, `hardware_flops` and `hbm_bytes` of the step.
    log: gets a line of progress now and then.
    limit: bytes of HBM to allow; the chip's by default.
    options: options of the compiler.
  """
  options = dict(options or {})
  if limit is not None:
    options['xla_tpu_max_hbm_size_mib'] = limit >> 20
  began = time.monotonic()
  with _progress(f'lowering the {name} step', log):
    lowered = lower()
  label = f'compiling the {name} step for {wanted.name} ({wanted.chips} chips)'
  compiled, refusal = None, ''
  try:
    with _progress(label, log):
      compiled = lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    refusal = str(error).strip()
    compiled = _without_limit(lowered, wanted, options, log)
  program = hlo.Program(compiled.as_text()) if compiled else None
  rows, length = _size(work.counted)
  return Report(
    step=name,
    slice=wanted,
    mesh=dict(mesh.shape),
    rows=rows,
    length=length,
    images=_images(work.counted),
    accumulate=work.accumulate if name in ACCUMULATED else 1,
    remat=work.model.runtime.remat,
    refusal=refusal,
    memory=_memory(compiled) if compiled else None,
    largest=_largest(arguments, program),
    collectives=program.collectives() if program else [],
    compile_seconds=time.monotonic() - began,
    host_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    **counts,
  )


def _size(batch: dict[str, Any]) -> tuple[int, int]:
  """Rows and their tokens, for which regions stand as in a run's log."""
  for name in ('tokens', 'regions'):
    if name in batch:
      return batch[name].shape[:2]
  return batch['pixels'].shape[0], 0


def _images(batch: dict[str, Any]) -> str:
  """'7 tiles' or '5,184 patches', by what pixels look like."""
  if 'pixels' not in batch:
    return 'no images'
  shape = batch['pixels'].shape
  if len(shape) == 4:
    return '1 image'
  return f'{shape[1]:,} {"tiles" if len(shape) == 5 else "patches"}'


def _without_limit(lowered, wanted, options, log):
  """Compiles what does not fit as if it did, to see what it would hold."""
  options['xla_tpu_max_hbm_size_mib'] = UNBOUNDED * wanted.chip.hbm >> 20
  try:
    with _progress('it does not fit; compiling again to name why', log):
      return lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as error:
    log(f'the second compilation failed as well: {error}')
    return None


def _memory(compiled) -> Memory:
  stats = compiled.memory_analysis()
  return Memory(
    arguments=stats.argument_size_in_bytes,
    temporaries=stats.temp_size_in_bytes,
    outputs=stats.output_size_in_bytes,
    aliased=stats.alias_size_in_bytes,
    code=stats.generated_code_size_in_bytes,
  )


def _largest(arguments, program, count: int = 6) -> list[hlo.Buffer]:
  held = []
  for path, leaf in flatten(arguments):
    local = leaf.sharding.shard_shape(leaf.shape)
    size = leaf.dtype.itemsize
    for n in local:
      size *= n
    shape = f'{leaf.dtype.name}{list(local)}'
    held.append(hlo.Buffer(size, shape, path))
  held = sorted(held, key=lambda buffer: -buffer.bytes)[:count]
  made = program.largest(count) if program else []
  return sorted(held + made, key=lambda buffer: -buffer.bytes)


def counts(name: str, work: Work, mesh: Mesh) -> dict[str, float]:
  """FLOPs and bytes of a step, for `compile_lowered`."""
  config, batch = work.model.config, work.counted
  remat = work.model.runtime.remat
  moved = flops.hbm_bytes(
    config,
    batch,
    batch_ways=batch_shards(mesh),
    tensor_ways=mesh.shape['tensor'],
    remat=remat,
    train=name == 'train',
    accumulate=work.accumulate if name in ACCUMULATED else 1,
  )
  if name != 'train':
    model = hardware = flops.forward_flops(config, batch)
  else:
    model = flops.train_flops(config, batch, frozen=work.frozen)
    hardware = flops.hardware_flops(
      config, batch, remat=remat, frozen=work.frozen
    )
    if work.cached and work.accumulate > 1:
      hardware += flops.forward_flops(config, batch)
  return {
    'model_flops': model,
    'hardware_flops': hardware,
    'hbm_bytes': moved,
  }


@contextlib.contextmanager
def _progress(what: str, log: Callable[[str], None]) -> Iterator[None]:
  """Says what is going on, every 20 seconds: the compiler itself is silent."""
  done = threading.Event()
  began = time.monotonic()

  def tick():
    while not done.wait(20):
      log(f'  ... {what}: {time.monotonic() - began:.0f} s')

  log(f'{what} ...')
  thread = threading.Thread(target=tick, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
