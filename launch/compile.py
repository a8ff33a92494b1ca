r"""Compiles a config's training and forward steps for a TPU slice, without one.

  python -m launch.compile --config=experiments/depthlm/depthlm.py:full \
    --topology=v5e:8x8 [--config.batch_size=...]

Needs libtpu (pip install '.[test]'), no TPU, and minutes. Prints what one chip
holds against its HBM, FLOPs, collectives, and a roofline; exits with 1 when the
compiler says that it does not fit, naming the largest buffers.

  python -m launch.compile --config=experiments/depthlm/depthlm.py:full --table

compiles for the slices of `TABLE` and writes the table into README.md.
"""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from data.pack import RowSpec
from experiments import task as tasks
from launch import aot, job, topologies
from vlm.train.sft import sft

FLAGS = flags.FLAGS
README = Path(__file__).resolve().parents[1] / 'README.md'
BEGIN, END = '<!-- aot:begin -->', '<!-- aot:end -->'

# Slices of the README's table, and what changes with the size of their chips:
# more HBM takes more rows at a time.
TABLE = (
  ('v5e:8x8', {'accumulate': 20}),
  ('v6e:8x8', {'accumulate': 10}),
  ('v5p:2x4x4', {'accumulate': 10}),
)
HEADER = (
  '| slice | chips | step | batch x tokens | rows per chip at a time '
  '| HBM per chip, GiB | FLOPs per step | sent per chip, GB '
  '| estimated step (bound) | MFU at the bound | compiled in |',
  '| --- | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
)


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  config_flags.DEFINE_config_file(
    'config', None, 'Experiment file, with its argument after a colon.'
  )
  flags.DEFINE_string('topology', None, 'TPU slice, e.g. v5e:8x8.')
  flags.DEFINE_list('steps', ['train', 'forward'], 'Which steps to compile.')
  flags.DEFINE_boolean('table', False, "Write the README's table.")
  flags.mark_flag_as_required('config')


def batch_of(rows: int, spec: RowSpec) -> dict[str, Any]:
  """Shapes of the global batch, as documented in `data/pipeline.py`."""
  batch: dict[str, Any] = {}
  for name, (shape, dtype) in spec.fields().items():
    folder, _, key = name.rpartition('/')
    target = batch.setdefault(folder, {}) if folder else batch
    target[key] = jax.ShapeDtypeStruct((rows, *shape), dtype)
  return batch


def work_of(config: ConfigDict) -> aot.Work:
  """The training job of a config, as shapes."""
  config = config.copy_and_resolve_references()
  if config.runtime.attention == 'auto':
    # 'auto' looks at the machine it runs on; this one has no TPU.
    config.runtime.attention = 'splash'
  # A published checkpoint's shapes are known without its tokenizer.
  chat = None if config.model.preset else tasks.load(config).chat()
  model = job.model_of(config, chat)
  return aot.Work(
    model=model,
    objective=sft(model, loss_chunk=config.loss_chunk),
    optimizer=job.optimizer_of(config, model),
    batch=batch_of(config.batch_size, job.row_specs(config, model)[-1]),
    mesh=config.mesh,
    accumulate=config.accumulate,
    ema=config.optimizer.ema,
  )


def compile_for(
  config: ConfigDict, wanted: topologies.Slice, steps: list[str]
) -> list[aot.Report]:
  """Compiles the named steps one after another, printing each report."""
  compilers = {'train': aot.compile_train, 'forward': aot.compile_forward}
  reports = []
  for step in steps:
    if step not in compilers:
      raise ValueError(f'--steps={step!r}, expected of {sorted(compilers)}')
    work = work_of(config)
    if step == 'forward':
      work = dataclasses.replace(work, batch=_microbatch(work))
    reports.append(compilers[step](work, wanted, log=_log))
    print(reports[-1].text(), flush=True)
  return reports


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


def row(report: aot.Report) -> str:
  """One line of the README's table."""
  chip, memory = report.slice.chip, report.memory
  sent = sum(sent for *_, sent in report.traffic()) / 1e9
  held = report.rows // report.accumulate // _ways(report)
  used = f'{memory.total / aot.GIB:.1f} of {chip.hbm / aot.GIB:.2f}'
  cells = (
    report.slice.name,
    report.slice.chips,
    report.step,
    f'{report.rows:,} x {report.length:,}',
    held,
    used if report.fits else f'does not fit: {used}',
    f'{report.model_flops:.2e}',
    f'{sent:,.0f}',
    f'{report.step_seconds:.2f} s ({report.bound})',
    f'{100 * report.mfu:.0f} %',
    f'{report.compile_seconds:.0f} s',
  )
  return '| ' + ' | '.join(map(str, cells)) + ' |'


def _ways(report):
  return report.mesh['data'] * report.mesh['fsdp']


def table(reports: list[aot.Report]) -> str:
  """The README's table, in Markdown."""
  tiles, remat = reports[0].tiles, reports[0].remat
  note = (
    f'Every row has {tiles} image tiles; remat `{remat}`. Memory is what the '
    'TPU compiler reports; step times are rooflines (perfect overlap), nothing '
    'here ran on a TPU.'
  )
  return '\n'.join([*HEADER, *map(row, reports), '', note])


def write_table(text: str, path: Path) -> None:
  """Replaces what stands between the two markers.

  Raises:
    ValueError: the file lacks the markers.
  """
  old = path.read_text()
  pattern = re.compile(f'{BEGIN}.*?{END}', re.DOTALL)
  if not pattern.search(old):
    raise ValueError(f'{path} lacks the markers {BEGIN} and {END}')
  path.write_text(pattern.sub(lambda _: f'{BEGIN}\n{text}\n{END}', old))


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


def _run_one() -> list[aot.Report]:
  if not FLAGS.topology:
    raise ValueError('--topology is missing, e.g. --topology=v5e:8x8')
  wanted = topologies.parse(FLAGS.topology)
  return compile_for(FLAGS.config, wanted, FLAGS.steps)


def _run_table() -> list[aot.Report]:
  reports = []
  for name, changes in TABLE:
    config = FLAGS.config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    reports += compile_for(config, topologies.parse(name), FLAGS.steps)
  text = table(reports)
  print(text)
  write_table(text, README)
  return reports


if __name__ == '__main__':
  define_flags()
  app.run(main)
