"""What a checkpoint must say about how it was trained: depthlm.json.

A DepthLM answers in metres of the focal length it was trained at. Asked at
another (upstream evaluates every model at 750) it is wrong by their ratio, so
the settings of inference lie beside tokenizer.json and are read back.
"""

import dataclasses
import json
from typing import Any

from etils import epath

from vlm.methods.depthlm.settings import SampleSettings
from vlm.methods.depthlm.text import PromptFormat

NAME = 'depthlm.json'
_TRAINING_ONLY = (
  'crop_height',
  'crop_width',
  'crop_place',
  'stretch',
  'stretched',
  'mirror',
  'label_law',
)


def to_json(settings: SampleSettings) -> str:
  """The text of depthlm.json: every field that inference reads."""
  fields = dataclasses.asdict(settings)
  if isinstance(settings.prompt, PromptFormat):
    fields['prompt'] = (settings.prompt.question, settings.prompt.answer)
  kept = {k: v for k, v in fields.items() if k not in _TRAINING_ONLY}
  return json.dumps(kept, indent=1)


def read(folder: epath.PathLike) -> SampleSettings | None:
  """The settings a checkpoint was trained with; None where it does not say.

  Args:
    folder: a workdir of launch.train or a folder of safetensors.

  Raises:
    ValueError: naming the file, for a field that is unknown or wrong.
  """
  path = epath.Path(folder) / NAME
  return read_file(path) if path.exists() else None


def read_file(path: epath.PathLike) -> SampleSettings:
  """The settings in a file.

  Raises:
    ValueError: naming the file, for a field that is unknown or wrong.
  """
  path = epath.Path(path)
  try:
    fields = json.loads(path.read_text())
    return SampleSettings(**{k: _tuples(v) for k, v in fields.items()})
  except (TypeError, ValueError) as error:
    raise ValueError(f'{path}: {error}') from error


def at_inference(
  settings: SampleSettings, stored: SampleSettings
) -> SampleSettings:
  """`settings` with what inference reads taken from the checkpoint's."""
  kept = {
    field.name: getattr(settings, field.name)
    for field in dataclasses.fields(settings)
    if field.name in _TRAINING_ONLY
  }
  return dataclasses.replace(stored, **kept)


def _tuples(value: Any) -> Any:
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
