r"""Asks a teacher to describe the images of a set, for RALI and for RACT.

  python -m launch.describe --config=experiments/rali/q_insight.py:full \
    --checkpoint=runs/rali/koniq --set=koniq --samples=3 \
    --output=descriptions/koniq.json

`--checkpoint` is a workdir of launch.train or a folder of safetensors, `--set`
a name as in `config.sets` (its training split). The file is a list of records
as data/sources/iqa.py reads them, with `description` and `descriptions`, all
that were sampled; `--rows=described` writes a record for each description
instead. Samples without a description are counted and named by reason.

What was said is kept beside the file, in OUTPUT.asked, as it comes: a run that
was killed goes on where it was, and `--rows` can be changed without asking
again.
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
from experiments.asking.predictions import Predictions
from experiments.rali import sets
from launch import console, evaluate, job
from launch.train import config_hash
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
  path = epath.Path(FLAGS.output)
  kept = _kept(path, where, len(rows))
  with console.progress_bar() as bar:
    task = bar.add_task('images', total=len(rows), completed=kept.done)
    for records in completions(
      made, params, mesh, rows, FLAGS.samples, FLAGS.seed, kept.done
    ):
      kept.append(records)
      bar.update(task, completed=kept.done)
  kept.close()
  _write(path, rows, kept.read())


def _name(row: Any) -> str:
  return str(row['id'] if 'id' in row else row['image'])


def _kept(path: epath.Path, where: str, images: int) -> Predictions:
  """What was said so far, and what it depends on."""
  settings = {
    'checkpoint': where,
    'set': FLAGS.set,
    'images': images,
    'samples': FLAGS.samples,
    'seed': FLAGS.seed,
    'config': config_hash(FLAGS.config),
  }
  folder = path.parent / f'{path.name}.asked'
  return Predictions(folder, settings, images, FLAGS.config.eval.batch_size)


def _write(
  path: epath.Path, rows: Sequence[Any], asked: Sequence[dict[str, Any]]
) -> None:
  """Writes the records of what was said, and says what was left out.

  Raises:
    ValueError: it was said of other images.
  """
  skipped = Counter(r['problem'] for r in asked if r['problem'])
  numbers = [number for number, r in enumerate(asked) if not r['problem']]
  said, shown = [asked[n]['texts'] for n in numbers], [rows[n] for n in numbers]
  for row, number in zip(shown, numbers, strict=True):
    if _name(row) != asked[number]['image']:
      raise ValueError(
        f'{path}.asked describes {asked[number]["image"]!r} where the set now '
        f'has {_name(row)!r}; remove the folder, or set another --output'
      )
  # As the set's own files have them, below the folder they were read from.
  root = FLAGS.config.data.path or FLAGS.config.data.images
  found = descriptions.describe(shown, said, root)
  records = found.records
  if FLAGS.rows == 'described':
    records = descriptions.one_by_one(records)
  # A file that is either absent or complete.
  partial = path.with_name(path.name + '.partial')
  partial.write_text(json.dumps(records, indent=1))
  partial.replace(path)
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
  done: int = 0,
) -> Iterator[list[dict[str, Any]]]:
  """Yields what was said of each row, batch by batch.

  {'image', 'texts', 'problem'} of a row; of one that cannot be shown, no texts
  and why.

  Temperature 1 over the whole distribution, as in training; a row's samples
  depend on `seed` and its number alone.

  Args:
    made: the job of the teacher.
    params: its parameters on `mesh`.
    mesh: over which batches are split.
    rows: what to describe.
    samples: of each.
    seed: of all.
    done: rows that are left out at the beginning, whole batches.
  """
  config, stop = made.config, job.stop_ids(made)
  size = config.eval.batch_size
  mesh_lib.check_batch_size(mesh, size)
  settings = Sampling(config.eval.max_new_tokens, stop)
  weights = prepare(made.model, params)
  numbers = np.random.SeedSequence(seed).generate_state(len(rows), np.uint32)
  for start in range(done, len(rows), size):
    prompts, seeds, records = [], [], []
    for number in range(start, min(start + size, len(rows))):
      records.append({'image': '', 'texts': [], 'problem': ''})
      try:
        row = rows[number]
        records[-1]['image'] = _name(row)
        example = made.task.prompt(row, np.random.default_rng(0))
        prompts.append(made.encoder.prompt(example))
        seeds.append(numbers[number])
      except BadRecord as bad:
        records[-1]['problem'] = bad.reason
    if not prompts:
      yield records
      continue
    # One static shape: a short batch repeats its last row.
    missing = size - len(prompts)
    seeds += seeds[-1:] * missing
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
    texts = iter(found.texts)
    for record in records:
      if not record['problem']:
        record['texts'] = next(texts)
    yield records


def run() -> None:
  """Entry point."""
  define_flags()
  app.run(main)


if __name__ == '__main__':
  run()
