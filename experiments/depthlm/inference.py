"""A checkpoint as it wants to be asked: its settings, at its focal length."""

import dataclasses

import jax
from etils import epath

from data.assistant import DEPTH_SIDE, Assistant
from data.processors.limits import unshrinking
from vlm.methods.depthlm import facts
from vlm.methods.depthlm.settings import SampleSettings


def load(model: epath.PathLike, mesh: jax.sharding.Mesh) -> Assistant:
  """A published checkpoint that does not shrink what it is shown.

  Raises:
    ValueError: a checkpoint that sees nothing; also as `Assistant.load`.
  """
  assistant = Assistant.load(model, mesh=mesh)
  if assistant.processor is None:
    raise ValueError(f'--model={model} reads text only')
  processor = unshrinking(assistant.processor, DEPTH_SIDE)
  return dataclasses.replace(assistant, processor=processor)


def settings_of(
  folder: epath.PathLike, focal: float = 0.0, path: str = ''
) -> SampleSettings:
  """The settings under which a checkpoint is asked.

  A model asked at another focal length than it was trained at is wrong by
  their ratio, so nothing is guessed.

  Args:
    folder: of the checkpoint, perhaps with a depthlm.json.
    focal: common focal length in pixels; 0 where it is not stated.
    path: of a JSON file in the place of depthlm.json; '' for none.

  Raises:
    ValueError: nothing says the focal length, or two say it differently.
    FileNotFoundError: no such file.
  """
  if path and not epath.Path(path).exists():
    raise FileNotFoundError(f'--settings={path} does not exist')
  stored = facts.read_file(path) if path else facts.read(folder)
  if stored is None and not focal:
    raise ValueError(
      f'{folder} holds no {facts.NAME}, which says at which focal length the '
      'checkpoint was trained; set --focal to it (published: 1000 pixels for '
      '3B and 7B, 750 for 12B), or --settings to such a file'
    )
  if stored is None:
    return SampleSettings(focal=focal)
  if focal and focal != stored.focal:
    raise ValueError(
      f'--focal={focal:g}, but {path or folder} says that the checkpoint was '
      f'trained at {stored.focal:g} pixels; leave --focal out, or set '
      '--settings to a file that says otherwise'
    )
  return stored
