r"""Makes a RALI of an aligned CLIP and opinions: stages 2 and 3, and export.

  python -m launch.fit_scorer --model=runs/aligned/export \
    --data=KONIQ/metas/train_koniq_7k.json --images=Data-DeQA-Score \
    --output=runs/rali/scorer
  python -m launch.score --model=runs/rali/scorer --images=photos --output=out

`--model` is a CLIP folder or hub id: what launch.train's contrastive objective
left and launch.convert exported, or a published CLIP, which is the ablation
without alignment. `--data` is a file of data/sources/iqa.py. Prints the scores
of the images held out, before the fit and after, and of the ablations with
`--ablations`; writes them beside the export as fit.json. Images that cannot be
read are counted, named by reason, and not trained on.
"""

import dataclasses
import json
from collections import Counter
from typing import Any

import jax
import numpy as np
from absl import app, flags
from etils import epath

from data.processors.registry import processor_from_hf
from data.sources import iqa
from experiments.rali.scoring import embed_rows
from launch import console
from vlm.convert import folder as folders
from vlm.convert import rali
from vlm.convert.reader import load_params
from vlm.methods.rali import stages
from vlm.methods.rali.basis import BasisSettings
from vlm.methods.rali.fit import FitSettings
from vlm.methods.rali.stages import StageSettings
from vlm.models import clip, registry
from vlm.sharding import mesh as mesh_lib
from vlm.sharding import rules

FLAGS = flags.FLAGS
COLUMNS = ('plcc', 'srcc', 'mse', 'train_srcc', 'train_mse')


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  flags.DEFINE_string('model', None, 'CLIP folder or hub id.', required=True)
  flags.DEFINE_string('data', None, 'File of opinions.', required=True)
  flags.DEFINE_string('images', '', 'Folder that its images are in.')
  flags.DEFINE_string('output', None, 'Folder of the export.', required=True)
  flags.DEFINE_integer('prototypes', 250, 'K.', lower_bound=1)
  flags.DEFINE_integer('bins', 240, 'N; 0: none.', lower_bound=0)
  flags.DEFINE_integer('components', 512, 'Of the PCA; 0: none.', lower_bound=0)
  flags.DEFINE_float('tau', 0.07, 'Temperature.', lower_bound=1e-3)
  flags.DEFINE_integer('epochs', 50, 'Of the fit; 0: none.', lower_bound=0)
  flags.DEFINE_float('lr', 1e-3, 'Of the fit.', lower_bound=0.0)
  flags.DEFINE_float('pull', 0.0, 'Towards the basis.', lower_bound=0.0)
  flags.DEFINE_bool('ablations', False, 'Also without each part.')
  flags.DEFINE_integer('seed', 0, 'Of everything that is drawn.', lower_bound=0)
  flags.DEFINE_integer('batch_size', 16, 'Images, per device.', lower_bound=1)


def main(argv: list[str]) -> None:
  """Loads, embeds, fits, writes."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  console.set_up_logging()
  with console.plain_errors('launch.fit_scorer'):
    _run()


def _run() -> None:
  settings = StageSettings(
    BasisSettings(
      FLAGS.prototypes, FLAGS.bins, FLAGS.components, seed=FLAGS.seed
    ),
    FitSettings(
      epochs=FLAGS.epochs, lr=FLAGS.lr, pull=FLAGS.pull, seed=FLAGS.seed
    ),
    FLAGS.tau,
    seed=FLAGS.seed,
  )
  mesh = mesh_lib.make_mesh({'data': -1, 'fsdp': 1})
  folder = folders.resolve(FLAGS.model)
  config = folders.read_config(folder)
  # Before anything that takes long: the preprocessor must be CLIP's.
  crop = processor_from_hf(folder)
  preprocessor = json.loads((folder / rali.PREPROCESSOR).read_text())
  tower = registry.build(clip.ClipImageConfig.from_hf(config))
  placed = rules.shardings(mesh, tower.abstract_params)
  params = load_params(folder, tower, placed)
  rows, skipped = iqa.open_file(FLAGS.data, FLAGS.images), Counter()
  size = FLAGS.batch_size * mesh_lib.batch_shards(mesh)
  with console.progress_bar() as bar:
    task = bar.add_task('images', total=len(rows))
    step = lambda count: bar.update(task, advance=count)
    x, opinions = embed_rows(
      tower, params, crop, rows, mesh, size, skipped, step
    )
  for reason, count in skipped.items():
    console.say(f'images left out: {count}: {reason}')
  cases = {'full': settings}
  if FLAGS.ablations:
    cases = stages.ablations(settings)
  made = {
    name: stages.make_scorer(case, opinions, x) for name, case in cases.items()
  }
  full = made['full']
  rali.save(
    FLAGS.output,
    rali.Rali(
      tower,
      params,
      full.fitted.params,
      full.form,
      stages.arrays(full),
      rali.tower_config(config),
      preprocessor,
    ),
  )
  table = {'unfitted': full.fitted.rows['unfitted']}
  table |= {name: one.fitted.rows['fitted'] for name, one in made.items()}
  _report(table, full, settings, len(x), skipped)


def _report(
  table: dict[str, dict[str, float]],
  full: stages.Scorer,
  settings: StageSettings,
  images: int,
  skipped: Counter,
) -> None:
  facts: dict[str, Any] = {
    'images': images,
    'skipped': dict(skipped),
    'epoch': full.fitted.epoch,
    'bins': full.basis.bins,
    'scores': table,
    'history': full.fitted.history,
    'settings': dataclasses.asdict(settings),
    'jax': jax.__version__,
  }
  path = epath.Path(FLAGS.output) / 'fit.json'
  path.write_text(json.dumps(facts, indent=1))
  rows = [
    [name, *(console.number(row[column]) for column in COLUMNS)]
    for name, row in table.items()
  ]
  title = f'{images} images, a tenth held out; best epoch {full.fitted.epoch}'
  console.print_table(title, ['case', *COLUMNS], rows)
  if np.isnan(table['full']['srcc']):
    console.say('the scorer gives one score for every image held out')
  console.say(f'ready for launch.score --model={FLAGS.output}')


def run() -> None:
  """Entry point."""
  define_flags()
  app.run(main)


if __name__ == '__main__':
  run()
