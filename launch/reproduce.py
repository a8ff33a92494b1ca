"""Reproduces systems in miniature, and writes a report.

  python -m launch.reproduce                      # quick, the main job
  python -m launch.reproduce --systems=flashvid --seeds=3
  python -m launch.reproduce --systems=depthlm,flashvid --thorough

Each run is kept under `--workdir` by the hash of its config: started again, an
interrupted reproduction continues where it was, in the middle of a training
run too, and finished runs are only shown.
"""

import importlib
import time
import webbrowser

from absl import app, flags
from etils import epath

from experiments.miniature import Summary
from launch import arms, console, report

SYSTEMS = {
  'depthlm': 'experiments.depthlm.miniature',
  'flashvid': 'experiments.flashvid.miniature',
  'mask': 'experiments.mask.miniature',
  'rali': 'experiments.rali.miniature.summary',
}
THOROUGH_SEEDS = 3


def run_system(
  name: str,
  seeds: int,
  thorough: bool,
  root: epath.Path,
  workers: int | None = None,
) -> Summary:
  """All arms of a system, summarised."""
  module = importlib.import_module(SYSTEMS[name])
  made = module.arms(seeds, thorough)
  with console.progress_bar() as bar:
    data = bar.add_task(f'{name}: data', total=1)
    module.prepare(made)
    bar.advance(data)
    whole = bar.add_task(
      f'{name}: all steps', total=sum(arm.config.steps for arm in made)
    )
    bars = {
      id(arm): bar.add_task(
        f'{arm.name}, seed {arm.seed}', total=arm.config.steps
      )
      for arm in made
    }

    def progress(arm, step, measured):
      label = f'{arm.name}, seed {arm.seed}'
      label += f', measured {measured}' * bool(measured)
      bar.update(bars[id(arm)], completed=step, description=label)
      done = sum(bar.tasks[task].completed for task in bars.values())
      bar.update(whole, completed=done)

    outcomes = arms.run_arms(
      made,
      root / name,
      workers or arms.default_workers(len(made)),
      progress,
    )
  return module.summarise(outcomes)


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  flags.DEFINE_list('systems', ['depthlm'], f'Of {sorted(SYSTEMS)}.')
  flags.DEFINE_integer(
    'seeds', None, 'Seeds per arm; 1, or 3 when thorough.', lower_bound=1
  )
  flags.DEFINE_bool('thorough', False, 'All arms, three seeds.')
  flags.DEFINE_integer(
    'workers',
    None,
    'Arms trained at a time; one per core on a CPU, one on an accelerator.',
    lower_bound=1,
  )
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
  root = epath.Path(args.workdir)
  started = time.perf_counter()
  summaries = [
    run_system(name, seeds, args.thorough, root, args.workers)
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
