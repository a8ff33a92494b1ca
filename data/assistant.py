"""Ask a published checkpoint a question, in three lines.

assistant = Assistant.load('llava-onevision-qwen2-0.5b-ov-hf')
picture = open_image('kitchen.jpg')
print(assistant.ask('What is on the table?', [picture]))
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from data import pack
from data.chat import Chat, load_chat
from data.examples import Encoder, left_padded
from data.processors.registry import processor_of
from vlm.convert.reader import load_params
from vlm.models import registry
from vlm.models.functional import Params, Runtime
from vlm.rollout.sampler import sample
from vlm.rollout.settings import Buckets, Sampling

# Prompts are padded to a multiple of this, so that a conversation compiles a
# few shapes instead of one per length.
BUCKET = 128


@dataclasses.dataclass(frozen=True)
class Assistant:
  """A checkpoint with everything an answer needs.

  Attributes:
    model: from `registry.build`.
    params: its parameters.
    chat: its tokenizer and template.
    stop: ids that end an answer.
  """

  model: Any
  params: Params
  chat: Chat
  stop: tuple[int, ...]

  @classmethod
  def load(
    cls, folder: epath.PathLike, runtime: Runtime = Runtime()
  ) -> 'Assistant':
    """Loads an HF-style folder: config, safetensors, tokenizer, template.

    Raises:
      FileNotFoundError: naming the file that is missing.
      ValueError: for an architecture we do not have, or broken weights.
    """
    folder = epath.Path(folder)
    path = folder / 'config.json'
    if not path.exists():
      raise FileNotFoundError(f'{path} is missing: not a checkpoint folder')
    config = json.loads(path.read_text())
    model = registry.build(registry.config_from_hf(config), runtime)
    chat = load_chat(folder)
    if names := _placeholders(model.config, chat):
      chat = dataclasses.replace(chat, placeholders=names)
    return cls(
      model, load_params(folder, model), chat, eos_ids(folder, config, chat)
    )

  def ask(
    self,
    question: str,
    images: Sequence[Any] = (),
    max_new_tokens: int = 128,
  ) -> str:
    """One user turn, answered greedily.

    Args:
      question: the user's words.
      images: pictures (Pillow or uint8 [H, W, 3]), or lists of frames.
      max_new_tokens: longest answer.

    Returns:
      The answer without special tokens.

    Raises:
      ValueError: pictures for a model that reads only text.
    """
    if images and not self.chat.placeholders:
      raise ValueError(f'{self.model.config.model_type} reads text only')
    images = [_arrays(image) for image in images]
    kinds = ['video' if isinstance(i, list) else 'image' for i in images]
    text = {'type': 'text', 'text': question}
    content = [*({'type': kind} for kind in kinds), text] if kinds else question
    messages = [{'role': 'user', 'content': content}]
    prompt = self._prompt({'messages': messages, 'images': images})
    out = sample(
      self.model,
      self.params,
      prompt,
      Sampling(max_new_tokens, self.stop, temperature=0),
      detokenize=self.chat.decode,
      buckets=Buckets(prompt=(prompt['tokens'].shape[1],)),
    )
    return out.texts[0][0].strip()

  def _prompt(self, example: dict[str, Any]) -> dict[str, Any]:
    processor = processor_of(self.model.config)
    sample = Encoder(self.chat, processor).prompt(example)
    tokens, units, visual = pack.sample_size(sample)
    rounded = lambda size: size + -size % BUCKET
    if units:
      spec = processor.row(
        units,
        seq_len=rounded(tokens),
        visual=rounded(visual),
        placeholders=self.chat.placeholder_ids,
      )
    else:
      spec = pack.RowSpec(rounded(tokens))
    return left_padded([sample], spec)


def _placeholders(config: Any, chat: Chat) -> dict[str, str]:
  """The texts of the placeholder tokens, for a model that sees."""
  if not hasattr(config, 'image_token'):
    return {}
  return {
    'image': chat.tokenizer.id_to_token(config.image_token),
    'video': chat.tokenizer.id_to_token(config.video_token),
  }


def _arrays(image: Any) -> Any:
  if isinstance(image, list | tuple):
    return [np.asarray(frame) for frame in image]
  return np.asarray(image)


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
