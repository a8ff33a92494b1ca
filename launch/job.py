"""What every entry point makes of a config: model, chat, shapes, data."""

import dataclasses
import json
import re
from typing import Any

import grain
import jax
from etils import epath
from ml_collections import ConfigDict

from data import pipeline, records
from data.chat import Chat
from data.examples import Encoder
from data.pack import RowSpec
from experiments import task as tasks
from vlm.convert.reader import load_params
from vlm.models import registry
from vlm.models.functional import Params, Runtime
from vlm.models.llava_onevision import LlavaOnevisionConfig
from vlm.models.qwen2 import Qwen2Config
from vlm.models.siglip import SiglipVisionConfig
from vlm.sharding import rules


@dataclasses.dataclass(frozen=True)
class Job:
  """A config made concrete; holds no arrays."""

  config: ConfigDict
  task: Any
  chat: Chat
  model: Any
  encoder: Encoder

  @property
  def spec(self) -> RowSpec:
    """Static shapes of a row."""
    return self.encoder.spec


def runtime_of(config: ConfigDict) -> Runtime:
  """The runtime; 'auto' attention is the TPU kernel where there is a TPU."""
  fields = dict(config.runtime)
  if fields['attention'] == 'auto':
    on_tpu = jax.default_backend() == 'tpu'
    fields['attention'] = 'splash' if on_tpu else 'xla'
  return Runtime(**fields)


def model_of(config: ConfigDict, chat: Chat | None = None) -> Any:
  """The model's description: a published preset, or a small one made here."""
  if config.model.preset:
    return registry.build(
      registry.preset(config.model.preset), runtime_of(config)
    )
  image, video = chat.placeholder_ids
  facts = LlavaOnevisionConfig(
    vision=SiglipVisionConfig(**config.model.vision),
    decoder=Qwen2Config(
      vocab_size=chat.tokenizer.get_vocab_size(), **config.model.decoder
    ),
    image_token=image,
    video_token=video,
  )
  return registry.build(facts, runtime_of(config))


def row_spec(config: ConfigDict, model: Any) -> RowSpec:
  """Static shapes of a row of the config's batches."""
  facts, data = model.config, config.data
  return RowSpec(
    seq_len=data.seq_len,
    tiles=data.tiles,
    visual=data.visual_tokens,
    points=data.points,
    tile_tokens=facts.tile_tokens,
    image_size=facts.vision.image_size,
    placeholders=(facts.image_token, facts.video_token),
  )


def prepare(config: ConfigDict) -> Job:
  """Builds everything that needs no device memory."""
  task = tasks.load(config)
  chat = task.chat()
  model = model_of(config, chat)
  encoder = Encoder(chat, model.config.layout, row_spec(config, model))
  return Job(config, task, chat, model, encoder)


class _Examples(grain.transforms.RandomMap):
  """Row -> padded sample, with the pipeline's generator; picklable."""

  def __init__(self, task: Any, encoder: Encoder):
    self._task, self._encoder = task, encoder

  def random_map(self, row: Any, rng: Any) -> dict[str, Any]:
    return self._encoder.sample(self._task.example(row, rng))


def training_batches(job: Job, process_index: int = 0, process_count: int = 1):
  """The iterator of this process's training batches."""
  data = job.config.data
  sources, weights = job.task.train_rows()
  return pipeline.build(
    sources,
    [_Examples(job.task, job.encoder)],
    batch_size=job.config.batch_size,
    seed=job.config.seed,
    shuffle=data.shuffle,
    workers=data.workers,
    process_index=process_index,
    process_count=process_count,
    epochs=data.epochs or None,
    weights=weights,
    policy=records.BadRowPolicy(data.on_bad, data.max_bad_share),
  )


def draw_params(job: Job, key: jax.Array) -> Params:
  """Fresh parameters, scaled by the table `config.model.init_scale`.

  Raises:
    ValueError: if a regex of the table matches no parameter.
  """
  table = [tuple(row) for row in job.config.model.init_scale]
  paths = [path for path, _ in rules.flatten(job.model.abstract_params)]
  for regex, _ in table:
    if not any(re.fullmatch(regex, path) for path in paths):
      raise ValueError(
        f'--config.model.init_scale: {regex!r} matches no parameter'
      )
  return rules.map_paths(
    lambda path, leaf: leaf * rules.match(path, table, 1.0),
    job.model.init(key),
  )


def initial_params(job: Job, shardings: Any = None) -> Params | None:
  """Parameters of `config.model.init_from`, or None to draw them.

  Raises:
    ValueError: if the checkpoint's own config is not the preset's.
  """
  folder = job.config.model.init_from
  if not folder:
    return None
  published = json.loads((epath.Path(folder) / 'config.json').read_text())
  found = registry.config_from_hf(published)
  if found != job.model.config:
    differing = [
      field.name
      for field in dataclasses.fields(found)
      if getattr(found, field.name) != getattr(job.model.config, field.name)
    ]
    raise ValueError(
      f'{folder}/config.json differs from --config.model.preset='
      f'{job.config.model.preset} in {differing}'
    )
  return load_params(
    folder, job.model, shardings, dtype=job.config.runtime.param_dtype
  )
