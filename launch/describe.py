r"""Asks a teacher to describe the images of a set, for RALI and for RACT.

  python -m launch.describe --config=experiments/rali/q_insight.py:full \
    --checkpoint=runs/rali/koniq --set=koniq --samples=3 \
    --output=descriptions/koniq.json

`--checkpoint` is a workdir of launch.train or a folder of safetensors, `--set`
a name as in `config.sets` (its training split). The file is a list of records
as data/sources/iqa.py reads them, with `description` and `descriptions`, all
that were sampled; `--rows=described` writes a record for each description
instead. Samples without a description are counted and named by reason.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags
from etils import epath
from ml_collections import config_flags

from data.examples import left_padded
from data.records import BadRecord
from experiments.rali import sets
from launch import console, evaluate, job
from vlm.methods.rali import descriptions
from vlm.rollout.sampler import prepare, sample
from vlm.rollout.settings import Sampling
from vlm.sharding import mesh as mesh_lib
from vlm.sharding.batch import to_global

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  config_flags.DEFINE_config_file('config', lock_config=True)
  flags.DEFINE_string('checkpoint', None, 'Of the teacher.', required=True)
  flags.DEFINE_string('set', None, 'Of config.sets.', required=True)
  flags.DEFINE_string('output', None, 'The .json to write.', required=True)
  flags.DEFINE_integer('samples', 3, 'Of an image.', lower_bound=1)
  flags.DEFINE_integer('seed', 0, 'Of the samples.', lower_bound=0)
  flags.DEFINE_enum('rows', 'image', ('image', 'described'), 'A record each.')


def main(argv: list[str]) -> None:
  """Loads, asks, writes."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  console.set_up_logging()
  with console.plain_errors('launch.describe'):
    _run()


def _run() -> None:
  if jax.process_count() > 1:
    raise ValueError('launch.describe runs on one host')
  made = job.prepare(FLAGS.config)
  rows = sets.open_set(FLAGS.config, FLAGS.set, 'train')
  mesh = mesh_lib.make_mesh(FLAGS.config.mesh)
  params, where = evaluate.load_checkpoint(made, FLAGS.checkpoint, mesh)
  console.say(f'{len(rows)} images described by {where}')
  skipped: Counter[str] = Counter()
  shown, said = [], []
  with console.progress_bar() as bar:
    task = bar.add_task('images', total=len(rows))
    for batch_rows, texts in completions(
      made, params, mesh, rows, FLAGS.samples, FLAGS.seed, skipped
    ):
      shown += batch_rows
      said += texts
      bar.update(task, completed=len(shown) + sum(skipped.values()))
  # As the set's own files have them, below the folder they were read from.
  root = FLAGS.config.data.path or FLAGS.config.data.images
  found = descriptions.describe(shown, said, root)
  records = found.records
  if FLAGS.rows == 'described':
    records = descriptions.one_by_one(records)
  path = epath.Path(FLAGS.output)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(records, indent=1))
  for what, counts in (('images', skipped), ('samples', found.dropped)):
    for reason, count in counts.items():
      console.say(f'{what} left out: {count}: {reason}')
  console.say(
    f'{len(records)} records, {found.silent} images without a description: '
    f'{path}'
  )


def completions(
  made: job.Job,
  params: Any,
  mesh: jax.sharding.Mesh,
  rows: Sequence[Any],
  samples: int,
  seed: int,
  skipped: Counter,
) -> Iterator[tuple[list[Any], list[list[str]]]]:
  """Yields rows that could be shown, and what was said of each, in batches.

  Temperature 1 over the whole distribution, as in training; a row's samples
  depend on `seed` and its number alone.

  Args:
    made: the job of the teacher.
    params: its parameters on `mesh`.
    mesh: over which batches are split.
    rows: what to describe.
    samples: of each.
    seed: of all.
    skipped: counts rows that cannot be shown, by reason.
  """
  config, stop = made.config, job.stop_ids(made)
  size = config.eval.batch_size
  mesh_lib.check_batch_size(mesh, size)
  settings = Sampling(config.eval.max_new_tokens, stop)
  weights = prepare(made.model, params)
  numbers = np.random.SeedSequence(seed).generate_state(len(rows), np.uint32)
  for start in range(0, len(rows), size):
    prompts, kept = [], []
    for number in range(start, min(start + size, len(rows))):
      try:
        row = rows[number]
        example = made.task.prompt(row, np.random.default_rng(0))
        prompt = made.encoder.prompt(example)
      except BadRecord as bad:
        skipped[bad.reason] += 1
        continue
      prompts.append(prompt)
      kept.append((row, numbers[number]))
    if not prompts:
      continue
    # One static shape: a short batch repeats its last row.
    missing = size - len(prompts)
    seeds = [s for _, s in kept] + [kept[-1][1]] * missing
    batch = left_padded(prompts + prompts[-1:] * missing, made.prompt_spec)
    with jax.set_mesh(mesh):
      found = sample(
        made.model,
        weights,
        to_global(batch, mesh),
        settings,
        samples=samples,
        seeds=np.array(seeds, np.uint32),
        detokenize=made.chat.decode,
      )
    yield [row for row, _ in kept], found.texts[: len(kept)]


def run() -> None:
  """Entry point."""
  define_flags()
  app.run(main)


if __name__ == '__main__':
  run()
