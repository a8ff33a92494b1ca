"""HF `model_type` (or a name of ours) -> configuration and model."""

from typing import Any

from vlm.models import (
  clip,
  dinov2,
  internvl3,
  llava_onevision,
  pixtral,
  qwen2,
  qwen2_5_vl,
  qwen3_vl,
  siglip,
)
from vlm.models.functional import Runtime

# model_type -> (config class, model class)
FAMILIES = {
  'qwen2': (qwen2.Qwen2Config, qwen2.LanguageModel),
  'qwen3': (qwen2.Qwen2Config, qwen2.LanguageModel),
  'llama': (qwen2.Qwen2Config, qwen2.LanguageModel),
  'mistral': (qwen2.Qwen2Config, qwen2.LanguageModel),
  'llava': (pixtral.PixtralConfig, pixtral.Pixtral),
  'llava_onevision': (
    llava_onevision.LlavaOnevisionConfig,
    llava_onevision.LlavaOnevision,
  ),
  'clip': (clip.ClipConfig, clip.Clip),
  'clip_vision_model': (clip.ClipImageConfig, clip.ClipImage),
  'dinov2': (dinov2.Dinov2Config, dinov2.Dinov2),
  'dinov2_with_registers': (dinov2.Dinov2Config, dinov2.Dinov2),
  'internvl': (internvl3.InternVL3Config, internvl3.InternVL3),
  'qwen2_5_vl': (qwen2_5_vl.Qwen25VLConfig, qwen2_5_vl.Qwen25VL),
  'qwen3_vl': (qwen3_vl.Qwen3VLConfig, qwen3_vl.Qwen3VL),
  'siglip_vision_model': (siglip.SiglipVisionConfig, siglip.Siglip),
}


PRESETS = {
  'clip-b32': lambda: clip.published('b32'),
  'clip-b16': lambda: clip.published('b16'),
  'clip-l14': lambda: clip.published('l14'),
  'clip-l14-336': lambda: clip.published('l14-336'),
  'internvl3-1b': lambda: internvl3.published('1b'),
  'internvl3-2b': lambda: internvl3.published('2b'),
  'internvl3-8b': lambda: internvl3.published('8b'),
  'internvl3-14b': lambda: internvl3.published('14b'),
  'llava-onevision-0.5b': lambda: llava_onevision.published('0.5b'),
  'llava-onevision-7b': lambda: llava_onevision.published('7b'),
  'qwen2.5-vl-3b': lambda: qwen2_5_vl.published('3b'),
  'qwen2.5-vl-7b': lambda: qwen2_5_vl.published('7b'),
  'qwen2.5-vl-72b': lambda: qwen2_5_vl.published('72b'),
  'qwen3-vl-2b': lambda: qwen3_vl.published('2b'),
  'qwen3-vl-4b': lambda: qwen3_vl.published('4b'),
  'qwen3-vl-8b': lambda: qwen3_vl.published('8b'),
  'qwen3-vl-32b': lambda: qwen3_vl.published('32b'),
  'pixtral-12b': pixtral.published,
}


def preset(name: str) -> Any:
  """The frozen config of a published checkpoint, by name.

  Raises:
    ValueError: if the name is unknown, with the known ones.
  """
  if name not in PRESETS:
    raise ValueError(
      f'--config.model.preset={name!r} is unknown; known: {sorted(PRESETS)}'
    )
  return PRESETS[name]()


def config_from_hf(config: dict[str, Any]) -> Any:
  """The frozen config of an HF `config.json`.

  Raises:
    ValueError: if the architecture is unknown, with the known ones.
  """
  return _family(config.get('model_type'))[0].from_hf(config)


def build(
  config: Any, runtime: Runtime = Runtime(), transforms: tuple[Any, ...] = ()
) -> Any:
  """A model description (no arrays) for a frozen config.

  Args:
    config: facts of the checkpoint.
    runtime: execution choices.
    transforms: of visual tokens; see `visual.VisualTransform`.
  """
  model = _family(config.model_type)[1]
  return (
    model(config, runtime, transforms) if transforms else model(config, runtime)
  )


def _family(model_type: str | None):
  if model_type not in FAMILIES:
    raise ValueError(
      f'model_type {model_type!r} is not supported; known: {sorted(FAMILIES)}'
    )
  return FAMILIES[model_type]
