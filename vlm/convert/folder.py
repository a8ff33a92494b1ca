"""Folders of published checkpoints: where they are, and what lies beside.

A source is a local folder, a gs:// path, or the id of a repository on the
Hugging Face hub, which is then downloaded (or found in the hub's cache).
"""

import json
import re
import shutil
from typing import Any

from etils import epath

# Weights as safetensors, and everything that is text. Pickles are never asked
# for.
WANTED = ('*.safetensors', '*.json', '*.jinja', '*.txt', '*.model')
# Beside the weights and config.json, what an exported folder needs.
COMPANIONS = (
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.json',
  'merges.txt',
  'chat_template.json',
  'chat_template.jinja',
  'generation_config.json',
  'preprocessor_config.json',
  'video_preprocessor_config.json',
  'processor_config.json',
)
# What a method's training wrote beside its checkpoint for inference.
METHOD_FILES = ('depthlm.json',)


def resolve(
  source: epath.PathLike, wanted: tuple[str, ...] = WANTED
) -> epath.Path:
  """The folder that a source names, downloaded if it is a hub id.

  Args:
    source: see the module's docstring.
    wanted: patterns of the files to download.

  Raises:
    FileNotFoundError: no such folder, and no such repository within reach.
  """
  folder = epath.Path(source)
  if folder.is_dir():
    return folder
  name = str(source)
  if not re.fullmatch(r'[\w.-]+/[\w.-]+', name):
    raise FileNotFoundError(
      f'{name}: no such folder; expected a checkpoint folder, a gs:// path or '
      'a hub id such as Qwen/Qwen2.5-VL-3B-Instruct'
    )
  # Heavy, and only for those who name a repository.
  import huggingface_hub
  from huggingface_hub import errors

  try:
    return epath.Path(
      huggingface_hub.snapshot_download(name, allow_patterns=list(wanted))
    )
  except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
    raise FileNotFoundError(
      f'{name}: no such folder, not in the hub cache, and the hub cannot be '
      'reached (is HF_HUB_OFFLINE set?)'
    ) from error
  except errors.GatedRepoError as error:
    raise FileNotFoundError(
      f'{name} is gated: accept its terms on the hub and set HF_TOKEN'
    ) from error
  except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
    raise FileNotFoundError(
      f'{name}: neither a folder nor a repository on the hub'
    ) from error


def read_config(folder: epath.Path) -> dict[str, Any]:
  """A checkpoint's config.json.

  Raises:
    FileNotFoundError: when there is none.
  """
  path = folder / 'config.json'
  if not path.exists():
    raise FileNotFoundError(f'{path} is missing: not a checkpoint folder')
  return json.loads(path.read_text())


def copy_companions(
  source: epath.Path,
  output: epath.PathLike,
  names: tuple[str, ...] = COMPANIONS + METHOD_FILES,
) -> None:
  """Copies tokenizer, template and processor settings beside the weights."""
  output = epath.Path(output)
  for name in names:
    if (source / name).exists():
      with (source / name).open('rb') as read, (output / name).open('wb') as to:
        shutil.copyfileobj(read, to)
