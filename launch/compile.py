r"""Compiles a config's steps for a TPU slice, without one.

  python -m launch.compile --config=experiments/depthlm/depthlm.py:full \
    --topology=v5e:8x8 [--config.batch_size=...]

Needs libtpu (pip install '.[test]'), no TPU, and minutes. Prints what one chip
holds against its HBM, FLOPs, collectives, and a roofline; exits with 1 when the
compiler says that it does not fit, naming the largest buffers.

  python -m launch.compile --config=experiments/depthlm/depthlm.py:full --table

compiles for the slices that the config names (or for --topology alone), keeps
the rows in launch/aot/table.json and writes the table of the README that the
config names.
"""

import dataclasses
import sys
from collections.abc import Sequence

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from experiments import task as tasks
from launch import job
from launch.aot import logprobs, programs, rollout, table, verdict
from launch.objectives import registry
from launch.pods import topologies

FLAGS = flags.FLAGS
STEPS = 'train', 'logprobs', 'forward', *rollout.STEPS


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  config_flags.DEFINE_config_file(
    'config', None, 'Experiment file, with its argument after a colon.'
  )
  flags.DEFINE_string('topology', None, 'TPU slice, e.g. v5e:8x8.')
  flags.DEFINE_list('steps', ['train', 'forward'], f'Of {STEPS}.')
  flags.DEFINE_boolean('table', False, 'Write the table of a README.')
  flags.mark_flag_as_required('config')


def work_of(config: ConfigDict) -> programs.Work:
  """The training job of a config, as shapes."""
  config = config.copy_and_resolve_references()
  _name_kernels(config)
  trainer = registry.trainer_of(config)
  model = trainer.model(config)
  return programs.Work(
    model=model,
    objective=trainer.objective(config, model),
    optimizer=job.optimizer_of(config, model),
    batch=trainer.shapes(config, model),
    mesh=config.mesh,
    accumulate=config.accumulate,
    cached=trainer.cached,
    ema=config.optimizer.ema,
    reference=trainer.reference(config),
    seen=trainer.seen(config, model),
    absorb=trainer.absorb(config),
  )


def rollout_of(config: ConfigDict) -> rollout.Rollout:
  """The sampling of a config, as shapes; bfloat16 parameters."""
  config = config.copy_and_resolve_references()
  low = {'dtype': 'bfloat16', 'param_dtype': 'bfloat16', 'remat': 'none'}
  config.runtime.update(low)
  _name_kernels(config)
  chat = None if config.model.preset else tasks.load(config).chat()
  model, trainer = job.model_of(config, chat), registry.trainer_of(config)
  rows, samples, new_tokens = trainer.rollout(config)
  flag = f'--config.{trainer.prompts}'
  batch = job.batch_of(rows, job.row_specs(config, model)[-1])
  del batch['loss_mask']
  return rollout.Rollout(
    model, batch, config.rollout.mesh, samples, new_tokens, flag
  )


def _name_kernels(config: ConfigDict) -> None:
  """'auto' looks at the machine it runs on; this one has no TPU."""
  if config.runtime.attention == 'auto':
    config.runtime.attention = 'splash'
  if config.flashvid.kernels == 'auto':
    config.flashvid.kernels = 'pallas'


@dataclasses.dataclass(frozen=True)
class Planned:
  """A step that can be compiled, as far as arithmetic tells.

  Attributes:
    step: one of STEPS.
    work: what it needs, as shapes.
    slice: the slice to compile for.
    loss_chunk: of the config.
  """

  step: str
  work: programs.Work | rollout.Rollout
  slice: topologies.Slice
  loss_chunk: int


def plan(
  config: ConfigDict, wanted: topologies.Slice, steps: Sequence[str]
) -> list[Planned]:
  """What is to be compiled, refused in seconds where it cannot be.

  Raises:
    ValueError: a step that there is not, or that the config has no use for;
      mesh, batch and parameters that do not divide. All name the flag.
  """
  if not steps:
    raise ValueError(f'--steps is empty, expected of {STEPS}')
  for step in steps:
    _check_step(config, step)
  planned = []
  for step in steps:
    sampled = step in rollout.STEPS
    work = rollout_of(config) if sampled else work_of(config)
    programs.check(work, wanted)
    if step == 'forward':
      work = _microbatch(work)
    planned.append(Planned(step, work, wanted, config.loss_chunk))
  return planned


def _check_step(config: ConfigDict, step: str) -> None:
  if step not in STEPS:
    raise ValueError(f'--steps={step!r}, expected of {STEPS}')
  refused = f'--steps={step}: --config.objective={config.objective!r} has no '
  if step == 'logprobs' and config.objective != 'grpo':
    raise ValueError(f"{refused}completions to read, expected 'grpo'")
  writes = registry.trainer_of(config).rollout
  if step in rollout.STEPS and not writes:
    raise ValueError(f"{refused}model that writes, expected 'sft' or 'grpo'")


def compile_for(
  config: ConfigDict, wanted: topologies.Slice, steps: Sequence[str]
) -> list[verdict.Report]:
  """Compiles the named steps one after another, printing each report."""
  return [compile_planned(one) for one in plan(config, wanted, steps)]


def compile_planned(planned: Planned) -> verdict.Report:
  """Compiles a step and prints its report."""
  work, wanted, log = planned.work, planned.slice, _log
  if planned.step == 'train':
    report = programs.compile_train(work, wanted, log=log)
  elif planned.step == 'forward':
    report = programs.compile_forward(work, wanted, log=log)
  elif planned.step == 'logprobs':
    chunk = planned.loss_chunk
    report = logprobs.compile_logprobs(work, wanted, loss_chunk=chunk, log=log)
  else:
    report = rollout.compile_step(planned.step, work, wanted, log=log)
  print(report.text(), flush=True)
  return report


def _microbatch(work: programs.Work) -> programs.Work:
  """Evaluation takes as many rows at a time as training does."""
  batch = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      (leaf.shape[0] // work.accumulate, *leaf.shape[1:]), leaf.dtype
    ),
    work.batch,
  )
  return dataclasses.replace(work, batch=batch, accumulate=1)


def _log(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def main(argv: list[str]) -> None:
  """Compiles; exits with 1 when something does not fit."""
  del argv
  jax.config.update('jax_platforms', 'cpu')
  try:
    reports = _run_table() if FLAGS.table else _run_one()
  except jax.errors.JaxRuntimeError:
    raise
  except (FileNotFoundError, ValueError, RuntimeError) as error:
    sys.exit(f'launch.compile: {error}')
  if not all(report.fits for report in reports):
    sys.exit(1)


def _run_one() -> list[verdict.Report]:
  if not FLAGS.topology:
    raise ValueError('--topology is missing, e.g. --topology=v5e:8x8')
  wanted = topologies.parse(FLAGS.topology)
  return compile_for(FLAGS.config, wanted, FLAGS.steps)


def _run_table() -> list[verdict.Report]:
  config, reports = FLAGS.config, []
  label = config.model.preset or config.task
  if config.objective != 'sft':
    label += f' ({config.objective})'
  for planned in plan_table(config, FLAGS.topology, FLAGS.steps):
    reports.append(compile_planned(planned))
    row = table.row_of(config.table, label, reports[-1])
    table.write_tables(table.update([row]))
  return reports


def plan_table(
  config: ConfigDict, topology: str | None, steps: Sequence[str]
) -> list[Planned]:
  """What --table compiles, all of it: no refusal follows an hour of compiling.

  Args:
    config: with `slices`.
    topology: of one of them, or None for all.
    steps: of each.

  Raises:
    ValueError: see `plan`; or there is no such slice.
  """
  changes = dict(config.slices)
  if not changes:
    raise ValueError(
      '--table compiles for the slices of config.slices; the config has none. '
      '--topology without --table compiles for any slice'
    )
  if topology and topology not in changes:
    raise ValueError(
      f'--topology={topology} is not among config.slices, which --table '
      f'compiles for: expected one of {sorted(changes)}, or no --table'
    )
  planned = []
  for name in [topology] if topology else changes:
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(changes[name])
    planned += plan(changed, topologies.parse(name), steps)
  return planned


if __name__ == '__main__':
  define_flags()
  app.run(main)
