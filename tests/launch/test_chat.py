"""Talking with a checkpoint: streams, turns, and what goes wrong."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import vlm
from data import assistant as assistants
from data.records import BadRecord
from launch import chat
from tests import tiny_checkpoint
from vlm.models import lora
from vlm.models.functional import Runtime
from vlm.rollout.sampler import sample
from vlm.rollout.settings import Buckets, Sampling
from vlm.sharding.mesh import make_mesh

pytestmark = pytest.mark.parity
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  pytest.importorskip('torch')
  return tiny_checkpoint.write(tmp_path_factory.mktemp('qwen'))


@pytest.fixture(scope='module')
def assistant(folder):
  return vlm.load(folder)


def test_turns_remember_what_was_shown(assistant):
  talk = chat.Conversation(assistant, max_new_tokens=6)
  talk.show(tiny_checkpoint.picture(60, 90))
  first = list(talk.say('what?'))
  assert len(talk.messages) == 2
  assert talk.messages[0]['content'][0] == {'type': 'image'}
  talk.show([tiny_checkpoint.picture(56, 56, seed) for seed in range(4)])
  second = ''.join(talk.say('and this?'))
  assert talk.messages[2]['content'][0] == {'type': 'video'}
  # The same conversation in one go.
  pictures = [*talk._shown]
  again = assistant.stream(talk.messages[:3], pictures, max_new_tokens=6)
  assert ''.join(again) == second
  alone = chat.Conversation(assistant, max_new_tokens=6)
  assert list(alone.say('what?')) != first


def test_images_reach_the_model_as_transformers_sees_them(assistant, folder):
  """From a file to greedy tokens, beside the published pipeline."""
  import torch
  import transformers
  from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl

  picture = tiny_checkpoint.picture(60, 90)
  answer = assistant.ask('what?', [picture], max_new_tokens=12)
  theirs = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
    folder
  ).eval()
  processor = image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil(
    size={'shortest_edge': 28 * 28, 'longest_edge': 28 * 28 * 12}
  )
  inputs = processor([picture], return_tensors='pt')
  prompt = assistant.prompt(
    {'messages': [chat.user_turn('what?', [picture])], 'images': [picture]}
  )
  real = prompt['segment_ids'][0] == 1
  tokens = torch.from_numpy(prompt['tokens'][:, real]).long()
  visual = np.isin(tokens.numpy(), assistant.chat.placeholder_ids)
  out = theirs.generate(
    input_ids=tokens,
    attention_mask=torch.ones_like(tokens),
    mm_token_type_ids=torch.from_numpy(visual.astype(int)),
    pixel_values=inputs['pixel_values'],
    image_grid_thw=inputs['image_grid_thw'],
    max_new_tokens=12,
    do_sample=False,
    suppress_tokens=list(assistant.chat.placeholder_ids),
  )
  said = out[0, tokens.shape[1] :].tolist()
  assert assistant.chat.decode(said).strip() == answer


def test_commands_and_mistakes(assistant, tmp_path):
  turns = iter(['hi', '/image nowhere.png', '/reset', 'hi', ''])
  written = []

  def show(kind, path):
    raise BadRecord('missing image', f'{path} does not exist')

  talk = chat.Conversation(assistant, max_new_tokens=3)
  chat.talk(talk, lambda: next(turns), show, written.append)
  text = ''.join(written)
  assert 'missing image: nowhere.png does not exist' in text
  first, second = text.split('missing image: nowhere.png does not exist\n')
  assert first == second and len(talk.messages) == 2
  with pytest.raises(BadRecord, match='holds no picture'):
    chat.pictures_of(str(tmp_path))


def run(*flags):
  return subprocess.run(
    [sys.executable, '-m', 'launch.chat', *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


def test_the_command_speaks_one_sentence_about_a_mistake(folder, tmp_path):
  (tmp_path / 'broken.png').write_bytes(b'no picture')
  done = run(f'--model={folder}', f'--image={tmp_path}', '--prompt=what?')
  assert done.returncode == 1
  assert (
    done.stderr.strip()
    .splitlines()[-1]
    .startswith(f'launch.chat: corrupt image: {tmp_path}/broken.png')
  )


@pytest.mark.parametrize(
  'break_it, message',
  [
    (lambda path: (path / 'tokenizer.json').unlink(), 'no tokenizer.json in'),
    (
      lambda path: (path / 'config.json').write_text('{"model_type": "gpt2"}'),
      "model_type 'gpt2' is not supported; known:",
    ),
    (lambda path: (path / 'config.json').unlink(), 'config.json is missing'),
  ],
)
def test_a_folder_that_is_no_checkpoint(folder, tmp_path, break_it, message):
  copy = tmp_path / 'copy'
  copy.mkdir()
  for path in folder.iterdir():
    (copy / path.name).write_bytes(path.read_bytes())
  break_it(copy)
  with pytest.raises((FileNotFoundError, ValueError), match=message):
    vlm.load(copy)


def test_pictures_for_a_reader_and_placeholders_in_words(assistant):
  with pytest.raises(BadRecord, match='placeholder mismatch'):
    assistant.ask('<|image_pad|>', max_new_tokens=2)


def test_too_many_frames_are_one_sentence(assistant, monkeypatch):
  monkeypatch.setattr(assistants, 'LONGEST', 40)
  film = [tiny_checkpoint.picture(56, 56)] * 12
  with pytest.raises(ValueError, match=r'24 of them visual; .*fewer frames'):
    assistant.ask('what?', [film])


def test_a_mesh_shards_what_is_loaded(folder, assistant):
  mesh = make_mesh(dict(data=1, fsdp=4, tensor=2))
  sharded = vlm.load(folder, mesh=mesh)
  kernel = sharded.params['decoder']['layers']['attn']['q']['kernel']
  assert kernel.sharding.spec == P(None, 'fsdp', 'tensor', None)
  picture = tiny_checkpoint.picture(60, 90)
  ask = lambda who: who.ask('what?', [picture], max_new_tokens=8)
  assert ask(sharded) == ask(assistant)


def test_adapters_may_lie_beside_what_is_loaded(folder, assistant):
  adapted = vlm.load(folder, Runtime(lora=lora.Lora(rank=2)))
  assert adapted.ask('hi', max_new_tokens=5) == assistant.ask(
    'hi', max_new_tokens=5
  )
  layer = adapted.params['decoder']['layers']['mlp']['up']
  assert layer['lora_a'].shape == (2, 64, 2)


def test_a_seed_draws_the_same_again(assistant):
  draw = lambda seed: assistant.ask(
    'hi', max_new_tokens=12, temperature=1.5, seed=seed
  )
  assert draw(1) == draw(1) != draw(2)


def test_samples_under_mrope_are_what_the_trainer_scores(assistant):
  """Three samples of one picture's prompt, drawn and scored twice."""
  picture = tiny_checkpoint.picture(60, 90)
  prompt = assistant.prompt(
    {'messages': [chat.user_turn('what?', [picture])], 'images': [picture]}
  )
  settings = Sampling(8, (0,), temperature=1.0)
  out = sample(
    assistant.model,
    assistant.params,
    prompt,
    settings,
    samples=3,
    seeds=[5],
    buckets=Buckets(prompt=(prompt['tokens'].shape[1],)),
  )
  assert len({tuple(row) for row in out.tokens[0].tolist()}) == 3
  assert out.lengths.min() > 1
  after = prompt['positions'].max() + 1 + np.arange(8, dtype=np.int32)
  for tokens, logprobs, length in zip(
    out.tokens[0], out.model_logprobs[0], out.lengths[0]
  ):
    joined = lambda old, new: np.concatenate([old, new[None]], axis=1)
    batch = prompt | {
      'tokens': joined(prompt['tokens'], tokens),
      'segment_ids': joined(prompt['segment_ids'], np.ones(8, np.int32)),
      'positions': joined(
        prompt['positions'], np.repeat(after[:, None], 3, axis=1)
      ),
    }
    batch = jax.tree.map(jnp.asarray, batch)
    hidden = assistant.model.hidden(assistant.params, batch)[:, -9:-1]
    logits = assistant.model.logits(assistant.params, hidden)[0]
    want = np.asarray(jax.nn.log_softmax(logits))[np.arange(8), tokens]
    difference = np.abs(want - logprobs)[:length]
    assert difference.max() < 1e-3
