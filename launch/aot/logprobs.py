"""Compiles the pass that only reads log-probabilities, for a slice not there.

What the trainer asks of the first parameters (and of its own, before it moves
several times with one batch): the program of `vlm.train.rl.make_logprobs`.
"""

from collections.abc import Callable

import jax

from launch.aot import programs, verdict
from launch.pods import topologies
from vlm.train.rl import READ, make_logprobs


def compile_logprobs(
  work: programs.Work,
  wanted: topologies.Slice,
  *,
  loss_chunk: int,
  log: Callable[[str], None] = print,
) -> verdict.Report:
  """Compiles it.

  Args:
    work: a training job whose batch holds completions.
    wanted: the slice to compile for.
    loss_chunk: positions per row whose logits are held at once.
    log: gets a line of progress now and then.

  Raises:
    ValueError: when mesh, batch and parameters do not divide, naming the flag.
  """
  mesh = programs.mesh_of(work, wanted)
  params = programs.abstract_params(work, mesh)
  read = {name: work.batch[name] for name in READ if name in work.batch}
  arguments = {'params': params, 'batch': programs.placed(read, mesh)}
  score = make_logprobs(
    work.model,
    mesh=mesh,
    param_shardings=jax.tree.map(lambda leaf: leaf.sharding, params),
    accumulate=work.accumulate,
    loss_chunk=loss_chunk,
  )
  return programs.compile_lowered(
    'logprobs',
    work,
    wanted,
    mesh,
    lambda: score.lower(*arguments.values()),
    arguments,
    programs.counts('logprobs', work, mesh),
    log,
  )
