r"""Curates a published depth corpus into rows for training and evaluation.

  python -m launch.prepare --corpus=eth3d --source=/data/eth3d \
      --output=/data/rows/eth3d
  python -m launch.prepare --corpus=waymo --source=/data/waymo --split=val \
      --output=/data/rows --format=tfds --workers=32
  python -m launch.prepare --corpus=nyuv2 --source=/data/SUNRGBD \
      --labels=official --output=/data/rows/nyuv2_as_released

Started again with the same flags, a killed run goes on with the scenes that
are missing and ends with the same files. Frames that give no row are counted
and named by reason in OUTPUT/CORPUS-SPLIT_report.json.
"""

import os

from absl import app, flags

from data.records import NAMED_PER_REASON
from data.sources import depth_corpora
from data.sources.depth_corpora import curate, finish, store
from launch import console

FLAGS = flags.FLAGS
_CHOICES = curate.Settings('', '', '')


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  flags.DEFINE_enum(
    'corpus', None, list(depth_corpora.NAMES), 'Which.', required=True
  )
  flags.DEFINE_string(
    'source', None, 'Folder it was downloaded to.', required=True
  )
  flags.DEFINE_string('output', None, 'Folder to write.', required=True)
  flags.DEFINE_string('split', '', "The corpus's first when left out.")
  flags.DEFINE_enum(
    'labels',
    _CHOICES.labels,
    list(curate.LABELS),
    'Ranges by the documentation, or what the released scripts write.',
  )
  flags.DEFINE_enum(
    'format',
    _CHOICES.format,
    list(store.STORES),
    'A jsonl file with images, or ArrayRecord shards that TFDS reads.',
  )
  flags.DEFINE_integer('per_image', _CHOICES.per_image, 'Labels per image.')
  flags.DEFINE_integer(
    'every', _CHOICES.every, "Each n-th frame; 0: the corpus's own choice."
  )
  flags.DEFINE_enum(
    'lenses',
    _CHOICES.lenses,
    list(finish.LENSES),
    'Make images straight, or keep them bent and write the distortion.',
  )
  flags.DEFINE_float(
    'max_focal',
    _CHOICES.max_focal,
    "Shrink longer focal lengths to this; 0: never; -1: the corpus's choice.",
  )
  flags.DEFINE_integer('seed', _CHOICES.seed, 'Of the choice of pixels.')
  flags.DEFINE_integer(
    'workers', os.cpu_count() or 1, 'Processes.', lower_bound=1
  )


def run_corpus(
  settings: curate.Settings, workers: int
) -> tuple[str, curate.Report]:
  """`curate.prepare` with a bar: scenes, elapsed time, ETA, frames."""
  with console.progress_bar() as bar:
    task = bar.add_task(f'{settings.corpus}: scenes', total=None)

    def progress(done, scenes, report):
      bar.update(
        task,
        completed=done,
        total=scenes,
        description=f'{settings.corpus}: {report.rows} rows, '
        f'{len(report.bad)} bad frames; scenes',
      )

    return curate.prepare(settings, workers, progress)


def show(address: str, report: curate.Report) -> None:
  """Prints the counts, and the bad frames by reason."""
  console.say(
    f'{address}: {report.rows} rows with {report.labels} labels from '
    f'{report.frames} frames'
  )
  if report.bad:
    rows = []
    for reason, names in sorted(report.by_reason().items()):
      shown = ', '.join(names[:NAMED_PER_REASON])
      rows.append([reason, str(len(names)), shown])
    console.print_table('Bad frames', ['reason', 'frames', 'such as'], rows)


def main(argv: list[str]) -> None:
  """Curates `--corpus`."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  settings = curate.Settings(
    **{name: FLAGS[name].value for name in curate.Settings.__dataclass_fields__}
  )
  console.quiet()
  try:
    show(*run_corpus(settings, FLAGS.workers))
  except ValueError as e:
    raise app.UsageError(str(e)) from e


if __name__ == '__main__':
  define_flags()
  app.run(main)
