r"""Finds images by captions and captions by images through MASK's knowledge.

  python -m launch.evaluate --benchmark=retrieval --data=dataset_coco.json \
    --features=coco_test_npz --knowledge=runs/knowledge --protocol=5fold_1k \
    --vectors=glove.840B.300d.txt --output=runs/coco
  python -m launch.evaluate --benchmark=retrieval --data=test_caps.txt \
    --features=test_ims.npy --base=clip_scores.npy ...
  python -m launch.evaluate --benchmark=retrieval --embedder=DINOV2 \
    --data=dataset_flickr30k.json --images=flickr30k-images --model=CLIP ...

`--data` is Karpathy's json or SCAN's captions, `--features` a layout of
data/sources/region_features.py; without a detector, crops of `--images` by
`--embedder`, the one that made the knowledge. `--knowledge` comes from
launch.knowledge and is matched alone; with `--base`, scores [images, captions],
or `--model`, a CLIP, also as what puts their best candidates in a new order.
`--tags` chooses words by part of speech; `--phrases`, with `--parses`, adds
adjectives to nouns as MACK does. Writes to `--output`:

  predictions.jsonl  a query a line: its words, rank, best ten and their scores
  scores.json        recalls both ways with intervals, of captions with OOD
                     words too, shares of words by status, protocol, settings
  features/          what --embedder made of crops, an image a file; a run that
                     was killed goes on there, and --features takes it
"""

import dataclasses
import json
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from absl import app, flags
from etils import epath
from jax.experimental import multihost_utils

from data import region_encoder, regions
from data.embeddings import Embedder
from data.knowledge import DROP, OOD_MODES, RECONSTRUCT, Knowledge
from data.region_encoder import Encoding
from data.sources import karpathy, region_features
from data.words import lemmas
from data.words.captions import (
  OOD,
  CaptionWords,
  WordSettings,
  look_up,
  words_of,
)
from data.words.vectors import WordVectors, load_vectors
from experiments.mask import phrases, retrieve
from experiments.mask.retrieve import Arm, Task
from launch import console
from launch.benchmarks import retrieval_report, video
from vlm.methods.mask.matcher import POOLINGS, Matcher
from vlm.methods.mask.reconstruct import MODES, Reconstruction
from vlm.methods.mask.rerank import MODES as RERANKS
from vlm.metrics import retrieval

FLAGS = flags.FLAGS
MATCHED, LITERAL = 'matched', 'paper_literal'
# pooling -> (of captions for an image, of images for a caption)
DIRECTIONS = {name: (name, name) for name in POOLINGS} | {
  MATCHED: ('i2t', 't2i'),
  LITERAL: ('i2t', 'i2t'),
}
IMAGES_AT_ONCE = 128
FEATURES = 'features'  # of --output, where --embedder leaves them
SETTINGS = (
  'benchmark', 'data', 'split', 'features', 'embedder', 'images', 'knowledge',
  'vectors', 'pooling', 'centre', 'ood', 'neighbours', 'similarity',
  'sharpness', 'protocol', 'lemmatise', 'stop_words', 'tags', 'parses',
  'phrases', 'base', 'model', 'rerank', 'rerank_k', 'rerank_alpha',
)  # fmt: skip


def define_flags() -> None:
  """Defines the flags that only this benchmark has."""
  flags.DEFINE_string('knowledge', '', 'Folder from launch.knowledge.')
  flags.DEFINE_string('features', '', 'Of the regions of the images.')
  flags.DEFINE_string('embedder', '', 'Image tower, in place of --features.')
  flags.DEFINE_string('vectors', '', 'Word vectors of the knowledge.')
  flags.DEFINE_multi_enum(
    'pooling', ['t2i', MATCHED], [*DIRECTIONS], 'Each is scored.'
  )
  flags.DEFINE_bool('centre', False, "Around the knowledge's mean (MACK).")
  flags.DEFINE_enum('ood', RECONSTRUCT, OOD_MODES, 'Words of no region.')
  flags.DEFINE_integer('neighbours', 10, 'm of --ood.', lower_bound=1)
  flags.DEFINE_enum('similarity', 'cos', MODES, 'Of --ood; the paper: raw.')
  flags.DEFINE_float('sharpness', 0.1, 'Temperature; the paper: 1.', 1e-6)
  flags.DEFINE_bool('lemmatise', False, 'Look base forms up too.')
  flags.DEFINE_bool('stop_words', True, 'Leave stop words out.')
  flags.DEFINE_string('tags', '', 'Part-of-speech tags, json.')
  flags.DEFINE_string('parses', '', 'Dependencies, json.')
  flags.DEFINE_bool('phrases', False, "MACK's nouns with their adjectives.")
  flags.DEFINE_string('base', '', 'npy of scores [images, captions].')
  flags.DEFINE_enum('rerank', 'zscore', RERANKS, 'How scores are put together.')
  flags.DEFINE_integer('rerank_k', 15, 'Candidates.', lower_bound=1)
  flags.DEFINE_float('rerank_alpha', 0.15, "Weight of knowledge's scores.")


def run_from_flags() -> None:
  """Loads, matches, scores, writes, prints.

  Exits with one line where a flag or the data is wrong.
  """
  with console.plain_errors('launch.evaluate'):
    _run()


def _run() -> None:
  _check_flags()
  knowledge, origin = _knowledge()
  data = karpathy.open_captions(FLAGS.data, FLAGS.split or 'test')
  retrieve.spans(data.owners, FLAGS.protocol)  # Before anything that is long.
  tags = FLAGS.tags and karpathy.read_tags(FLAGS.tags, len(data.captions))
  said, vectors = _words(data, tags or None, knowledge)
  words = look_up(said, knowledge.index, vectors.index, word_settings())
  table, ids = _table(knowledge, words, vectors, tags, len(data.captions))
  codes, valid, left_out = _regions(data, knowledge)
  codes = np.where(valid[..., None], codes - origin, 0)
  task = Task(data, codes, valid, words, table, ids, left_out)
  arms = _arms(task)
  folds = {name: _ranked(name, arm, data) for name, arm in arms.items()}
  settings = {name: getattr(FLAGS, name) for name in SETTINGS}
  report = retrieval_report.report_of(task, folds, knowledge, settings)
  # Scores come from the devices of all processes, which ask for them together.
  records = retrieval_report.records(task, arms, folds)
  if jax.process_index() == 0:
    _write(records, report)
    retrieval_report.show(report)
    console.say(f'scores and predictions: {FLAGS.output}')
  else:
    deque(records, maxlen=0)


def _write(records: Iterable[dict[str, Any]], report: dict[str, Any]) -> None:
  output = epath.Path(FLAGS.output)
  output.mkdir(parents=True, exist_ok=True)
  with (output / 'predictions.jsonl').open('w') as file:
    file.writelines(json.dumps(record) + '\n' for record in records)
  (output / 'scores.json').write_text(json.dumps(report, indent=1))


def _knowledge() -> tuple[Knowledge, np.ndarray]:
  """The knowledge, and where its codes have their origin, float32 [Z]."""
  knowledge = Knowledge.load(FLAGS.knowledge)
  if not FLAGS.centre:
    return knowledge, np.zeros(knowledge.width, np.float32)
  origin = knowledge.mean()
  prototypes = knowledge.prototypes - origin
  return dataclasses.replace(knowledge, prototypes=prototypes), origin


def _check_flags() -> None:
  for name in ('data', 'output', 'knowledge', 'vectors'):
    if not getattr(FLAGS, name):
      raise app.UsageError(f'--benchmark=retrieval needs --{name}')
  if bool(FLAGS.features) == bool(FLAGS.embedder):
    raise app.UsageError('expected either --features or --embedder')
  if FLAGS.base and FLAGS.model:
    raise app.UsageError('expected either --base or --model')
  if (FLAGS.embedder or FLAGS.model) and not FLAGS.images:
    raise app.UsageError('--embedder and --model need --images')
  if FLAGS.phrases and not (FLAGS.tags and FLAGS.parses):
    raise app.UsageError('--phrases needs --tags and --parses')
  if FLAGS.protocol not in retrieval.PROTOCOLS:
    raise app.UsageError(
      f'--protocol={FLAGS.protocol}, expected one of '
      f'{list(retrieval.PROTOCOLS)}'
    )


def word_settings() -> WordSettings:
  """How words are taken from captions, by the flags."""
  return WordSettings(FLAGS.stop_words, lemmatise=FLAGS.lemmatise)


def _words(
  data: karpathy.Captioned, tags: Any, knowledge: Knowledge
) -> tuple[list[list[str]], WordVectors]:
  said = [words_of(one, word_settings()) for one in tags or data.captions]
  wanted = {word for words in said for word in words}
  if FLAGS.lemmatise:
    wanted |= {form for word in wanted for form in lemmas.candidates(word)}
  # The knowledge's own words tell whether these are its vectors.
  vectors = load_vectors(FLAGS.vectors, wanted | set(knowledge.words))
  knowledge.check_vectors(vectors)
  return said, vectors


def _table(
  knowledge: Knowledge,
  words: CaptionWords,
  vectors: WordVectors,
  tags: Any,
  captions: int,
) -> tuple[np.ndarray, np.ndarray]:
  """What words look like, and each caption's rows of it."""
  if FLAGS.phrases:
    parses = karpathy.read_parses(FLAGS.parses, captions)
    return phrases.table(knowledge, tags, parses)
  table, _ = knowledge.table_for(
    words.words,
    vectors,
    ood=FLAGS.ood,
    reconstruction=Reconstruction(
      FLAGS.neighbours, FLAGS.similarity, FLAGS.sharpness
    ),
  )
  ids = words.without(OOD) if FLAGS.ood == DROP else words.ids
  return (table if len(table) else np.zeros((1, knowledge.width))), ids


def _regions(
  data: karpathy.Captioned, knowledge: Knowledge
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
  """Codes of all images' regions, which there are, and what was left out."""
  source = _source(data)
  order = region_features.places(source, data.images, data.files)
  encoding = None
  if region_encoder.is_there(FLAGS.knowledge):
    encoding = Encoding(*region_encoder.load(FLAGS.knowledge), IMAGES_AT_ONCE)
  left_out: Counter[str] = Counter()
  codes = []
  with console.progress_bar() as bar:
    task = bar.add_task('images', total=len(order))
    for batch in region_features.batches(
      source, order, IMAGES_AT_ONCE, left_out
    ):
      x = encoding(*batch) if encoding else batch.features
      if x.shape[-1] != knowledge.width:
        raise ValueError(
          f'--features have {x.shape[-1]} numbers, the knowledge '
          f'{knowledge.width}; give those of one kind'
        )
      codes += [row[valid] for row, valid in zip(x, batch.valid)]
      bar.advance(task, len(x))
  counts = {reason: count for reason, count in left_out.items() if count}
  return *region_features.padded(codes), counts


def _source(data: karpathy.Captioned) -> region_features.FeatureSource:
  if FLAGS.features:
    return region_features.open_features(FLAGS.features, len(data.images))
  embedder = regions.local_embedder(FLAGS.embedder)
  crops = regions.Crops(embedder, FLAGS.images.split(','), _files(data))
  folder = epath.Path(FLAGS.output) / FEATURES
  with console.progress_bar() as bar:
    task = bar.add_task('crops', total=len(crops.own))
    regions.write(
      crops,
      folder,
      encoded_by=FLAGS.embedder,
      progress=lambda count: bar.advance(task, count),
    )
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('all crops are written')
  return region_features.open_features(folder)


def _files(data: karpathy.Captioned) -> list[str]:
  if not all(data.files):
    raise ValueError(
      f"--data={FLAGS.data} does not name its images; give Karpathy's json"
    )
  return list(data.files)


def _arms(task: Task) -> dict[str, Arm]:
  """Every way to score, by name."""
  data, arms = task.data, {}
  matchers: dict[str, retrieval.Score] = {}
  for name in dict.fromkeys(FLAGS.pooling):
    for pooling in DIRECTIONS[name]:
      if pooling not in matchers:
        made = Matcher(
          task.codes, task.valid, task.table, task.ids, pooling=pooling,
          mesh=video.mesh_of(FLAGS.tensor),
        )  # fmt: skip
        matchers[pooling] = made.score
    arms[name] = Arm(*(matchers[pooling] for pooling in DIRECTIONS[name]))
  base = _base(data)
  if base is None:
    return arms
  settings = dict(k=FLAGS.rerank_k, alpha=FLAGS.rerank_alpha, mode=FLAGS.rerank)
  new = {
    f'base + {name}': retrieve.reranked(
      base, arm, data.owners, FLAGS.protocol, **settings
    )
    for name, arm in arms.items()
  }
  return arms | {'base': Arm(base, base)} | new


def _base(data: karpathy.Captioned) -> retrieval.Score | None:
  """Scores of another model, or None."""
  if FLAGS.model:
    return _clip(data)
  if not FLAGS.base:
    return None
  scores = np.load(FLAGS.base, mmap_mode='r', allow_pickle=False)
  wanted = len(data.images), len(data.captions)
  if scores.shape != wanted:
    raise ValueError(
      f'--base={FLAGS.base} has shape {scores.shape}, expected {wanted}: '
      'images and their first five captions'
    )
  return retrieve.matrix(scores)


def _clip(data: karpathy.Captioned) -> retrieval.Score:
  embedder = Embedder.load(FLAGS.model)
  folders = FLAGS.images.split(',')
  crops = regions.Crops(embedder, folders, _files(data))
  with console.progress_bar() as bar:
    paths = (crops.path(number) for number in range(len(crops)))
    paths = bar.track(paths, len(crops), description='pictures')
    pictures = embedder.pictures(paths).vectors
    texts = bar.track(data.captions, description='captions')
    captions = embedder.texts(texts).vectors
  return retrieval.cosine(pictures, captions)


def _ranked(name: str, arm: Arm, data: karpathy.Captioned):
  console.say(f'ranking: {name}, {len(data.captions)} captions')
  return retrieve.rank(arm, data.owners, FLAGS.protocol)
