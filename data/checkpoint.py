"""What stands around the weights of a checkpoint: texts, pictures, endings."""

import dataclasses
import json
from typing import Any

from etils import epath

from data.chat import Chat, load_chat
from data.processors.registry import processor_from_hf, processor_of
from data.visual import Processor
from vlm.convert import folder as folders
from vlm.models import registry


def load_chat_of(source: epath.PathLike) -> Chat:
  """The tokenizer and template of a checkpoint, which know its placeholders.

  Args:
    source: a folder, a gs:// path or a hub id.

  Raises:
    FileNotFoundError: naming the file that is missing.
    ValueError: an architecture we do not have.
  """
  folder = folders.resolve(source)
  config = registry.config_from_hf(folders.read_config(folder))
  chat = load_chat(folder)
  if not hasattr(config, 'image_token'):
    return chat
  names = {
    'image': chat.tokenizer.id_to_token(config.image_token),
    'video': chat.tokenizer.id_to_token(config.video_token),
  }
  return dataclasses.replace(chat, placeholders=names)


def load_processor(source: epath.PathLike) -> Processor | None:
  """The processor of a checkpoint; None for a model that only reads.

  A folder without preprocessor files gets its family's published settings.

  Raises:
    ValueError: for settings that are not supported.
  """
  folder = folders.resolve(source)
  config = registry.config_from_hf(folders.read_config(folder))
  usual = processor_of(config)
  names = ('preprocessor_config.json', 'processor_config.json')
  if usual is None or not any((folder / name).exists() for name in names):
    return usual
  return processor_from_hf(folder)


def eos_ids(
  folder: epath.Path, config: dict[str, Any], chat: Chat
) -> tuple[int, ...]:
  """Ids that end an answer: generation_config.json, config.json, tokenizer.

  Raises:
    ValueError: if none of them names one.
  """
  path = folder / 'generation_config.json'
  generation = json.loads(path.read_text()) if path.exists() else {}
  text = config.get('text_config', {})
  for place in (generation, config, text):
    found = place.get('eos_token_id')
    if found is not None:
      return tuple(found) if isinstance(found, list) else (found,)
  if 'eos_token' in chat.variables:
    return (chat.tokenizer.token_to_id(chat.variables['eos_token']),)
  raise ValueError(
    f'{folder}: no eos_token_id in generation_config.json or config.json and '
    f'no eos_token in tokenizer_config.json; add one of them'
  )
