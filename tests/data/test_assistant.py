"""A folder on disk, a picture, a question, an answer."""

import json
import shutil

import numpy as np
import pytest

from data.assistant import Assistant
from data.chat import char_tokenizer
from vlm.methods.depthlm import facts
from vlm.methods.depthlm.settings import SampleSettings

TEMPLATE = (
  '{% for m in messages %}{% for part in m.content %}'
  "{{ '<image>' if part.type == 'image' else '<video>' "
  "if part.type == 'video' else part.text }}{% endfor %}<sep>{% endfor %}"
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A tiny random LLaVA-OneVision as `transformers` writes it."""
  torch = pytest.importorskip('torch')
  import transformers

  torch.manual_seed(0)
  path = tmp_path_factory.mktemp('checkpoint')
  config = transformers.LlavaOnevisionConfig(
    vision_config={
      'model_type': 'siglip_vision_model',
      'hidden_size': 32,
      'intermediate_size': 64,
      'num_hidden_layers': 1,
      'num_attention_heads': 2,
      'image_size': 28,
      'patch_size': 14,
    },
    text_config={
      'model_type': 'qwen2',
      'vocab_size': 32,
      'hidden_size': 32,
      'intermediate_size': 64,
      'num_hidden_layers': 1,
      'num_attention_heads': 2,
      'num_key_value_heads': 1,
    },
    image_token_id=3,
    video_token_id=4,
    image_grid_pinpoints=[[28, 28], [28, 56], [56, 28]],
    vision_aspect_ratio='anyres_max_9',
  )
  transformers.LlavaOnevisionForConditionalGeneration(config).save_pretrained(
    path
  )
  specials = ('<pad>', '<end>', '<sep>', '<image>', '<video>')
  tokenizer = char_tokenizer(tuple('abcdefgh ?'), specials)
  tokenizer.save(str(path / 'tokenizer.json'))
  settings = {'chat_template': TEMPLATE, 'eos_token': '<end>'}
  (path / 'tokenizer_config.json').write_text(json.dumps(settings))
  return path


def test_a_checkpoint_says_at_which_focal_length_it_was_trained(
  folder, tmp_path
):
  assert Assistant.load(folder).depth is None
  copied = shutil.copytree(folder, tmp_path / 'depth')
  settings = SampleSettings(focal=750.0, focal_mode='iso')
  (copied / facts.NAME).write_text(facts.to_json(settings))
  found = Assistant.load(copied).depth
  assert (found.focal, found.focal_mode) == (750.0, 'iso')


@pytest.mark.parity
def test_pictures_and_videos_can_be_asked_about(folder):
  assistant = Assistant.load(folder)
  picture = np.random.default_rng(0).integers(0, 255, (40, 70, 3), np.uint8)
  still = assistant.ask('bad cab?', [picture], max_new_tokens=6)
  again = assistant.ask('bad cab?', [picture], max_new_tokens=6)
  assert still == again
  content = [{'type': 'video'}, {'type': 'text', 'text': 'a?'}]
  messages = [{'role': 'user', 'content': content}]
  prompt = assistant.prompt(
    {'messages': messages, 'images': [[picture, picture]]}
  )
  # Two frames of 2 x 2 patches pool to one token each; one newline.
  assert (prompt['tokens'] == 4).sum() == 3
  assert prompt['tokens'].shape[1] % 128 == 0
  assert prompt['tokens'][0, -1] == 2


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='config.json'):
    Assistant.load(tmp_path)
