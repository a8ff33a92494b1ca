r"""Evaluates a published checkpoint on a video benchmark.

  python -m launch.evaluate --benchmark=videomme --model=DIR_OR_HUB_ID \
    --data=gs://bucket/Video-MME --output=runs/videomme --frames=32

`--data` is the folder as published, its archives unpacked; each reader in
data/sources/ says what it holds. Writes to `--output`, and continues there:

  settings.json       what the predictions depend on
  predictions.jsonl   one record a line, appended as they come
  scores.json         scores, efficiency, settings, videos that were not shown
  submission.json     EgoSchema's `total`: what its server reads
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from absl import app, flags
from etils import epath

from data.assistant import Assistant
from data.sources.video_qa import Question
from experiments.asking import hosts
from experiments.asking.clock import Clock
from experiments.asking.predictions import Predictions
from experiments.video_qa import benchmarks, prompts
from experiments.video_qa.ask import Asking, ask
from experiments.video_qa.benchmarks import BENCHMARKS
from launch import console, reduction
from launch.benchmarks import summary
from vlm.sharding import mesh as mesh_lib

FLAGS = flags.FLAGS
DEPTHLM = 'depthlm'  # launch/benchmarks/depth.py
IQA = 'iqa'  # launch/benchmarks/iqa.py
RETRIEVAL = 'retrieval'  # launch/benchmarks/retrieval.py


def define_flags() -> None:
  """Defines the flags; `--output` is launch.evaluate's."""
  names = sorted([*BENCHMARKS, DEPTHLM, IQA, RETRIEVAL])
  flags.DEFINE_enum('benchmark', None, names, 'Ask these questions.')
  flags.DEFINE_string('model', '', 'Folder or hub id, with --benchmark.')
  flags.DEFINE_string('data', '', "The benchmark's folder as published.")
  flags.DEFINE_string('split', '', 'Of the benchmark; its usual one if empty.')
  flags.DEFINE_integer(
    'frames', 32, 'Of each video; 0: the rule of the checkpoint.', lower_bound=0
  )
  flags.DEFINE_integer(
    'limit',
    0,
    'Questions, spread evenly over the split; 0: all.',
    lower_bound=0,
  )
  flags.DEFINE_string('prompt', '', 'Name of a variant, or a JSON file.')
  flags.DEFINE_integer(
    'max_new_tokens', 0, "Longest answer; 0: the benchmark's.", lower_bound=0
  )
  flags.DEFINE_integer(
    'batch_size', 0, 'Questions at once; 0: a few for each part of the mesh.'
  )
  flags.DEFINE_integer('tensor', 1, 'Devices that share each layer.')
  flags.DEFINE_integer('threads', 4, 'That read videos.', lower_bound=1)


def run_from_flags() -> None:
  """Loads, asks, scores, writes, prints.

  Exits with one line where a flag or the data is wrong.
  """
  with console.plain_errors('launch.evaluate'):
    _run()


def _run() -> None:
  check_flags()
  questions = benchmarks.questions(
    FLAGS.benchmark, FLAGS.data, FLAGS.split, FLAGS.limit
  )
  mesh = mesh_of(FLAGS.tensor)
  asking = _asking(mesh)
  visual_transform = reduction.from_flags()
  assistant = Assistant.load(
    FLAGS.model, mesh=mesh, visual_transform=visual_transform
  )
  if assistant.processor is None:
    raise ValueError(f'--model={FLAGS.model} reads text only')
  settings = settings_of(questions, asking, assistant, visual_transform)
  answers = lambda clock, done: ask(
    assistant, questions, asking, mesh, clock, done
  )
  records, clock = answered(
    answers, len(questions), asking.batch_size, settings, FLAGS.output
  )
  report = summary.report_of(
    FLAGS.benchmark, records, assistant, clock, visual_transform
  )
  if jax.process_index() == 0:
    report |= {'settings': settings}
    summary.write(epath.Path(FLAGS.output), report, records)
    summary.show(FLAGS.benchmark, report)
    console.say(f'scores and predictions: {FLAGS.output}')


def check_flags() -> None:
  """What every benchmark needs."""
  for name in ('model', 'data', 'output'):
    if not getattr(FLAGS, name):
      raise app.UsageError(f'--benchmark={FLAGS.benchmark} needs --{name}')


def mesh_of(tensor: int) -> jax.sharding.Mesh:
  devices = jax.device_count()
  if tensor < 1 or devices % tensor:
    raise ValueError(
      f'--tensor={tensor}, expected a divisor of the {devices} devices'
    )
  return mesh_lib.make_mesh({'data': 1, 'fsdp': -1, 'tensor': tensor})


def batch_size_of(mesh: jax.sharding.Mesh, usual: int = 1) -> int:
  """Questions at once, which the mesh must divide.

  Args:
    mesh: over which they are split.
    usual: for each part of it, unless --batch_size says otherwise.

  Raises:
    ValueError: naming the flag.
  """
  shards = mesh_lib.batch_shards(mesh)
  batch_size = FLAGS.batch_size or usual * shards
  if batch_size % shards:
    raise ValueError(
      f'--batch_size={batch_size}, expected a multiple of {shards}, the '
      f'{jax.device_count()} devices by --tensor={FLAGS.tensor}'
    )
  return batch_size


def _asking(mesh: jax.sharding.Mesh) -> Asking:
  usual = BENCHMARKS[FLAGS.benchmark].max_new_tokens
  return Asking(
    prompts.choose(FLAGS.benchmark, FLAGS.prompt),
    FLAGS.frames,
    FLAGS.max_new_tokens or usual,
    batch_size_of(mesh),
    FLAGS.threads,
  )


def settings_of(
  questions: Sequence[Question],
  asking: Asking,
  assistant: Assistant,
  visual_transform: Any,
) -> dict[str, Any]:
  """What predictions depend on, by flag where there is one."""
  asked = [(q.id, q.question, q.options, q.start, q.end) for q in questions]
  digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
  benchmark = BENCHMARKS[FLAGS.benchmark]
  return {
    'benchmark': FLAGS.benchmark,
    'split': FLAGS.split or benchmark.splits[0],
    'limit': FLAGS.limit,
    'model': FLAGS.model,
    'frames': asking.frames,
    'prompt': dataclasses.asdict(asking.prompt),
    'max_new_tokens': asking.max_new_tokens,
    'batch_size': asking.batch_size,
    'runtime': dataclasses.asdict(assistant.model.runtime),
    'visual_transform': described(visual_transform),
    'questions': {'count': len(questions), 'sha256': digest},
  }


def described(settings: Any) -> Any:
  """Frozen settings as JSON, with the names of their classes."""
  if dataclasses.is_dataclass(settings):
    fields = [field.name for field in dataclasses.fields(settings)]
    values = {name: described(getattr(settings, name)) for name in fields}
    return {'name': type(settings).__name__, **values}
  plain = settings is None or isinstance(settings, str | int | float)
  return settings if plain else repr(settings)


def answered(
  answers: Callable[[Clock, int], Iterator[list[dict[str, Any]]]],
  total: int,
  batch_size: int,
  settings: dict[str, Any],
  output: epath.PathLike,
) -> tuple[list[dict[str, Any]], Clock]:
  """Answers what is not answered yet.

  Args:
    answers: of a clock and the questions to leave out, gives batches of
      records.
    total: questions there are.
    batch_size: questions of a batch.
    settings: what the predictions depend on.
    output: the folder of the predictions.

  Returns:
    The records of all questions (on process 0; of this run's on others), and
    what was measured in this run.

  Raises:
    ValueError: the folder holds predictions under other settings.
  """
  written, refused = None, None
  if jax.process_index() == 0:
    try:
      written = Predictions(output, settings, total, batch_size)
    except ValueError as error:
      refused = error
  # The others wait here, and must not wait for ever.
  done = hosts.told(-1 if refused else written.done if written else 0)
  if done < 0:
    raise refused or ValueError(f'--output={output}: process 0 refused it')
  clock = Clock()
  own = _with_progress(
    settings['benchmark'], total, done, answers(clock, done), written
  )
  return own if written is None else written.read(), clock


def _with_progress(
  name: str,
  total: int,
  done: int,
  batches: Iterator[list[dict[str, Any]]],
  written: Predictions | None,
) -> list[dict[str, Any]]:
  own = []
  with console.progress_bar() as bar, contextlib.ExitStack() as stack:
    if written is not None:
      stack.callback(written.close)
    task = bar.add_task(name, total=total)
    bar.advance(task, done)
    for records in batches:
      own += records
      if written is not None:
        written.append(records)
      bar.advance(task, len(records))
  return own
