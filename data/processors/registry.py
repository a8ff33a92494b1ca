"""From the files of a checkpoint to the processor it wants."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from data.processors import facts
from data.processors.internvl import InternVLFacts, InternVLProcessor
from data.processors.llava import LlavaProcessor
from data.processors.pixtral import PixtralFacts, PixtralProcessor
from data.processors.qwen2_5_vl import Qwen25VLProcessor
from data.processors.qwen3_vl import Qwen3VLProcessor
from data.processors.towers import Crop, Square
from vlm.models import registry

NAMES = (
  'config.json',
  'preprocessor_config.json',
  'video_preprocessor_config.json',
  'processor_config.json',
)


@dataclasses.dataclass(frozen=True)
class Files:
  """The configurations of a checkpoint.

  Attributes:
    config: of the model.
    image: of its images.
    video: of its videos; that of images where there is none, as published.
    texts: of its prompts: names of tokens.
  """

  config: Mapping[str, Any]
  image: Mapping[str, Any]
  video: Mapping[str, Any]
  texts: Mapping[str, Any]


def _pixtral(files: Files) -> PixtralProcessor:
  tower = files.config['vision_config'].get('model_type')
  if tower != 'pixtral':
    raise ValueError(
      f'config.json: model_type llava with a tower {tower!r}, supported: '
      "'pixtral'"
    )
  return PixtralProcessor.from_hf(files.image, files.texts, files.config)


def _videos(family: Any) -> Callable[[Files], Any]:
  return lambda files: family.from_hf(files.image, files.video, files.config)


def _tower(family: Any) -> Callable[[Files], Any]:
  return lambda files: family.from_hf(files.image)


# model_type -> processor of a checkpoint's files
FAMILIES = {
  'qwen2_5_vl': _videos(Qwen25VLProcessor),
  'qwen3_vl': _videos(Qwen3VLProcessor),
  'internvl': _videos(InternVLProcessor),
  'llava': _pixtral,
  'llava_onevision': lambda files: LlavaProcessor.from_hf(
    files.image, files.texts, files.config
  ),
  'clip': _tower(Crop),
  'clip_vision_model': _tower(Crop),
  'dinov2': _tower(Crop),
  'dinov2_with_registers': _tower(Crop),
  'siglip': _tower(Square),
  'siglip_vision_model': _tower(Square),
}


# model_type -> processor of a model's frozen config, as published
MODELS = {
  'clip': lambda config: Crop(*2 * (config.vision.image_size,)),
  'qwen2_5_vl': lambda config: Qwen25VLProcessor.of_tower(config.vision),
  'qwen3_vl': lambda config: Qwen3VLProcessor.of_tower(config.vision),
  'internvl': lambda config: InternVLProcessor(
    InternVLFacts(config.vision.image_size, config.side)
  ),
  'llava': lambda config: PixtralProcessor(
    PixtralFacts(patch=config.vision.patch)
  ),
  'llava_onevision': lambda config: LlavaProcessor(config.layout),
}


def processor_of(config: Any) -> Any:
  """The processor of a model's frozen config, with its published settings.

  None for a model that only reads.
  """
  if config.model_type in MODELS:
    return MODELS[config.model_type](config)
  return None


def processor_from_hf(
  source: epath.PathLike | Mapping[str, Mapping[str, Any]],
) -> Any:
  """The processor of a checkpoint.

  Args:
    source: its folder, or the contents of its files by their names (`NAMES`).
      Since transformers 5, processor_config.json may hold the others.

  Returns:
    A `data.visual.Processor`; for a tower that stands alone, a function of one
    image.

  Raises:
    FileNotFoundError: when config.json or every preprocessor file is missing.
    ValueError: for a family we do not have, or a choice that is not supported.
  """
  files = read_files(source)
  family = files.config.get('model_type')
  if family not in FAMILIES:
    raise ValueError(
      f'config.json: no processor for model_type {family!r}; known: '
      f'{sorted(FAMILIES)}'
    )
  processor = FAMILIES[family](files)
  if family in registry.FAMILIES:
    model = registry.config_from_hf(files.config)
    tower = getattr(model, 'vision', model)
    facts.check_normalisation(files.image, tower)
  return processor


def read_files(
  source: epath.PathLike | Mapping[str, Mapping[str, Any]],
) -> Files:
  """Reads the files of a checkpoint; see `processor_from_hf`."""
  if not isinstance(source, Mapping):
    folder = epath.Path(source)
    paths = {name: folder / name for name in NAMES}
    source = {
      name: json.loads(path.read_text())
      for name, path in paths.items()
      if path.exists()
    }
    where = f' in {folder}'
  else:
    where = ''
  config, image, video, texts = (source.get(name) for name in NAMES)
  texts = texts or {}
  # What is nested wins over a file of its own, as published.
  image = texts.get('image_processor', image)
  video = texts.get('video_processor', video or image)
  if config is None or image is None:
    raise FileNotFoundError(
      f'no {"config.json" if config is None else "preprocessor_config.json"}'
      f'{where}: not the folder of a checkpoint that sees'
    )
  return Files(config, image, video, texts)
