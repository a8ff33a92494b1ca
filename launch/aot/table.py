"""Tables of what was compiled, kept row by row in a file.

Every row is one step of one config on one slice; compiling it again replaces
it, so that a table can be made again in parts. `config.table` names the README
that a row belongs to.
"""

import json
import re
from pathlib import Path
from typing import Any

from launch.aot import verdict

ROOT = Path(__file__).resolve().parents[2]
ROWS = Path(__file__).with_name('table.json')
BEGIN, END = '<!-- aot:begin -->', '<!-- aot:end -->'
HEADER = (
  '| model | slice (chips) | step | rows x tokens | images per row | rows per '
  'chip at a time | HBM per chip, GiB | FLOPs per step | sent per chip, GB '
  '| estimated step (bound) | MFU at the bound | compiled in |',
  '| --- | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: '
  '| ---: |',
)
NOTE = (
  'Memory is what the TPU compiler reports; step times are rooflines (perfect '
  'overlap), nothing here ran on a TPU. `train` is a full AdamW step with '
  'float32 masters; `logprobs` is what RL asks of the reference; `prefill` and '
  '`decode` are the sampler with bfloat16 parameters, `decode` per token.'
)
ORDER = ('train', 'logprobs', 'forward', 'prefill', 'decode')


def row_of(table: str, model: str, report: verdict.Report) -> dict[str, Any]:
  """What the table, a README below the root, keeps of a report."""
  chip, memory = report.slice.chip, report.memory
  ways = report.mesh['data'] * report.mesh['fsdp']
  used = f'{memory.total / verdict.GIB:.1f} of {chip.hbm / verdict.GIB:.2f}'
  sent = sum(sent for *_, sent in report.traffic()) / 1e9
  return {
    'table': table,
    'model': model,
    'slice': report.slice.name,
    'step': report.step,
    'chips': report.slice.chips,
    'work': f'{report.rows:,} x {report.length:,}',
    'images': report.images,
    'held': report.rows // report.accumulate / ways,
    'memory': used if report.fits else f'does not fit: {used}',
    'flops': f'{report.model_flops:.2e}',
    'sent': f'{sent:,.0f}' if sent >= 10 else f'{sent:.2g}',
    'time': f'{_seconds(report.step_seconds)} ({report.bound})',
    'mfu': f'{100 * report.mfu:.0f} %',
    'compiled': f'{report.compile_seconds:.0f} s',
  }


def _seconds(value: float) -> str:
  return f'{value:.2f} s' if value >= 1 else f'{1e3 * value:.1f} ms'


def update(rows: list[dict[str, Any]], path: Path = ROWS) -> list[dict]:
  """Replaces rows of the same table, model, slice and step; returns all."""
  key = lambda row: tuple(row[n] for n in ('table', 'model', 'slice', 'step'))
  old = json.loads(path.read_text()) if path.exists() else []
  kept = {key(row): row for row in [*old, *rows]}
  found = list(kept.values())
  path.write_text(json.dumps(found, indent=1) + '\n')
  return found


def render(rows: list[dict[str, Any]]) -> str:
  """The table in Markdown: models in their order, then steps, then slices."""
  models = list(dict.fromkeys(row['model'] for row in rows))
  ordered = sorted(
    rows, key=lambda row: (models.index(row['model']), ORDER.index(row['step']))
  )
  lines = []
  for row in ordered:
    cells = (
      row['model'],
      f'{row["slice"]} ({row["chips"]})',
      *(row[name] for name in ('step', 'work', 'images')),
      f'{row["held"]:g}',
      *(row[n] for n in ('memory', 'flops', 'sent', 'time', 'mfu', 'compiled')),
    )
    lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
  return '\n'.join([*HEADER, *lines, '', NOTE])


def write_tables(rows: list[dict[str, Any]], root: Path = ROOT) -> None:
  """Every table with its rows, each into its own README."""
  for table in dict.fromkeys(row['table'] for row in rows):
    own = [row for row in rows if row['table'] == table]
    write(render(own), root / table)


def write(text: str, path: Path) -> None:
  """Replaces what stands between the two markers.

  Raises:
    ValueError: the file lacks the markers.
  """
  old = path.read_text()
  pattern = re.compile(f'{BEGIN}.*?{END}', re.DOTALL)
  if not pattern.search(old):
    raise ValueError(f'{path} lacks the markers {BEGIN} and {END}')
  path.write_text(pattern.sub(lambda _: f'{BEGIN}\n{text}\n{END}', old))
