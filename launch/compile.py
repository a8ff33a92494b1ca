r"""Compiles a config's steps for a TPU slice, without one.

  python -m launch.compile --config=experiments/depthlm/depthlm.py:full \
    --topology=v5e:8x8 [--config.batch_size=...]

Needs libtpu (pip install '.[test]'), no TPU, and minutes. Prints what one chip
holds against its HBM, FLOPs, collectives, and a roofline; exits with 1 when the
compiler says that it does not fit, naming the largest buffers.

  python -m launch.compile --config=experiments/depthlm/depthlm.py:full --table

compiles for the slices that the config names (or for --topology alone), keeps
the rows in launch/aot_table.json and writes the table of the README that the
config names.
"""

import dataclasses
import sys
from typing import Any

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from experiments import task as tasks
from launch import (
  aot,
  aot_report,
  aot_rl,
  aot_rollout,
  aot_table,
  job,
  objectives,
  topologies,
)

FLAGS = flags.FLAGS
STEPS = 'train', 'logprobs', 'forward', *aot_rollout.STEPS


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  config_flags.DEFINE_config_file(
    'config', None, 'Experiment file, with its argument after a colon.'
  )
  flags.DEFINE_string('topology', None, 'TPU slice, e.g. v5e:8x8.')
  flags.DEFINE_list('steps', ['train', 'forward'], f'Of {STEPS}.')
  flags.DEFINE_boolean('table', False, 'Write the table of a README.')
  flags.mark_flag_as_required('config')


def work_of(config: ConfigDict) -> aot.Work:
  """The training job of a config, as shapes."""
  config = config.copy_and_resolve_references()
  _name_kernels(config)
  trainer = objectives.trainer_of(config)
  model = trainer.model(config)
  return aot.Work(
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


def rollout_of(config: ConfigDict) -> aot_rollout.Rollout:
  """The sampling of a config, as shapes; bfloat16 parameters."""
  config = config.copy_and_resolve_references()
  low = {'dtype': 'bfloat16', 'param_dtype': 'bfloat16', 'remat': 'none'}
  config.runtime.update(low)
  _name_kernels(config)
  chat = None if config.model.preset else tasks.load(config).chat()
  model, trainer = job.model_of(config, chat), objectives.trainer_of(config)
  rows, samples, new_tokens = trainer.rollout(config)
  batch = job.batch_of(rows, job.row_specs(config, model)[-1])
  del batch['loss_mask']
  return aot_rollout.Rollout(
    model, batch, config.rollout.mesh, samples, new_tokens
  )


def _name_kernels(config: ConfigDict) -> None:
  """'auto' looks at the machine it runs on; this one has no TPU."""
  if config.runtime.attention == 'auto':
    config.runtime.attention = 'splash'
  if config.flashvid.kernels == 'auto':
    config.flashvid.kernels = 'pallas'


def compile_for(
  config: ConfigDict, wanted: topologies.Slice, steps: list[str]
) -> list[aot_report.Report]:
  """Compiles the named steps one after another, printing each report."""
  reports = []
  for step in steps:
    if step not in STEPS:
      raise ValueError(f'--steps={step!r}, expected of {STEPS}')
    reports.append(_compile(step, config, wanted))
    print(reports[-1].text(), flush=True)
  return reports


def _compile(step: str, config: ConfigDict, wanted) -> aot_report.Report:
  if step in aot_rollout.STEPS:
    work = rollout_of(config)
    return aot_rollout.compile_step(step, work, wanted, log=_log)
  work = work_of(config)
  if step == 'train':
    return aot.compile_train(work, wanted, log=_log)
  if step == 'logprobs':
    if config.objective != 'grpo':
      raise ValueError(
        f'--steps=logprobs: --config.objective={config.objective!r} has no '
        "completions to read, expected 'grpo'"
      )
    chunk = config.loss_chunk
    return aot_rl.compile_logprobs(work, wanted, loss_chunk=chunk, log=_log)
  work = dataclasses.replace(work, batch=_microbatch(work))
  return aot.compile_forward(work, wanted, log=_log)


def _microbatch(work: aot.Work) -> dict[str, Any]:
  """Evaluation takes as many rows at a time as training does."""
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      (leaf.shape[0] // work.accumulate, *leaf.shape[1:]), leaf.dtype
    ),
    work.batch,
  )


def _log(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def main(argv: list[str]) -> None:
  """Compiles; exits with 1 when something does not fit."""
  del argv
  jax.config.update('jax_platforms', 'cpu')
  try:
    reports = _run_table() if FLAGS.table else _run_one()
  except (ValueError, RuntimeError) as error:
    if isinstance(error, jax.errors.JaxRuntimeError):
      raise
    sys.exit(f'launch.compile: {error}')
  if not all(report.fits for report in reports):
    sys.exit(1)


def _run_one() -> list[aot_report.Report]:
  if not FLAGS.topology:
    raise ValueError('--topology is missing, e.g. --topology=v5e:8x8')
  wanted = topologies.parse(FLAGS.topology)
  return compile_for(FLAGS.config, wanted, FLAGS.steps)


def _run_table() -> list[aot_report.Report]:
  config = FLAGS.config
  if not config.slices:
    raise ValueError(
      '--table compiles for the slices of config.slices; the config has none'
    )
  reports = []
  for name, changes in config.slices:
    if FLAGS.topology and name != FLAGS.topology:
      continue
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(changes)
    found = compile_for(changed, topologies.parse(name), FLAGS.steps)
    label = config.model.preset or config.task
    if config.objective != 'sft':
      label += f' ({config.objective})'
    rows = [aot_table.row_of(config.table, label, report) for report in found]
    aot_table.write_tables(aot_table.update(rows))
    reports += found
  return reports


if __name__ == '__main__':
  define_flags()
  app.run(main)
