r"""Asks a checkpoint one question and prints its greedy answer (text only).

  python -m launch.chat --model=DIR --prompt="What is the capital of France?"

DIR is an HF-style folder: config.json, safetensors, tokenizer.json and a chat
template. `launch.convert` makes one from a GGUF file.
"""

import json
from typing import Any

import numpy as np
from absl import app, flags
from etils import epath

from data.chat import Chat, load_chat
from vlm.convert.reader import load_params
from vlm.models import registry
from vlm.rollout import greedy

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags; not at import, where launchers would share names."""
  flags.DEFINE_string('model', None, 'The checkpoint folder.', required=True)
  flags.DEFINE_string('prompt', None, 'What to ask.', required=True)
  flags.DEFINE_integer('max_new_tokens', 64, 'Longest answer.', lower_bound=1)


def main(argv: list[str]) -> None:
  """Loads, asks, prints."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}; quote the prompt')
  folder = epath.Path(FLAGS.model)
  config = json.loads((folder / 'config.json').read_text())
  chat = load_chat(folder)
  model = registry.build(registry.config_from_hf(config))
  params = load_params(folder, model)
  print(
    answer(
      model,
      params,
      chat,
      FLAGS.prompt,
      eos_ids(folder, config, chat),
      FLAGS.max_new_tokens,
    )
  )


def answer(
  model: Any,
  params: Any,
  chat: Chat,
  prompt: str,
  stop: tuple[int, ...],
  max_new_tokens: int,
) -> str:
  """One user turn through the checkpoint's template, continued greedily.

  Args:
    model: a registry model.
    params: its parameters.
    chat: the checkpoint's tokenizer and template.
    prompt: the user's words.
    stop: ids that end the answer.
    max_new_tokens: longest answer.

  Returns:
    The answer without special tokens.
  """
  ids = chat.encode_prompt([{'role': 'user', 'content': prompt}])
  tokens = np.asarray(ids, np.int32)[None]
  generated = greedy.generate(
    model,
    params,
    tokens,
    np.ones_like(tokens),
    max_new_tokens=max_new_tokens,
    eos_ids=stop,
  )
  return chat.decode(np.asarray(generated)[0].tolist()).strip()


def eos_ids(
  folder: epath.Path, config: dict[str, Any], chat: Chat
) -> tuple[int, ...]:
  """Ids that end an answer: generation_config.json, config.json, tokenizer.

  Raises:
    ValueError: if none of them names one.
  """
  path = folder / 'generation_config.json'
  generation = json.loads(path.read_text()) if path.exists() else {}
  found = generation.get('eos_token_id', config.get('eos_token_id'))
  if found is None and 'eos_token' in chat.variables:
    found = chat.tokenizer.token_to_id(chat.variables['eos_token'])
  if found is None:
    raise ValueError(
      f'{folder}: no eos_token_id in generation_config.json or config.json and '
      f'no eos_token in tokenizer_config.json; add one of them'
    )
  return tuple(found) if isinstance(found, list) else (found,)


def run() -> None:
  """Entry point."""
  define_flags()
  app.run(main)


if __name__ == '__main__':
  run()
