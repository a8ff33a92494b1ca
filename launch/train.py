"""Trains what a config describes, on one device or on a pod.

  python -m launch.train --config=experiments/depthlm/depthlm.py:tiny \
    --config.steps=200 --config.workdir=runs/try

Started again with the same `--config.workdir`, it continues from the last good
checkpoint. On several processes the same command runs on each of them; see
launch/tpu.py. SIGTERM saves and exits with code 75.
"""

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import app, flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from launch import console, evaluate, job, reduction
from launch.objectives import registry
from launch.pods import distributed
from vlm.models import flops
from vlm.sharding import mesh as mesh_lib
from vlm.sharding import report, rules
from vlm.train import metrics as metrics_lib
from vlm.train.checkpoint import Checkpoints
from vlm.train.loop import train as run_loop
from vlm.train.metrics import Throughput
from vlm.train.profile import StepProfile
from vlm.train.scalars import ScalarLog
from vlm.train.state import (
  abstract_state,
  init_state,
  state_from_params,
  state_shardings,
)
from vlm.train.step import make_step
from vlm.train.watchdog import Watchdog

log = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], None]


def config_hash(config: ConfigDict) -> str:
  """Hash of everything in a config but where it writes."""
  facts = config.to_dict() | {'workdir': ''}
  text = json.dumps(facts, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def run(
  config: ConfigDict,
  *,
  report_row: Report = lambda row: None,
  profile_steps: tuple[int, int] | None = None,
) -> tuple[job.Job, Any]:
  """Trains (or continues) the config's run.

  Args:
    config: see experiments/common.py.
    report_row: gets every log row.
    profile_steps: first and last step to trace.

  Returns:
    The job and its last state.
  """
  trainer = registry.trainer_of(config)
  mesh = mesh_lib.make_mesh(config.mesh)
  mesh_lib.check_batch_size(mesh, config.batch_size, config.accumulate)
  made = trainer.prepare(config)
  optimizer = job.optimizer_of(config, made.model)
  workdir = epath.Path(config.workdir)
  batches = trainer.batches(made, mesh)
  with contextlib.ExitStack() as stack:
    stack.callback(batches.close)
    checkpoints = stack.enter_context(
      contextlib.closing(_checkpoints(config, workdir))
    )
    state, progress = _first_state(
      made, optimizer, mesh, checkpoints, batches, trainer.reference(config)
    )
    if not progress:
      _start(workdir, made, mesh)
    step_fn = make_step(
      trainer.objective(config, made.model),
      optimizer,
      mesh=mesh,
      state_shardings=state_shardings(state),
      accumulate=1 if trainer.cached else config.accumulate,
      seed=config.seed,
      ema=config.optimizer.ema,
      absorb=trainer.absorb(config),
    )
    scalars = ScalarLog(workdir, step=int(state['step']))
    stack.callback(scalars.close)
    state = run_loop(
      state,
      step_fn,
      batches,
      steps=config.steps,
      mesh=mesh,
      log_every=config.log_every,
      report=report_row,
      scalars=scalars,
      throughput=(trainer.throughput or _throughput)(made, mesh),
      evaluate=lambda state, step: _scores(made, state['params'], mesh),
      eval_every=config.eval.every,
      checkpoints=checkpoints,
      checkpoint_every=config.checkpoint.every,
      save_on_preemption=config.checkpoint.save_on_preemption,
      progress=progress,
      watchdog=Watchdog(),
      profile=profile_steps and StepProfile(profile_steps, str(workdir)),
      renewal=trainer.renew(made, mesh),
    )
    if counts := batches.stats():
      log.info('rows: %s', counts)
  return made, state


def _checkpoints(config: ConfigDict, workdir: epath.Path) -> Checkpoints:
  return Checkpoints(
    workdir / 'checkpoints',
    keep_last=config.checkpoint.keep_last,
    keep_best=config.checkpoint.keep_best,
    best_mode=config.checkpoint.keep_best_mode,
    workers=config.data.workers,
    config_hash=config_hash(config),
  )


def _first_state(made, optimizer, mesh, checkpoints, batches, reference):
  """The last good checkpoint, else `init_from`, else a fresh draw."""
  config = made.config
  kept = {'ema': config.optimizer.ema, 'reference': reference}
  abstract = abstract_state(made.model.abstract_params, optimizer, mesh, **kept)
  if (latest := checkpoints.latest()) is not None:
    state, facts = checkpoints.restore(abstract, step=latest, data=batches)
    log.info('continuing from step %d', facts.step)
    return state, facts.progress
  shardings = state_shardings(abstract)['params']
  if config.init_from:
    params, where = evaluate.load_checkpoint(
      made, config.init_from, mesh, '--config.init_from'
    )
    log.info('starting from %s', where)
  else:
    params = job.initial_params(made, shardings)
  if params is not None:
    return state_from_params(params, optimizer, mesh, **kept), {}
  key = jax.random.key(config.seed)
  draw = functools.partial(job.draw_params, made)
  state = init_state(draw, optimizer, mesh, key=key, **kept)
  return state, {}


def _start(workdir: epath.Path, made: job.Job, mesh) -> None:
  """Writes what the run is, and says how it is laid out on the mesh."""
  abstract = made.model.abstract_params
  log.info(
    '%s',
    report.report(
      abstract,
      rules.shardings(mesh, abstract),
      notes=rules.relaxations(mesh, abstract),
    ).text(),
  )
  log.info('row shapes, one compilation each: %s', made.rows)
  if jax.process_index() == 0:
    workdir.mkdir(parents=True, exist_ok=True)
    settings = made.config.to_json_best_effort(indent=1)
    (workdir / 'config.json').write_text(settings)
    if made.tokenizer_json:
      (workdir / 'tokenizer.json').write_text(made.tokenizer_json)
    if hasattr(made.task, 'files'):
      for name, text in made.task.files().items():
        (workdir / name).write_text(text)


def _scores(made: job.Job, params: Any, mesh) -> dict[str, float]:
  """The task's scores as '<set>/<metric>', which `keep_best` may name."""
  return {
    f'{name}/{metric}': float(np.ravel(value)[0])
    for name, result in evaluate.evaluate_job(made, params, mesh).items()
    for metric, value in result['scores'].items()
  }


def _throughput(made: job.Job, mesh) -> Throughput:
  config, spec = made.config, made.spec
  if len(made.specs) > 1:
    return Throughput()  # steps of several sizes have no one cost
  shapes = job.batch_of(config.batch_size, spec)
  length, _ = made.model.lengths(shapes)
  decoded = jax.ShapeDtypeStruct((config.batch_size, length), 'int32')
  peak = metrics_lib.peak_flops(list(mesh.devices.flat))
  return Throughput(
    tokens=config.batch_size * length,
    flops=flops.train_flops(made.model.config, shapes | {'tokens': decoded}),
    peak=peak,
  )


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  config_flags.DEFINE_config_file('config', lock_config=True)
  reduction.define_flags()
  flags.DEFINE_list(
    'profile_steps', None, 'First and last step to trace, e.g. 10,13.'
  )


def main(argv: list[str]) -> None:
  """Joins the job, trains, logs."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  console.set_up_logging()
  distributed.initialize_from_flags()
  steps = flags.FLAGS.profile_steps
  config = flags.FLAGS.config
  reduction.update(config)
  run(
    config,
    report_row=lambda row: log.info('%s', metrics_lib.format_row(row)),
    profile_steps=steps and (int(steps[0]), int(steps[1])),
  )


if __name__ == '__main__':
  define_flags()
  app.run(main)
