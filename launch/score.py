r"""Scores the quality of images by RALI: an image tower, no language model.

  python -m launch.score --model=DIR_OR_HUB_ID --images=photos \
    --output=runs/photos
  python -m launch.score --model=ByteDance/Q-Insight --images='photos/*.jpg' \
    --references=mos.csv --reference_columns=image,mos --output=runs/photos

`--model` is an export of ours or the released layout (see vlm/convert/rali.py),
whose pickles are read without running them. The images are resized and cropped
as the model's preprocessor_config.json says: of a photograph that is not square
the middle is seen. Writes to `--output`, and continues there after a kill:

  settings.json       what the scores depend on
  predictions.jsonl   an image and its score a line, or why it has none
  scores.csv          image, score; the best first
  histogram.png       how often each score was given
  extremes.png        the best and the worst images
  summary.json        counts, what was skipped and why, images per second, and
                      with --references the agreement with opinions
"""

import csv
import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags
from etils import epath
from matplotlib.figure import Figure

from experiments.asking.predictions import Predictions, reason
from experiments.rali import pictures, references
from experiments.rali.scoring import Files, ImageScorer, find_images
from launch import console
from vlm.convert import rali as folders
from vlm.models.functional import Runtime
from vlm.sharding import mesh as mesh_lib

FLAGS = flags.FLAGS
NAMED = 3  # files of each reason that are named


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  flags.DEFINE_string('model', None, 'Folder or hub id.', required=True)
  flags.DEFINE_string('images', None, 'Folder or glob.', required=True)
  flags.DEFINE_string('output', None, 'Folder of results.', required=True)
  flags.DEFINE_string('references', '', 'A csv file of opinions.')
  flags.DEFINE_list('reference_columns', ['image', 'mos'], 'Of --references.')
  flags.DEFINE_integer(
    'batch_size', 16, 'Images at once, per device.', lower_bound=1
  )
  flags.DEFINE_integer('threads', 4, 'That read images.', lower_bound=1)


def main(argv: list[str]) -> None:
  """Loads, scores, writes."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  if len(FLAGS.reference_columns) != 2:
    raise app.UsageError('--reference_columns=IMAGE,MOS expected')
  console.set_up_logging()
  with console.plain_errors('launch.score'):
    _run()


def _run() -> None:
  if jax.process_count() > 1:
    raise ValueError('launch.score runs on one host; start it on one of them')
  files = find_images(FLAGS.images)
  if files.others:
    console.say(f'{files.others} files without the suffix of an image left out')
  opinions = None
  if FLAGS.references:
    opinions = references.read_opinions(
      FLAGS.references, *FLAGS.reference_columns
    )
  mesh = mesh_lib.make_mesh({'data': -1, 'fsdp': 1})
  dtype = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
  model = folders.load(FLAGS.model, Runtime(dtype=dtype), mesh)
  size = sum(leaf.size for leaf in jax.tree.leaves(model.params))
  size += sum(array.size for array in model.scorer.values())
  console.say(f'{size / 1e6:.1f} M parameters on {mesh.size} device(s)')
  batch_size = FLAGS.batch_size * mesh_lib.batch_shards(mesh)
  scorer = ImageScorer(model, mesh, batch_size, FLAGS.threads)
  records, rate = _scored(scorer, files, batch_size, dtype)
  summary = summarise(records, rate) | {'parameters': size}
  if opinions is not None:
    summary['agreement'] = references.agreement(records, opinions)._asdict()
  write(epath.Path(FLAGS.output), files, records, summary)
  _show(records, summary)


def _scored(
  scorer: ImageScorer, files: Files, batch_size: int, dtype: str
) -> tuple[list[dict[str, Any]], float]:
  """All records, and images per second of those scored now."""
  listed = hashlib.sha256('\n'.join(files.names).encode()).hexdigest()
  settings = {
    'model': FLAGS.model,
    'images': FLAGS.images,
    'count': len(files.names),
    'names': listed,
    'batch_size': batch_size,
    'dtype': dtype,
  }
  total = len(files.names)
  kept = Predictions(FLAGS.output, settings, total, batch_size)
  first, start, counted = kept.done, None, 0
  with console.progress_bar() as bar:
    task = bar.add_task('images', total=total, completed=first)
    for records in scorer.score(files, first):
      kept.append(records)
      bar.update(task, advance=len(records))
      # The first batch also compiles.
      counted += len(records) if start is not None else 0
      start = start or time.monotonic()
  kept.close()
  seconds = time.monotonic() - (start or time.monotonic())
  return kept.read(), counted / seconds if counted else float('nan')


def summarise(records: Sequence[dict[str, Any]], rate: float) -> dict[str, Any]:
  """Counts, reasons of what was skipped, spread of the scores.

  Raises:
    ValueError: no image could be read.
  """
  bad = [record for record in records if 'score' not in record]
  scores = np.array([r['score'] for r in records if 'score' in r])
  if not scores.size:
    raise ValueError(
      f'none of {len(records)} images could be read; the first: '
      f'{bad[0]["image"]}: {bad[0]["problem"]}'
    )
  return {
    'images': len(scores),
    'skipped': dict(Counter(reason(record) for record in bad)),
    'mean': float(scores.mean()),
    'median': float(np.median(scores)),
    'std': float(scores.std()),
    'least': float(scores.min()),
    'most': float(scores.max()),
    'images_per_second': rate,
  }


def write(
  folder: epath.Path,
  files: Files,
  records: Sequence[dict[str, Any]],
  summary: dict[str, Any],
) -> None:
  """Writes everything that follows from the predictions."""
  scored = [(r['image'], r['score']) for r in records if 'score' in r]
  ranked = sorted(scored, key=lambda row: (-row[1], row[0]))
  table = io.StringIO()
  rows = csv.writer(table, lineterminator='\n')
  rows.writerow(('image', 'score'))
  rows.writerows((name, f'{score:.6f}') for name, score in ranked)
  (folder / 'scores.csv').write_text(table.getvalue())
  values = np.array([score for _, score in ranked])
  _save(folder / 'histogram.png', pictures.histogram(values))
  _save(folder / 'extremes.png', pictures.contact_sheet(files, ranked))
  text = json.dumps(summary, indent=1)
  (folder / 'summary.json').write_text(text + '\n')


def _save(path: epath.Path, figure: Figure) -> None:
  with path.open('wb') as file:
    figure.savefig(file, format='png', dpi=110)


def _show(records: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
  named: Counter[str] = Counter()
  for record in records:
    if 'problem' in record:
      named[reason(record)] += 1
      if named[reason(record)] <= NAMED:
        console.say(f'skipped {record["image"]}: {record["problem"]}')
  for why, count in summary['skipped'].items():
    console.say(f'skipped in all: {count}: {why}')
  console.say(
    f'{summary["images"]} images: {summary["least"]:.2f} to '
    f'{summary["most"]:.2f}, median {summary["median"]:.2f}; '
    f'{summary["images_per_second"]:.1f} images per second'
  )
  if 'agreement' in summary:
    found = summary['agreement']
    rows = [[name, console.number(v)] for name, v in found['scores'].items()]
    console.say(
      f'{found["images"]} images have a score and an opinion, '
      f'{found["without_score"]} only an opinion, {found["without_opinion"]} '
      'only a score'
    )
    console.print_table('agreement', ['measure', 'value'], rows)
  console.say(f'scores, histogram, best and worst: {FLAGS.output}')


def run() -> None:
  """Entry point."""
  define_flags()
  app.run(main)


if __name__ == '__main__':
  run()
