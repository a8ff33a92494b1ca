r"""Evaluates any scorer of image quality on published sets.

  python -m launch.evaluate --benchmark=iqa --model=DIR_OR_HUB_ID \
    --data=gs://BUCKET/Data-DeQA-Score --sets=koniq,spaq,csiq \
    --output=runs/iqa --draws=4
  python -m launch.evaluate --benchmark=iqa --predictions=scores.csv \
    --data=gs://BUCKET/Data-DeQA-Score --sets=koniq --output=runs/brisque

`--data` is the root of the sets' folders (data/sources/iqa.py), or .json and
.jsonl files of your own. A model answers greedily and, with `--draws=k`, by k
draws whose ratings are averaged; an answer without a rating is replaced by the
greedy one's, then by 3.0, and counted. `--predictions` are scores that anything
else gave, also launch.score. Writes to `--output`, and continues there:

  settings.json       what the predictions depend on
  predictions.jsonl   one record a line; see experiments/rali/score.py
  scores.json         PLCC raw and after logistic fits, SRCC, KRCC, RMSE, MAE by
                      set, means in and out of domain, failures, settings
"""

import dataclasses
import hashlib
import json
from typing import Any

import jax
from absl import app, flags
from etils import epath

from data.assistant import Assistant
from data.processors.limits import capped
from data.sources import iqa
from data.sources.iqa_corpora import CORPORA
from experiments.asking.ask import Batches, Draws, ask
from experiments.rali import scored_files
from experiments.rali.ask import MAX_NEW_TOKENS, Ratings, Row, spread, usable
from experiments.rali.score import IN_DOMAIN, score
from experiments.rali.sets import FILES
from launch import console
from launch.benchmarks import summary, video
from vlm.methods.rali.prompts import Wording
from vlm.methods.rali.readers import READERS

FLAGS = flags.FLAGS
BATCH = 8  # images at once, of each part of the mesh
PRINTED = ('plcc', 'plcc_logistic4', 'srcc', 'krcc', 'rmse')
MEANS = ('mean', 'in_domain', 'out_of_domain')


def define_flags() -> None:
  """Defines the flags that only this benchmark has."""
  flags.DEFINE_list('sets', [], f'Under --data: of {sorted(CORPORA)}.')
  flags.DEFINE_string('predictions', '', 'A csv or jsonl file of scores.')
  flags.DEFINE_list('in_domain', list(IN_DOMAIN), 'Sets that were trained on.')
  flags.DEFINE_integer('draws', 0, 'Beside the greedy answer.', lower_bound=0)
  flags.DEFINE_float('temperature', 1.0, 'Of --draws.', lower_bound=0.01)
  flags.DEFINE_float('top_p', 0.95, 'Of --draws.', lower_bound=0, upper_bound=1)
  flags.DEFINE_integer('top_k', 50, 'Of --draws; 0: all.', lower_bound=0)
  flags.DEFINE_enum('reader', 'answer', sorted(READERS), 'Of ratings.')
  flags.DEFINE_bool('think', True, 'The example that is shown reasons.')
  flags.DEFINE_string('wording', '', 'A JSON file with system and score.')
  flags.DEFINE_integer(
    'max_pixels', 0, 'Of a picture; 0: the rule of the checkpoint.'
  )


def run_from_flags() -> None:
  """Loads, asks, scores, writes, prints.

  Exits with one line where a flag or the data is wrong.
  """
  with console.plain_errors('launch.evaluate'):
    _run()


def _run() -> None:
  _check_flags()
  rows, bad = [], []
  for source in open_sets(FLAGS.data, FLAGS.sets, FLAGS.images):
    good, wrong = usable(source)
    rows += spread(good, FLAGS.limit)
    bad += wrong
  run = _run_predictions if FLAGS.predictions else _run_model
  records, said, more = run(rows)
  if jax.process_index() == 0:
    report = {
      'scores': score(records, tuple(FLAGS.in_domain)),
      'bad_rows': bad,
      'problems': summary.problems_of(records),
      'settings': said,
      **more,
    }
    path = epath.Path(FLAGS.output) / 'scores.json'
    path.write_text(json.dumps(report, indent=1))
    show(report)
    console.say(f'scores and predictions: {FLAGS.output}')


def _check_flags() -> None:
  if bool(FLAGS.model) == bool(FLAGS.predictions):
    raise app.UsageError(
      '--benchmark=iqa needs either --model or --predictions'
    )
  for name in ('data', 'output'):
    if not getattr(FLAGS, name):
      raise app.UsageError(f'--benchmark=iqa needs --{name}')
  for name in ('split', 'prompt', 'settings'):
    if getattr(FLAGS, name):
      raise app.UsageError(
        f'--{name} is for other benchmarks; see --sets and --wording'
      )


def open_sets(data: str, sets: list[str], images: str) -> list[iqa.IqaRows]:
  """The sets of the flags.

  Args:
    data: `--data`, a root or files.
    sets: `--sets`, under a root.
    images: `--images`, of files.

  Raises:
    ValueError: naming the flag.
    FileNotFoundError: naming the file.
  """
  files = [part for part in data.split(',') if part]
  if all(part.endswith(FILES) for part in files):
    if sets:
      raise ValueError('--sets are of a root; --data names files')
    opened = [iqa.open_file(part, images) for part in files]
  elif not sets:
    raise ValueError(f'--data={data} is a root; name --sets of {[*CORPORA]}')
  else:
    opened = [iqa.open_corpus(data, name) for name in sets]
  names = [rows.dataset for rows in opened]
  if len(set(names)) < len(names):
    raise ValueError(f'sets {names}: expected different names')
  return opened


def _run_model(rows: list[Row]) -> tuple[list[dict[str, Any]], Any, Any]:
  mesh = video.mesh_of(FLAGS.tensor)
  batch_size = video.batch_size_of(mesh, BATCH)
  wording = wording_of(FLAGS.wording)
  assistant = Assistant.load(FLAGS.model, mesh=mesh)
  if assistant.processor is None:
    raise ValueError(f'--model={FLAGS.model} reads text only')
  if FLAGS.max_pixels:
    processor = capped(assistant.processor, FLAGS.max_pixels)
    assistant = dataclasses.replace(assistant, processor=processor)
  limit = FLAGS.max_new_tokens or MAX_NEW_TOKENS
  subject = Ratings(assistant, wording, FLAGS.reader, FLAGS.think, limit)
  draws = None
  if FLAGS.draws:
    drawing = FLAGS.temperature, FLAGS.top_p, FLAGS.top_k, FLAGS.seed
    draws = Draws(FLAGS.draws, *drawing)
  batches = Batches(batch_size, FLAGS.threads, draws)
  answers = lambda clock, done: ask(
    assistant, rows, subject, batches, mesh, clock, done
  )
  said = settings_of(rows, wording, batches, limit, assistant)
  records, clock = video.answered(
    answers, len(rows), batch_size, said, FLAGS.output
  )
  return records, said, {
    'measured': clock.report(),
    'environment': summary.environment(assistant),
  }  # fmt: skip


def _run_predictions(rows: list[Row]) -> tuple[list[dict[str, Any]], Any, Any]:
  scores = scored_files.read(FLAGS.predictions)
  found = scored_files.records(rows, scores)
  said = {
    'benchmark': FLAGS.benchmark,
    'predictions': FLAGS.predictions,
    'data': FLAGS.data,
    'sets': FLAGS.sets,
    'scores': {'count': len(scores), 'sha256': _digest(scores)},
    'images': _images(rows),
  }
  answers = lambda clock, done: iter([] if done else [found])
  records, _ = video.answered(
    answers, len(found), len(found), said, FLAGS.output
  )
  return records, said, {}


def _digest(value: Any) -> str:
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _images(rows: list[Row]) -> dict[str, Any]:
  asked = [(row['dataset'], row['id'], str(row['image'])) for row in rows]
  return {'count': len(rows), 'sha256': _digest(asked)}


def wording_of(path: str) -> Wording:
  """What is asked: ours, or that of a JSON file.

  Raises:
    FileNotFoundError: no such file.
    ValueError: a file with other fields.
  """
  if not path:
    return Wording()
  if not epath.Path(path).exists():
    raise FileNotFoundError(f'--wording={path} does not exist')
  given = json.loads(epath.Path(path).read_text())
  names = [field.name for field in dataclasses.fields(Wording)]
  if not isinstance(given, dict) or not set(given) <= set(names):
    raise ValueError(f'--wording={path}: expected an object with {names}')
  return Wording(**given)


def settings_of(
  rows: list[Row],
  wording: Wording,
  batches: Batches,
  max_new_tokens: int,
  assistant: Assistant,
) -> dict[str, Any]:
  """What predictions depend on, by flag where there is one."""
  draws = batches.draws and dataclasses.asdict(batches.draws)
  return {
    'benchmark': FLAGS.benchmark,
    'model': FLAGS.model,
    'data': FLAGS.data,
    'sets': FLAGS.sets,
    'wording': dataclasses.asdict(wording),
    'think': FLAGS.think,
    'reader': FLAGS.reader,
    'draws': draws,
    'max_pixels': FLAGS.max_pixels,
    'max_new_tokens': max_new_tokens,
    'batch_size': batches.size,
    'runtime': dataclasses.asdict(assistant.model.runtime),
    'images': _images(rows),
  }


def show(report: dict[str, Any]) -> None:
  """Prints scores by set, their means, and all that went wrong."""
  scores = report['scores']
  for way in ('greedy', 'mean_of_drawn'):
    if way not in scores:
      continue
    found = scores[way]
    rows = [_row(name, part) for name, part in found['sets'].items()]
    rows += [_row(_title(n), found[n]) for n in MEANS if n in found]
    header = ['', *PRINTED, 'images']
    title = 'iqa' if report['settings'].get('predictions') else way
    console.print_table(title.replace('_', ' '), header, rows)
  lines = [
    [f'{name}: {what}', str(count)]
    for name, found in scores['counts'].items()
    for what, count in _troubles(found)
  ]
  if lines:
    console.print_table('beside them', ['', 'images'], lines)
  if 'measured' in report:
    summary.show_efficiency({}, report['measured'])
  summary.show_problems(report['bad_rows'] + report['problems'])


def _title(name: str) -> str:
  return name.replace('_', ' ') if name != 'mean' else 'mean of sets'


def _row(name: str, part: dict[str, Any]) -> list[str]:
  cells = ['-' if part[m] is None else f'{part[m]:.3f}' for m in PRINTED]
  return [name, *cells, str(part.get('count', ''))]


def _troubles(found: dict[str, Any]):
  yield from (('not shown, ' + k, v) for k, v in found['problems'].items())
  yield from (('greedy answer, ' + k, v) for k, v in found['unread'].items())
  if found['drawn_unread']:
    yield f'unread of {found["drawn"]} drawn answers', found['drawn_unread']
