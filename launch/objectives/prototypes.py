"""What the objectives 'prototypes' and 'region_text' bring to launch.train.

Rows are images as sets of region features with the words of every region; a
pair takes one of a region's words at random each time its row is shown. At the
first step and every `config.mask.refresh` steps all regions are read, and the
bank of prototypes becomes the exact means of their codes (Eq. 2).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from data import pipeline, records
from experiments import task as tasks
from launch import job
from vlm.methods.mask.encoder import EncoderConfig, RegionEncoder
from vlm.methods.mask.prototypes import Moments, refreshed
from vlm.models.functional import Params
from vlm.sharding.batch import batch_sharding, to_global
from vlm.train import region_text
from vlm.train.metrics import Throughput
from vlm.train.prototypes import (
  PrototypeModel,
  PrototypeSettings,
  follow,
  prototypes,
)
from vlm.train.step import Absorb, Objective

Row = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class RegionJob:
  """A config of region features made concrete; holds no device arrays."""

  config: ConfigDict
  task: Any
  model: Any

  # There is no tokenizer: words are rows of a table, see `Task.files`.
  tokenizer_json = ''

  @property
  def rows(self) -> str:
    """Shapes of the rows, in words."""
    return (
      f'{self.config.data.regions} regions of {self.model.config.features} '
      'numbers'
    )


def settings_of(config: ConfigDict) -> PrototypeSettings:
  """The objective's settings in `config.mask`."""
  names = [field.name for field in dataclasses.fields(PrototypeSettings)]
  return PrototypeSettings(**{name: config.mask[name] for name in names})


def prepare(config: ConfigDict) -> RegionJob:
  """Builds everything that needs no device memory.

  Raises:
    ValueError: naming the flag, for settings that do not fit.
  """
  if config.mask.refresh < 1:
    raise ValueError(
      f'--config.mask.refresh={config.mask.refresh}, expected at least 1 step'
    )
  task = tasks.load(config)
  return RegionJob(config, task, model_of(config, task))


def encoder_of(config: ConfigDict) -> RegionEncoder:
  """The networks alone."""
  sizes = EncoderConfig(**config.model.encoder)
  return RegionEncoder(sizes, job.runtime_of(config))


def model_of(config: ConfigDict, task: Any = None) -> Any:
  """The region encoder with its bank, or with a table of words."""
  task, encoder = task or tasks.load(config), encoder_of(config)
  if config.objective == 'region_text':
    return region_text.RegionTextModel(encoder, len(task.vocabulary()))
  return PrototypeModel(encoder, task.words()[1])


def shaped_model(config: ConfigDict) -> Any:
  """The model as shapes, of as many words as a knowledge may have.

  Published files, of which words are counted, need not be there.
  """
  words = config.data.get('largest', 0)
  if not words:
    return model_of(config)
  encoder = encoder_of(config)
  return PrototypeModel(encoder, np.zeros((words, encoder.config.words)))


def objective(config: ConfigDict, model: Any) -> Objective:
  """What a step minimises."""
  if config.objective == 'region_text':
    return region_text.region_text(model)
  return prototypes(model, settings_of(config))


def absorb(config: ConfigDict) -> Absorb | None:
  """How the bank follows a step."""
  if config.objective == 'region_text':
    return None
  return follow(settings_of(config))


def shapes(config: ConfigDict, model: Any) -> dict[str, Any]:
  """Shapes of the global batch, as documented in `data/pipeline.py`."""
  rows, regions = config.batch_size, config.data.regions
  struct = jax.ShapeDtypeStruct
  batch = {
    'regions': struct((rows, regions, model.config.features), np.float32),
    'valid': struct((rows, regions), np.bool_),
  }
  if config.objective == 'region_text':
    return batch | {'caption': struct((rows, config.data.words), np.int32)}
  return batch | {'words': struct((rows, regions), np.int32)}


def throughput(made: RegionJob, mesh: jax.sharding.Mesh) -> Throughput:
  """Regions per step stand for tokens."""
  del mesh
  return Throughput(tokens=made.config.batch_size * made.config.data.regions)


class _Pairs(grain.transforms.RandomMap):
  """Row -> its regions, each with one of its words; picklable.

  Where `data.subsample` is a share t of the pairs, a word of a larger share s
  is kept with probability sqrt(t / s), so that the frequent are seen as the
  square root of their number; their regions stay, without a word.
  """

  def __init__(self, task: Any, data: ConfigDict):
    self._task, self._data, self._kept = task, data, None
    if data.subsample:
      counts = np.asarray(task.counts(), np.float64)
      self._kept = np.sqrt(data.subsample * counts.sum() / counts)

  def random_map(self, row: Any, rng: Any) -> Row:
    features, words = self._task.regions(row)
    drawn = [[one[rng.integers(len(one))]] if one else [] for one in words]
    if self._kept is not None:
      drawn = [
        [w for w in one if rng.random() < self._kept[w]] for one in drawn
      ]
    found = padded(features, drawn, self._data.regions, 1)
    return found | {'words': found['words'][:, 0]}


class _Captions(grain.transforms.RandomMap):
  """Row -> its regions and one of its captions as words; picklable."""

  def __init__(self, task: Any, data: ConfigDict):
    self._task, self._data = task, data

  def random_map(self, row: Any, rng: Any) -> Row:
    features, words = self._task.region_caption(row, rng)
    found = padded(features, [[]] * len(features), self._data.regions, 0)
    caption = np.full(self._data.words, -1, np.int32)
    caption[: len(words)] = words[: len(caption)]
    return {'regions': found['regions'], 'valid': found['valid']} | {
      'caption': caption
    }


def padded(
  features: np.ndarray, words: Sequence[Sequence[int]], regions: int, most: int
) -> Row:
  """An image as a row of static shape.

  Args:
    features: [i, M].
    words: of each region, numbers.
    regions: I; an image of more is a bad row.
    most: words that a region may have.

  Returns:
    regions float32 [I, M], valid bool [I], words int32 [I, most] with -1.

  Raises:
    BadRecord: for too many regions or words, or none.
  """
  count, longest = len(features), max(map(len, words), default=0)
  if not 0 < count <= regions or len(words) != count or longest > most:
    raise records.BadRecord(
      'bad regions',
      f'{count} regions, {len(words)} lists of at most {longest} words; '
      f'expected 1 to --config.data.regions={regions}, and at most {most} '
      'words of each (--config.data.labels)',
    )
  found = {
    'regions': np.zeros((regions, features.shape[1]), np.float32),
    'valid': np.arange(regions) < count,
    'words': np.full((regions, most), -1, np.int32),
  }
  found['regions'][:count] = features
  for row, one in zip(found['words'], words):
    row[: len(one)] = one
  return found


def training_batches(made: RegionJob, mesh: jax.sharding.Mesh):
  """The iterator of this process's training batches."""
  del mesh  # These batches need no device.
  config = made.config
  kind = _Captions if config.objective == 'region_text' else _Pairs
  return _stream(
    made,
    kind(made.task, config.data),
    shuffle=config.data.shuffle,
    epochs=config.data.epochs or None,
    weights=made.task.train_rows()[1],
  )


def _stream(made: RegionJob, transform: Any, **settings: Any):
  data = made.config.data
  return pipeline.build(
    made.task.train_rows()[0],
    [transform],
    batch_size=made.config.batch_size,
    seed=made.config.seed,
    workers=data.workers,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    policy=records.BadRowPolicy(data.on_bad, data.max_bad_share),
    **settings,
  )


@dataclasses.dataclass(frozen=True)
class _Whole:
  """Row -> its regions with all their words; picklable."""

  task: Any
  regions: int
  labels: int

  def __call__(self, row: Any) -> Row:
    return padded(*self.task.regions(row), self.regions, self.labels)


class BankRefresh:
  """Reads all regions and puts their exact means into the bank.

  Args:
    made: the job.
    mesh: the job's mesh.
  """

  def __init__(self, made: RegionJob, mesh: jax.sharding.Mesh):
    self._made, self._mesh = made, mesh
    whole = NamedSharding(mesh, P())
    encode = made.model.encoder.encode

    def run(params: Params, batch: dict[str, Any]):
      with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        codes, _ = encode(params, batch['regions'], batch['valid'])
      # A last batch is filled up with rows of zeros, which are no words.
      return codes, jnp.where(batch['valid'][..., None], batch['words'], -1)

    self._run = jax.jit(
      run,
      in_shardings=(None, batch_sharding(mesh)),
      out_shardings=(whole, whole),
    )

  def moments(self, params: Params) -> Moments:
    """Of all training regions, by word; the same on every process."""
    data, model = self._made.config.data, self._made.model
    found = Moments(model.words, model.config.latent)
    whole = _Whole(self._made.task, data.regions, data.labels)
    batches = _stream(self._made, whole, shuffle=False, epochs=1)
    try:
      for batch in batches:
        codes, words = self._run(
          params['encoder'], to_global(batch, self._mesh)
        )
        _add(found, np.asarray(codes), np.asarray(words))
    finally:
      batches.close()
    return found

  def __call__(self, state: dict[str, Any]) -> dict[str, Any]:
    """The state with a fresh bank."""
    params = state['params']
    bank = jax.device_put(
      refreshed(self.moments(params))._asdict(),
      jax.tree.map(lambda leaf: leaf.sharding, params['bank']),
    )
    return state | {'params': params | {'bank': bank}}


def _add(moments: Moments, codes: np.ndarray, words: np.ndarray) -> None:
  """Adds codes [B, I, Z] under their words [B, I, W]."""
  regions, columns = np.nonzero(words.reshape(-1, words.shape[-1]) >= 0)
  flat = words.reshape(-1, words.shape[-1])
  moments.add(
    codes.reshape(-1, codes.shape[-1]), regions, flat[regions, columns]
  )


def renewal(
  made: RegionJob, mesh: jax.sharding.Mesh
) -> tuple[Callable[[Any], Any], int] | None:
  """(what renews the state between steps, every so many steps)."""
  if made.config.objective == 'region_text':
    return None
  return BankRefresh(made, mesh), made.config.mask.refresh


def evaluate(
  made: RegionJob, params: Params, mesh, *, progress=lambda name, done: None
) -> dict[str, dict[str, Any]]:
  """What the task's own retrieval says; nothing where it has none."""
  del mesh
  run = getattr(made.task, 'evaluate', lambda job, params, progress: {})
  return run(made, params, progress)
