r"""Evaluates a checkpoint on a task's sets, or on a video.

  python -m launch.evaluate --config=experiments/depthlm/depthlm.py:tiny \
    --checkpoint=runs/depthlm/tiny-marker-0 --output=runs/scores
  python -m launch.evaluate --benchmark=videomme --model=DIR_OR_HUB_ID \
    --data=gs://bucket/Video-MME --output=runs/videomme --frames=32
  python -m launch.evaluate --benchmark=depthlm --model=DIR_OR_HUB_ID \
    --data=gs://bucket/ibims1.jsonl --output=runs/ibims1
  python -m launch.evaluate --benchmark=iqa --model=DIR_OR_HUB_ID \
    --data=gs://bucket/Data-DeQA-Score --sets=koniq,csiq --output=runs/iqa

`--benchmark` is told of in launch/benchmarks/ (video, depth, iqa, retrieval).
With `--config`, `--checkpoint` is a workdir of launch.train (its last good
checkpoint is read) or a folder of safetensors. Writes, per set, `SET.jsonl`
with one prediction a line, and one `scores.json` with all settings behind them.
"""

import functools
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import app, flags
from etils import epath
from ml_collections import config_flags

from data.assistant import Assistant
from data.chunks import chunks, filled, in_order, share
from experiments import task as tasks
from launch import console, job, reduction
from launch.benchmarks import depth, iqa, retrieval, video
from launch.objectives import registry
from launch.pods import distributed
from vlm.rollout.sampler import prepare, sample
from vlm.rollout.settings import Buckets, Sampling
from vlm.sharding import mesh as mesh_lib
from vlm.sharding import rules
from vlm.sharding.batch import to_global
from vlm.train.checkpoint import Checkpoints

log = logging.getLogger(__name__)

Progress = Callable[[str, int], None]


def load_checkpoint(
  made: job.Job, path: str, mesh, flag: str = '--checkpoint'
) -> tuple[Any, str]:
  """Parameters of a workdir's last good checkpoint or of a folder of weights.

  Averaged parameters are preferred where the run kept them.

  Returns:
    The parameters, and a description of where they come from.

  Raises:
    ValueError: if the path is neither.
  """
  folder = epath.Path(path)
  abstract = made.model.abstract_params
  shardings = rules.shardings(mesh, abstract)
  if not (folder / 'checkpoints').exists():
    if not list(folder.glob('*.safetensors')):
      raise ValueError(
        f'{flag}={path}: neither a workdir (no checkpoints/ in it) nor '
        'a folder of safetensors'
      )
    return job.load(made, path, shardings), str(folder)
  checkpoints = Checkpoints(folder / 'checkpoints')
  latest = checkpoints.latest()
  if latest is None:
    raise ValueError(f'{flag}={path}: it holds no checkpoint yet')
  name = 'ema' if made.config.optimizer.ema else 'params'
  placed = jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    abstract,
    shardings,
  )
  state, _ = checkpoints.restore({name: placed}, step=latest, partial=True)
  checkpoints.close()
  return state[name], str(checkpoints.path(latest))


def assistant_of(made: job.Job, params: Any, mesh) -> Assistant:
  """A job's model as one that answers, like a published checkpoint."""
  stop = job.stop_ids(made)
  return Assistant(
    made.model, params, made.chat, made.encoder.processor, stop, mesh
  )


def evaluate_job(
  made: Any,
  params: Any,
  mesh,
  *,
  progress: Progress = lambda name, done: None,
) -> dict[str, dict[str, Any]]:
  """What the objective's own evaluation says, or else `evaluate`.

  Args:
    made: from `registry.trainer_of(config).prepare`.
    params: parameters on `mesh`.
    mesh: the mesh.
    progress: called with the set's name and what is done so far.

  Returns:
    {set: {'records': [...], 'scores': {...}, 'skipped': {...}}}.
  """
  run = registry.trainer_of(made.config).evaluate or evaluate
  return run(made, params, mesh, progress=progress)


def evaluate(
  made: job.Job,
  params: Any,
  mesh,
  *,
  progress: Progress = lambda name, done: None,
) -> dict[str, dict[str, Any]]:
  """Asks every question of every set, and scores the answers.

  Args:
    made: the job.
    params: parameters on `mesh`.
    mesh: the mesh.
    progress: called with the set's name and the answers so far.

  Returns:
    {set: {'records': [...], 'scores': {...}, 'skipped': {...}}}.
  """
  answer = functools.partial(_answers, made, params, mesh)
  return tasks.scored(made.task, answer, progress)


def _answers(made, params, mesh, queries) -> Iterator[dict[str, Any]]:
  settings = made.config.eval
  greedy = Sampling(settings.max_new_tokens, job.stop_ids(made), temperature=0)
  weights = prepare(made.model, params)
  for chunk in chunks(queries, settings.batch_size):
    own = share(filled(chunk, settings.batch_size))
    batch = to_global(made.encoder.prompts(own, made.prompt_spec), mesh)
    with jax.set_mesh(mesh):
      out = sample(
        made.model,
        weights,
        batch,
        greedy,
        detokenize=made.chat.decode,
        buckets=Buckets(
          prompt=(batch['tokens'].shape[1],), new=(settings.max_new_tokens,)
        ),
      )
    rows = in_order(np.arange(settings.batch_size))
    for example, row in zip(chunk, rows, strict=False):
      yield example['record'] | {'prediction': out.texts[row][0]}


def write(
  folder: epath.Path, results: dict[str, Any], config: Any, checkpoint: str
) -> None:
  """Writes predictions and scores; see the module's docstring."""
  folder.mkdir(parents=True, exist_ok=True)
  for name, result in results.items():
    lines = [json.dumps(record) + '\n' for record in result['records']]
    (folder / f'{name}.jsonl').write_text(''.join(lines))
  scores = {
    'checkpoint': checkpoint,
    'sets': {
      name: {'scores': result['scores'], 'skipped': result['skipped']}
      for name, result in results.items()
    },
    'jax': jax.__version__,
    'config': json.loads(config.to_json_best_effort()),
  }
  (folder / 'scores.json').write_text(json.dumps(scores, indent=1))


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  config_flags.DEFINE_config_file('config', lock_config=True)
  flags.DEFINE_string('checkpoint', None, 'Workdir or folder of safetensors.')
  flags.DEFINE_string(
    'output', None, 'Where scores go; CHECKPOINT/evaluation by default.'
  )
  video.define_flags()
  depth.define_flags()
  iqa.define_flags()
  retrieval.define_flags()
  reduction.define_flags()


def main(argv: list[str]) -> None:
  """Loads, asks, scores, writes, prints a table."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  _check_flags()
  console.set_up_logging()
  distributed.initialize_from_flags()
  if flags.FLAGS.benchmark == video.DEPTHLM:
    depth.run_from_flags()
  elif flags.FLAGS.benchmark == video.IQA:
    iqa.run_from_flags()
  elif flags.FLAGS.benchmark == video.RETRIEVAL:
    retrieval.run_from_flags()
  elif flags.FLAGS.benchmark:
    video.run_from_flags()
  else:
    reduction.update(flags.FLAGS.config)
    _run_config(flags.FLAGS.config)


def _check_flags() -> None:
  given = flags.FLAGS
  if (given.benchmark is None) == (given.config is None):
    raise app.UsageError('expected either --config or --benchmark')
  if given.config is not None and not given.checkpoint:
    raise app.UsageError('--config needs --checkpoint')
  if given.benchmark and given.checkpoint:
    raise app.UsageError('--checkpoint goes with --config; set --model')


def _run_config(config: Any) -> None:
  mesh = mesh_lib.make_mesh(config.mesh)
  made = registry.trainer_of(config).prepare(config)
  params, source = load_checkpoint(made, flags.FLAGS.checkpoint, mesh)
  if hasattr(made.task, 'adopt'):
    made.task.adopt(flags.FLAGS.checkpoint)
  with console.Counter() as counter:
    found = evaluate_job(made, params, mesh, progress=counter)
  folder = epath.Path(
    flags.FLAGS.output or f'{flags.FLAGS.checkpoint}/evaluation'
  )
  if jax.process_index() == 0:
    write(folder, found, config, source)
    console.print_scores(found)
    console.say(f'scores and predictions: {folder}')


if __name__ == '__main__':
  define_flags()
  app.run(main)
