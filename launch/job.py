"""What every entry point makes of a config: model, chat, shapes, data."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import grain
import jax
from etils import epath
from ml_collections import ConfigDict

from data import assemble, pack, pipeline, records
from data.chat import Chat
from data.checkpoint import eos_ids, load_processor
from data.draw_log import DrawLog
from data.examples import Encoder
from data.pack import RowSpec
from data.processors.registry import processor_of
from data.tiles import TileRow
from data.videos import VideoSpec, by_frames
from experiments import task as tasks
from launch.reduction import transforms_of
from vlm.convert import folder as folders
from vlm.convert.reader import load_params
from vlm.models import lora, registry
from vlm.models.functional import Params, Runtime
from vlm.models.llava_onevision import LlavaOnevisionConfig
from vlm.models.lora import Lora
from vlm.models.qwen2 import Qwen2Config
from vlm.models.siglip import SiglipVisionConfig
from vlm.sharding import rules
from vlm.train.optimizer import Optimizer, make_optimizer


@dataclasses.dataclass(frozen=True)
class Job:
  """A config made concrete; holds no arrays."""

  config: ConfigDict
  task: Any
  chat: Chat
  model: Any
  encoder: Encoder
  specs: tuple[RowSpec, ...]

  @property
  def spec(self) -> RowSpec:
    """Static shapes of the largest row."""
    return self.specs[-1]

  @property
  def prompt_spec(self) -> RowSpec:
    """That of a row of prompts, which the decoder may prune."""
    clips = self.spec.clips
    if clips is None:
      return self.spec
    clips = dataclasses.replace(clips, prune=self.model.prune)
    return dataclasses.replace(self.spec, clips=clips)

  @property
  def tokenizer_json(self) -> str:
    """Of the chat."""
    return self.chat.tokenizer_json

  @property
  def rows(self) -> str:
    """Shapes of the rows, in words."""
    return '; '.join(
      f'{tokens:,} tokens, {units:,} {spec.units}, {visual:,} visual tokens'
      for spec in self.specs
      for tokens, units, visual in [pack.row_size(spec)]
    )


def runtime_of(config: ConfigDict) -> Runtime:
  """The runtime; 'auto' attention is the TPU kernel where there is a TPU."""
  fields = dict(config.runtime)
  if fields['attention'] == 'auto':
    on_tpu = jax.default_backend() == 'tpu'
    fields['attention'] = 'splash' if on_tpu else 'xla'
  adapters = Lora(**config.model.lora) if config.model.lora.rank else None
  return Runtime(**fields, lora=adapters)


def optimizer_of(config: ConfigDict, model: Any) -> Optimizer:
  """The optimiser; with adapters, of nothing else."""
  settings = dict(config.optimizer)
  if config.model.lora.rank:
    settings['rules'] = (lora.FREEZE_BASE, *settings['rules'])
  return make_optimizer(settings, model.abstract_params, config.steps)


def model_of(config: ConfigDict, chat: Chat | None = None) -> Any:
  """The model's description: published, by name or folder, or made here."""
  runtime, transforms = runtime_of(config), transforms_of(config.flashvid)
  if config.model.preset:
    facts = registry.preset(config.model.preset)
    return registry.build(facts, runtime, transforms)
  if config.model.init_from:
    published = folders.read_config(folders.resolve(config.model.init_from))
    facts = registry.config_from_hf(published)
    return registry.build(facts, runtime, transforms)
  image, video = chat.placeholder_ids
  facts = LlavaOnevisionConfig(
    vision=SiglipVisionConfig(**config.model.vision),
    decoder=Qwen2Config(
      vocab_size=chat.tokenizer.get_vocab_size(), **config.model.decoder
    ),
    image_token=image,
    video_token=video,
    video_pool=config.model.video_pool,
  )
  return registry.build(facts, runtime, transforms)


def row_specs(config: ConfigDict, model: Any) -> tuple[RowSpec, ...]:
  """Static shapes of the rows of the config's batches, from small to large.

  Raises:
    ValueError: naming the flag, for a bucket that is not a triple.
  """
  data, facts = config.data, model.config
  sizes = data.buckets or ((data.seq_len, data.units, data.visual_tokens),)
  if any(len(size) != 3 for size in sizes):
    raise ValueError(
      f'--config.data.buckets={sizes}, expected (tokens, tiles or patches, '
      'visual tokens) of each'
    )
  clips = _video_spec(data, model)
  return tuple(_row_spec(data, facts, *size, clips) for size in sorted(sizes))


def batch_of(rows: int, spec: RowSpec) -> dict[str, Any]:
  """Shapes of the global batch, as documented in `data/pipeline.py`."""
  return pack.nested(
    spec.fields(),
    lambda shape, dtype: jax.ShapeDtypeStruct((rows, *shape), dtype),
  )


def _video_spec(data, model) -> VideoSpec | None:
  if not model.transforms:
    return None
  if len(data.clips) != 3:
    raise ValueError(
      f'--config.data.clips={tuple(data.clips)}, expected (videos, frames, '
      'tokens of a frame) of a row where video tokens are left out'
    )
  (transform,) = model.transforms
  return VideoSpec(*data.clips, transform)


def _row_spec(data, facts, seq_len, units, visual, clips=None) -> RowSpec:
  if not units:
    return RowSpec(seq_len)
  if clips is not None and seq_len <= clips.lost:
    raise ValueError(
      f'--config.data.seq_len={seq_len}: rows with room for videos of '
      f'--config.data.clips={clips.shape} lose {clips.lost} tokens'
    )
  spec = processor_of(facts).row(
    units,
    seq_len=seq_len,
    visual=visual,
    placeholders=tuple(sorted({facts.image_token, facts.video_token})),
    clips=clips,
  )
  if not data.points:
    return spec
  if not isinstance(spec, TileRow):
    raise ValueError(
      f'--config.data.points={data.points} is for models that see tiles; unset '
      f'it for {facts.model_type}'
    )
  return dataclasses.replace(spec, points=data.points)


def prepare(config: ConfigDict) -> Job:
  """Builds everything that needs no device memory."""
  task = tasks.load(config)
  chat = task.chat()
  model = model_of(config, chat)
  if hasattr(task, 'model'):
    model = task.model(model)
  processor, marked = _processor(config, model), bool(model.transforms)
  if hasattr(task, 'processor'):
    processor = task.processor(processor)
  if marked:
    processor = by_frames(processor)
  encoder = Encoder(chat, processor, config.data.frames, marked)
  return Job(config, task, chat, model, encoder, row_specs(config, model))


def _processor(config: ConfigDict, model: Any) -> Any:
  """A published checkpoint's own settings, or those of its family."""
  folder = config.model.init_from
  return load_processor(folder) if folder else processor_of(model.config)


class _Examples(grain.transforms.RandomMap):
  """Row -> sample, with the pipeline's generator; picklable."""

  def __init__(self, task: Any, encoder: Encoder):
    self._task, self._encoder = task, encoder

  def random_map(self, row: Any, rng: Any) -> dict[str, Any]:
    example = self._task.example(row, rng)
    kept = {k: v for k, v in example.items() if k.startswith('_')}
    return self._encoder.sample(example) | kept


def training_batches(job: Job, process_index: int = 0, process_count: int = 1):
  """The iterator of this process's training batches."""
  data = job.config.data
  transforms, rows = [_Examples(job.task, job.encoder)], None
  if data.packing and len(job.specs) > 1:
    raise ValueError(
      '--config.data.packing fills rows of one shape; unset it or '
      '--config.data.buckets'
    )
  if data.packing:
    rows = assemble.Packing(job.spec)
  elif len(job.specs) > 1:
    rows = assemble.Buckets(job.specs)
  else:
    transforms.append(assemble.Pad(job.spec))
  return stream(job, transforms, rows, job.specs, process_index, process_count)


def stream(
  job: Job,
  transforms: Sequence[pipeline.Transform],
  rows: assemble.Rows | None = None,
  specs: Sequence[RowSpec] = (),
  process_index: int = 0,
  process_count: int = 1,
):
  """The iterator over the task's training rows, transformed.

  Args:
    job: the job.
    transforms: see `pipeline.build`.
    rows: see `pipeline.build`.
    specs: to check the first batch against.
    process_index: of this process.
    process_count: of the job.
  """
  data, log = job.config.data, None
  if data.log_draws:
    path = epath.Path(job.config.workdir) / f'draws-{process_index}.jsonl'
    log = DrawLog(path)
  sources, weights = job.task.train_rows()
  return pipeline.build(
    sources,
    transforms,
    rows=rows,
    batch_size=job.config.batch_size,
    seed=job.config.seed,
    shuffle=data.shuffle,
    workers=data.workers,
    process_index=process_index,
    process_count=process_count,
    epochs=data.epochs or None,
    weights=weights,
    policy=records.BadRowPolicy(data.on_bad, data.max_bad_share),
    specs=specs,
    observe=log,
  )


def stop_ids(job: Job) -> tuple[int, ...]:
  """Ids that end an answer: the checkpoint's, or the template's."""
  source = job.config.model.init_from
  if not source:
    chat = job.chat
    return (chat.tokenizer.token_to_id(chat.variables['eos_token']),)
  folder = folders.resolve(source)
  return eos_ids(folder, folders.read_config(folder), job.chat)


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

  def scaled(path: str, leaf: jax.Array) -> jax.Array:
    # What is not scaled need not be a number: flags keep their type.
    factor = rules.match(path, table)
    return leaf if factor is None else leaf * factor

  return rules.map_paths(scaled, job.model.init(key))


def initial_params(job: Job, shardings: Any = None) -> Params | None:
  """Parameters of `config.model.init_from`, or None to draw them.

  Raises:
    ValueError: if the checkpoint's own config is not the preset's.
  """
  if not job.config.model.init_from:
    return None
  folder = folders.resolve(job.config.model.init_from)
  found = registry.config_from_hf(folders.read_config(folder))
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
  return load(job, folder, shardings)


def load(job: Job, folder: epath.PathLike, shardings: Any = None) -> Params:
  """A published checkpoint's parameters, with fresh adapters if asked for."""
  dtype, model = job.config.runtime.param_dtype, job.model
  if not job.config.model.lora.rank:
    return load_params(folder, model, shardings, dtype=dtype)
  base = base_model(model)
  where = None if shardings is None else lora.strip(shardings)
  params = load_params(folder, base, where, dtype=dtype)
  key = jax.random.key(job.config.seed)
  return lora.overlay(params, lora.draw(model, key, shardings))


def base_model(model: Any) -> Any:
  """The model without its adapters."""
  bare = dataclasses.replace(model.runtime, lora=None)
  return registry.build(model.config, bare)
