"""What every entry point makes of a contrastive config: model, data, scores."""

import dataclasses
from collections import Counter
from typing import Any

import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from data import assemble, pipeline, records
from data.checkpoint import load_processor
from data.embeddings import Embedder
from data.pairs import PairEncoder, TextEncoder
from data.processors.registry import processor_of
from experiments import task as tasks
from launch import job
from vlm.metrics import retrieval
from vlm.models import clip, flops, registry
from vlm.models.functional import Params
from vlm.train import contrastive
from vlm.train.metrics import Throughput, peak_flops
from vlm.train.step import Objective


@dataclasses.dataclass(frozen=True)
class PairJob:
  """A contrastive config made concrete; holds no arrays."""

  config: ConfigDict
  task: Any
  model: Any
  encoder: PairEncoder

  @property
  def tokenizer_json(self) -> str:
    """Of the text tower."""
    return self.encoder.text.tokenizer_json

  @property
  def rows(self) -> str:
    """Shapes of the rows, in words."""
    facts = self.model.config
    return (
      f'a picture of {facts.vision.image_size} x {facts.vision.image_size} '
      f'pixels, {facts.text.context} tokens'
    )


def prepare(config: ConfigDict) -> PairJob:
  """Builds everything that needs no device memory.

  Raises:
    ValueError: for a batch without negatives, or a model or tokenizer that
      does not fit, naming the flag.
  """
  if config.batch_size == 1:
    raise ValueError(
      '--config.batch_size=1: a pair alone has nothing to be told apart from; '
      'expected at least 2'
    )
  retrieval.folds_of(config.contrastive.protocol)  # Before it is needed.
  task = tasks.load(config)
  model = model_of(config, task)
  text = TextEncoder(task.tokenizer_json(), model.config.text.context)
  _check_end(text, model.config.text)
  folder = config.model.init_from
  picture = load_processor(folder) if folder else processor_of(model.config)
  return PairJob(config, task, model, PairEncoder(picture, text))


def model_of(config: ConfigDict, task: Any = None) -> Any:
  """Both towers: published, by name or folder, or made here.

  Raises:
    ValueError: for a model without a text tower.
  """
  if config.model.preset or config.model.init_from:
    model = job.model_of(config)
    if not hasattr(model, 'encode_text'):
      name = config.model.preset or config.model.init_from
      raise ValueError(
        f'{name} ({model.config.model_type}) has no text tower; set '
        '--config.model.preset to a CLIP'
      )
    return model
  task = task or tasks.load(config)
  words = TextEncoder(task.tokenizer_json(), 1)
  facts = clip.ClipConfig(
    clip.ClipVisionConfig(**config.model.vision),
    clip.ClipTextConfig(
      vocab_size=words.tokenizer.get_vocab_size(),
      eos_token=words.end,
      **config.model.text,
    ),
    config.model.embedding,
    logit_bias=config.contrastive.loss == 'sigmoid',
  )
  return registry.build(facts, job.runtime_of(config))


def _check_end(text: TextEncoder, facts: clip.ClipTextConfig) -> None:
  """The tower must find the end of a text where the tokenizer puts it."""
  expected = facts.eos_token
  if expected == clip.LEGACY_EOS:
    expected = facts.vocab_size - 1
  if text.end != expected:
    raise ValueError(
      f'the tokenizer ends a text with id {text.end}, the text tower expects '
      f'{expected}; set --config.model.init_from to the folder of both'
    )


def objective(config: ConfigDict, model: Any) -> Objective:
  """The contrastive objective; `config.accumulate` are its cached parts."""
  settings = config.contrastive
  return contrastive.contrastive(
    model,
    loss=settings.loss,
    share_equal=settings.share_equal,
    parts=config.accumulate,
    block=settings.block,
    max_scale=settings.max_scale,
  )


def shapes(config: ConfigDict, model: Any) -> dict[str, Any]:
  """Shapes of the global batch, as documented in `data/pipeline.py`."""
  facts, rows = model.config, config.batch_size
  side = facts.vision.image_size
  struct = jax.ShapeDtypeStruct
  return {
    'pixels': struct((rows, side, side, 3), np.uint8),
    'tokens': struct((rows, facts.text.context), np.int32),
    'text_ids': struct((rows,), np.int32),
    'cut': struct((rows,), np.float32),
  }


def throughput(made: PairJob, mesh: jax.sharding.Mesh) -> Throughput:
  """FLOPs of a step; tokens of both kinds have no common measure."""
  batch = shapes(made.config, made.model)
  return Throughput(
    flops=flops.train_flops(made.model.config, batch),
    peak=peak_flops(list(mesh.devices.flat)),
  )


class _Pairs(grain.transforms.RandomMap):
  """Row -> arrays of a pair, with the pipeline's generator; picklable."""

  def __init__(self, task: Any, encoder: PairEncoder):
    self._task, self._encoder = task, encoder

  def random_map(self, row: Any, rng: Any) -> dict[str, Any]:
    return self._encoder(*self._task.pair(row, rng))


def training_batches(made: PairJob, mesh: jax.sharding.Mesh):
  """The iterator of this process's training batches."""
  del mesh  # These batches need no device.
  data = made.config.data
  sources, weights = made.task.train_rows()
  return pipeline.build(
    sources,
    [_Pairs(made.task, made.encoder)],
    rows=assemble.Stacked(),
    batch_size=made.config.batch_size,
    seed=made.config.seed,
    shuffle=data.shuffle,
    workers=data.workers,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    epochs=data.epochs or None,
    weights=weights,
    policy=records.BadRowPolicy(data.on_bad, data.max_bad_share),
  )


def evaluate(
  made: PairJob, params: Params, mesh, *, progress=lambda name, done: None
) -> dict[str, dict[str, Any]]:
  """Finds the texts of every picture of every set, and the other way round.

  A task that tests its towers otherwise does so instead.

  Args:
    made: the job.
    params: parameters on `mesh`.
    mesh: the mesh.
    progress: called with the set's name and the pictures so far.

  Returns:
    {set: {'records': [...], 'scores': {...}, 'skipped': {...}}}; records name
    row and text and their ranks from 0, scores are `retrieval.summary`.
  """
  if hasattr(made.task, 'evaluate'):
    return made.task.evaluate(made, params, mesh)
  return {
    name: _retrieve(made, params, mesh, name, rows, progress)
    for name, rows in made.task.eval_sets().items()
  }


def _retrieve(made, params, mesh, name, rows, progress) -> dict[str, Any]:
  embedder = Embedder(
    made.model,
    params,
    made.encoder.picture,
    made.encoder.text,
    mesh,
    made.config.eval.batch_size,
  )
  readable, skipped = [], Counter()

  def pictures():
    for number in range(len(rows)):
      try:
        picture, texts = made.task.texts(rows[number])
      except records.BadRecord as bad:
        skipped[bad.reason] += 1
        continue
      readable.append((number, texts))
      yield picture
      progress(name, len(readable))

  seen = embedder.pictures(pictures(), skip=True)
  skipped.update(bad.reason for bad in seen.bad)
  kept = [readable[place] for place in seen.kept]
  words = [text for _, texts in kept for text in texts]
  if not words:
    raise ValueError(f'{name}: no pair could be read; skipped {dict(skipped)}')
  owners = np.repeat(np.arange(len(kept)), [len(texts) for _, texts in kept])
  score = retrieval.cosine(seen.vectors, embedder.texts(words).vectors)
  found = retrieval.ranks(score, owners)
  scores, protocol = retrieval.summary(found), made.config.contrastive.protocol
  if protocol != 'all':
    scores = retrieval.retrieval(score, owners, protocol=protocol)
  if hasattr(made.task, 'probe'):
    read = [rows[number] for number, _ in kept]
    scores |= made.task.probe(read, seen.vectors)
  cut = [made.encoder.text(text)[1] for text in words]
  return {
    'records': [
      {
        'row': kept[owner][0],
        'text': text,
        'image_rank': int(rank),
        'text_rank': int(found.texts[owner]),
      }
      for text, owner, rank in zip(words, owners, found.images, strict=True)
    ],
    'scores': scores | {'cut_share': float(np.mean(cut))},
    'skipped': dict(skipped),
  }
