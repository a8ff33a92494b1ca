"""Reproduces every system in miniature, and writes a report.

  python -m launch.reproduce                      # quick, every system
  python -m launch.reproduce --systems=depthlm --seeds=3
  python -m launch.reproduce --thorough           # the figures of the READMEs

Each run is kept under `--workdir` by the hash of its config: started again, an
interrupted reproduction continues where it was, in the middle of a training
run too, and finished runs are only shown.
"""

import importlib
import json
import time
import webbrowser
from typing import Any

from absl import app, flags
from etils import epath

from experiments.miniature import Arm, Outcome, Summary
from launch import console, report
from launch import evaluate as evaluation
from launch import train as training
from vlm.sharding import mesh as mesh_lib

SYSTEMS = {'depthlm': 'experiments.depthlm.miniature'}
THOROUGH_SEEDS = 3


def run_arm(arm: Arm, system: str, root: epath.Path, bar: Any) -> Outcome:
  """Trains and evaluates one arm, or reads what an earlier run left."""
  digest = training.config_hash(arm.config)
  folder = root / system / f'{digest}-seed{arm.seed}'
  task = bar.add_task(f'{arm.name}, seed {arm.seed}', total=arm.config.steps)
  kept = folder / 'outcome.json'
  if not kept.exists():
    arm.config.workdir = str(folder)
    started = time.perf_counter()
    made, state = training.run(
      arm.config,
      report_row=lambda row: bar.update(task, completed=row['step']),
    )
    mesh = mesh_lib.make_mesh(arm.config.mesh)
    sets = evaluation.evaluate(made, state['params'], mesh)
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    found = {
      'sets': sets,
      'history': [json.loads(line) for line in lines],
      'seconds': time.perf_counter() - started,
    }
    _write_whole(kept, json.dumps(found))
  bar.update(task, completed=arm.config.steps)
  return Outcome(arm, **json.loads(kept.read_text()))


def _write_whole(path: epath.Path, text: str) -> None:
  """A file that is either absent or complete."""
  scratch = path.with_suffix('.partial')
  scratch.write_text(text)
  scratch.rename(path)


def run_system(
  name: str, seeds: int, thorough: bool, root: epath.Path
) -> Summary:
  """All arms of a system, summarised."""
  module = importlib.import_module(SYSTEMS[name])
  arms = module.arms(seeds, thorough)
  with console.progress_bar() as bar:
    whole = bar.add_task(f'{name}: runs', total=len(arms))
    outcomes = []
    for arm in arms:
      outcomes.append(run_arm(arm, name, root, bar))
      bar.advance(whole)
  return module.summarise(outcomes)


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  flags.DEFINE_list('systems', sorted(SYSTEMS), 'Which systems, by name.')
  flags.DEFINE_integer(
    'seeds', None, 'Seeds per arm; 1, or 3 when thorough.', lower_bound=1
  )
  flags.DEFINE_bool('thorough', False, 'Longer runs, three seeds.')
  flags.DEFINE_string('workdir', 'runs/reproduce', 'Where runs are kept.')
  flags.DEFINE_string('output', 'reports/report.html', 'The report.')
  flags.DEFINE_bool('open', False, 'Open the report in a browser.')


def main(argv: list[str]) -> None:
  """Runs the systems, prints the tables, writes the report."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  args = flags.FLAGS
  if unknown := set(args.systems) - set(SYSTEMS):
    raise app.UsageError(
      f'--systems={",".join(sorted(unknown))}: unknown; known: '
      f'{",".join(sorted(SYSTEMS))}'
    )
  console.quiet()
  seeds = args.seeds or (THOROUGH_SEEDS if args.thorough else 1)
  started = time.perf_counter()
  summaries = [
    run_system(name, seeds, args.thorough, epath.Path(args.workdir))
    for name in args.systems
  ]
  size = 'thorough' if args.thorough else 'quick'
  path = epath.Path(args.output)
  report.write(path, summaries, f'{size} setting, {seeds} seed(s) per arm')
  for summary in summaries:
    console.say(f'\n{summary.title}')
    for table in summary.tables:
      console.print_table(table.title, table.header, table.rows)
    for finding in summary.findings:
      console.say(f'- {finding}')
  minutes = (time.perf_counter() - started) / 60
  console.say(f'\n{minutes:.1f} minutes. Report: {path}')
  if args.open:
    webbrowser.open(epath.Path(path).resolve().as_uri())


if __name__ == '__main__':
  define_flags()
  app.run(main)
