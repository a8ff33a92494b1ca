r"""Evaluates a published checkpoint on labelled pixels, the DepthLM way.

  python -m launch.evaluate --benchmark=depthlm --model=DIR_OR_HUB_ID \
    --data=ibims1.jsonl,gs://bucket/eth3d/*.array_record --output=runs/depth
  python -m launch.evaluate --benchmark=depthlm --model=DIR --focal=750 \
    --data=rows.jsonl --depth_kind=range --protocol=sampled --output=runs/depth

`--data` are files in the row format of data/sources/depth.py, or what
launch.prepare wrote (tfds:...); each is a set, unless its rows name their own
data set. The focal length and the words of a
question are read from the checkpoint's depthlm.json. Writes to `--output`, and
continues there:

  settings.json       what the predictions depend on
  predictions.jsonl   one record a line; see experiments/depthlm/breakdown.py
  scores.json         scores, what was left out and why, settings
"""

import dataclasses
import hashlib
import json
from typing import Any

import jax
from absl import app, flags
from etils import epath

from data.assistant import Assistant
from data.sources.depth_fields import DEPTH_KINDS
from data.sources.depth_shards import open_depth_rows
from experiments.asking.ask import Batches, ask
from experiments.depthlm import breakdown, inference
from experiments.depthlm.ask import MAX_NEW_TOKENS, Pictures, focal_scales
from experiments.depthlm.queries import SAMPLES, Found, Query, Set, find, spread
from launch import console
from launch.benchmarks import summary, video
from vlm.convert import folder as folders
from vlm.methods.depthlm.parser import PARSERS
from vlm.methods.depthlm.settings import SampleSettings
from vlm.methods.depthlm.tasks import SINGLE_IMAGE
from vlm.metrics import retrieval

FLAGS = flags.FLAGS
PROTOCOLS = ('all', 'sampled')
BATCH = 16  # queries at once, of each part of the mesh
SHRUNK = 0.97  # of the focal length; rounding to patches costs up to 2 %
PRINTED = ('delta1', 'abs_rel', 'rmse', 'silog')  # scores.json has all


def define_flags() -> None:
  """Defines the flags that only this benchmark has."""
  flags.DEFINE_string('images', '', "Of --data; the file's folder if empty.")
  flags.DEFINE_enum('depth_kind', None, DEPTH_KINDS, 'Of rows that do not say.')
  flags.DEFINE_enum(
    'protocol',
    'all',
    [*dict.fromkeys([*PROTOCOLS, *retrieval.PROTOCOLS])],
    'Every label, or --samples; of retrieval, which images.',
  )
  flags.DEFINE_integer('samples', SAMPLES, 'Of each file.', lower_bound=1)
  flags.DEFINE_integer('seed', 0, 'Of --protocol=sampled.', lower_bound=0)
  flags.DEFINE_enum('task', 'distance', SINGLE_IMAGE, 'What is asked for.')
  flags.DEFINE_float(
    'focal', 0.0, 'Common focal length in pixels, of a checkpoint without one.'
  )
  flags.DEFINE_string('settings', '', 'A file in the place of depthlm.json.')
  flags.DEFINE_enum('parser', 'strict', PARSERS, 'How answers are read.')
  flags.DEFINE_enum(
    'answers', 'range', DEPTH_KINDS, 'What the checkpoint answers in.'
  )


def run_from_flags() -> None:
  """Loads, asks, scores, writes, prints.

  Exits with one line where a flag or the data is wrong.
  """
  with console.plain_errors('launch.evaluate'):
    _run()


def _run() -> None:
  video.check_flags()
  for name in ('split', 'prompt'):
    if getattr(FLAGS, name):
      raise app.UsageError(
        f'--{name} is for video benchmarks; see --data and --settings'
      )
  if FLAGS.protocol not in PROTOCOLS:
    raise app.UsageError(
      f'--protocol={FLAGS.protocol} is of retrieval; expected one of '
      f'{PROTOCOLS}'
    )
  settings = inference.settings_of(
    folders.resolve(FLAGS.model), FLAGS.focal, FLAGS.settings
  )
  sets = open_sets(FLAGS.data)
  samples = FLAGS.samples if FLAGS.protocol == 'sampled' else 0
  found = find(sets, settings, samples, FLAGS.seed, FLAGS.task)
  queries = spread(found.queries, FLAGS.limit)
  mesh = video.mesh_of(FLAGS.tensor)
  batch_size = video.batch_size_of(mesh, BATCH)
  assistant = inference.load(FLAGS.model, mesh)
  limit = FLAGS.max_new_tokens or MAX_NEW_TOKENS
  rows = [part.rows for part in sets]
  subject = Pictures(assistant, rows, settings, limit, FLAGS.parser)
  batches = Batches(batch_size, FLAGS.threads)
  answers = lambda clock, done: ask(
    assistant, queries, subject, batches, mesh, clock, done
  )
  said = settings_of(queries, settings, limit, batch_size, assistant)
  records, clock = video.answered(
    answers, len(queries), batch_size, said, FLAGS.output
  )
  if jax.process_index() == 0:
    report = report_of(records, found, assistant, FLAGS.answers)
    report |= {'measured': clock.report(), 'settings': said}
    path = epath.Path(FLAGS.output) / 'scores.json'
    path.write_text(json.dumps(report, indent=1))
    show(report)
    console.say(f'scores and predictions: {FLAGS.output}')


def open_sets(data: str) -> list[Set]:
  """The sets of `--data`, by the stems of their files.

  Raises:
    FileNotFoundError: naming the file.
    ValueError: a file twice.
  """
  addresses = [part for part in data.split(',') if part]
  if len(set(addresses)) < len(addresses):
    raise ValueError(f'--data={data} names a file twice')
  stems = [epath.Path(address).stem for address in addresses]
  return [
    Set(
      stem if stems.count(stem) == 1 else address,
      open_depth_rows(address, FLAGS.images, FLAGS.depth_kind or ''),
    )
    for stem, address in zip(stems, addresses)
  ]


def settings_of(
  queries: list[Query],
  settings: SampleSettings,
  max_new_tokens: int,
  batch_size: int,
  assistant: Assistant,
) -> dict[str, Any]:
  """What predictions depend on, by flag where there is one."""
  asked = [dataclasses.astuple(query) for query in queries]
  digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
  return {
    'benchmark': FLAGS.benchmark,
    'model': FLAGS.model,
    'data': FLAGS.data,
    'protocol': FLAGS.protocol,
    'parser': FLAGS.parser,
    'settings': dataclasses.asdict(settings),
    'max_new_tokens': max_new_tokens,
    'batch_size': batch_size,
    'runtime': dataclasses.asdict(assistant.model.runtime),
    'queries': {'count': len(queries), 'sha256': digest},
  }


def report_of(
  records: list[dict[str, Any]],
  found: Found,
  assistant: Assistant,
  answered: str,
) -> dict[str, Any]:
  """Everything scores.json says but settings and times.

  Args:
    records: of all queries.
    found: what was asked about, and what was left out.
    assistant: who answered.
    answered: 'range' or 'z'.
  """
  scales = focal_scales(assistant.processor, records)
  extremes = [float(scales.min()), float(scales.max())] if scales.size else None
  return {
    'scores': breakdown.score(records, answered) | {'answered_in': answered},
    'skipped': found.skipped,
    'bad_rows': found.bad_rows,
    'problems': summary.problems_of(records),
    'focal_scale': extremes,
    'environment': summary.environment(assistant),
  }


def show(report: dict[str, Any]) -> None:
  """Prints scores by data set and range, and all that was left out."""
  found = report['scores']
  parts = {'all': found['all'], **found['by_dataset'], **found['by_range']}
  rows = [_row(name, part) for name, part in parts.items()]
  header = ['', PRINTED[0], '95 %', *PRINTED[1:], 'queries']
  console.print_table('depthlm', header, rows)
  kinds = found.get('by_kind', {})
  lines = {f'rmse as {k}, metres': v['rmse'] for k, v in kinds.items()}
  lines |= {'mean delta1 of data sets': found['mean_of_datasets']['delta1']}
  lines |= {f'delta1, {k}': v for k, v in found.get('controls', {}).items()}
  lines |= {f'answer: {k}': v for k, v in found['counts']['failures'].items()}
  lines |= {f'picture: {k}': v for k, v in found['counts']['problems'].items()}
  for name, reasons in report['skipped'].items():
    lines |= {f'not asked, {name}: {k}': v for k, v in reasons.items()}
  table = [
    [name, '-' if value is None else console.number(value)]
    for name, value in lines.items()
  ]
  console.print_table('beside them', ['', ''], table)
  summary.show_efficiency({}, report['measured'])
  summary.show_problems(report['bad_rows'] + report['problems'])
  scale = report['focal_scale']
  if scale and scale[0] < SHRUNK:
    console.say(
      'The processor shrinks pictures after the focal normalisation: the focal '
      f'length is {scale[0]:.2f} of what it should be. Raise the pixel budget '
      'in preprocessor_config.json.'
    )


def _row(name: str, part: dict[str, Any]) -> list[str]:
  """A line of the table, which has to fit a terminal of 80 columns."""
  low, high = part['intervals']['delta1']
  cell = lambda score: '-' if part[score] is None else f'{part[score]:.3f}'
  first, *others = map(cell, PRINTED)
  return [name, first, f'{low:.2f}-{high:.2f}', *others, str(part['count'])]
