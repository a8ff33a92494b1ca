"""FlashVID where users meet it: one line, flags, and fine-tuning."""

import json

import jax
import numpy as np
import pytest
from absl import flags
from PIL import Image

import vlm
from data.records import BadRecord
from experiments.flashvid import video
from launch import job, reduction, train
from tests import tiny_checkpoint
from vlm.methods.flashvid import FlashVID

pytestmark = pytest.mark.parity
SETTINGS = FlashVID(0.5, min_segments=2)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """A checkpoint, a film that moves, and conversations about it."""
  pytest.importorskip('torch')
  folder = tmp_path_factory.mktemp('flashvid')
  (folder / 'model').mkdir()
  tiny_checkpoint.write(folder / 'model')
  frames = film()
  frames[0].save(
    folder / 'film.gif', save_all=True, append_images=frames[1:], duration=500
  )
  turns = [('when?', 'bc'), ('who?', 'a')]
  rows = [
    {
      'images': ['film.gif'],
      'messages': [
        {'role': 'user', 'content': question},
        {'role': 'assistant', 'content': answer},
      ],
    }
    for question, answer in turns
  ]
  lines = [json.dumps(row) for row in rows * 8]
  (folder / 'rows.jsonl').write_text('\n'.join(lines))
  return folder


def film(count=8):
  wide = np.asarray(tiny_checkpoint.picture(56, 84 + count))
  return [Image.fromarray(wide[:, n : n + 84]) for n in range(count)]


@pytest.fixture(scope='module')
def reduced(files):
  return vlm.load(files / 'model', visual_transform=SETTINGS)


def test_one_line_loads_a_model_that_sees_less(files, reduced):
  content = [{'type': 'video'}, {'type': 'text', 'text': 'what?'}]
  messages = [{'role': 'user', 'content': content}]
  prompt = reduced.prompt({'messages': messages, 'images': [film()]})
  whole = int((prompt['segment_ids'] > 0).sum())
  inputs = jax.jit(reduced.model.inputs)(reduced.params, prompt)
  # 4 units of 2 x 3 tokens: ceil(6 * 0.5 * 1.25) = 4 of each enter.
  assert int((inputs.segment_ids > 0).sum()) == whole - 4 * (6 - 4)
  hidden, cache = jax.jit(reduced.model.fill)(reduced.params, inputs)
  early, late = reduced.model.lengths(prompt)
  assert cache['k'].shape[2] == early == inputs.x.shape[1]
  assert cache['late']['k'].shape[2] == late == hidden.shape[1] < early
  answer = reduced.ask('what?', [film()], max_new_tokens=5)
  assert answer == reduced.ask('what?', [film()], max_new_tokens=5)


def test_pictures_and_text_are_not_touched(files, reduced):
  plain = vlm.load(files / 'model')
  for shown in ([], [tiny_checkpoint.picture(60, 90)]):
    want = plain.ask('what is it?', shown, max_new_tokens=6)
    assert reduced.ask('what is it?', shown, max_new_tokens=6) == want


def test_several_prompts_in_one_batch(reduced):
  content = [{'type': 'video'}, {'type': 'text', 'text': 'what?'}]
  films = [film(), film(4), film(6)]
  examples = [
    {'messages': [{'role': 'user', 'content': content}], 'images': [shown]}
    for shown in films
  ]
  batch = reduced.prompts(examples)
  assert batch['plan']['frames'].shape == (3, 1, 4, 6)
  rows = (batch['plan']['frames'] >= 0).sum(axis=(1, 2, 3))
  assert rows.tolist() == [24, 12, 18]


def test_fine_tuning_through_merged_tokens(files, tmp_path):
  config = video.get_config('smoke,retention=0.5')
  config.model.init_from = str(files / 'model')
  config.data.path = str(files / 'rows.jsonl')
  config.data.images = str(files)
  config.workdir = str(tmp_path / 'run')
  config.optimizer.lr = 3e-3
  config.steps = 8
  rows = []
  made, state = train.run(config, report_row=rows.append)
  losses = [row['loss'] for row in rows if 'loss' in row]
  assert losses[-1] < 0.9 * losses[0]
  shapes = job.batch_of(config.batch_size, made.spec)
  # 16 of 24 tokens stay, and nothing is pruned inside the decoder.
  assert made.model.lengths(shapes)[0] == config.data.seq_len - 8
  start = job.initial_params(made)
  patch = lambda params: np.asarray(params['vision']['patch']['kernel'])
  assert np.abs(patch(state['params']) - patch(start)).max() > 1e-4


def test_a_row_without_room_for_videos_is_refused(files):
  config = video.get_config('smoke')
  config.model.init_from = str(files / 'model')
  config.data.clips = ()
  with pytest.raises(ValueError, match=r'--config\.data\.clips'):
    job.prepare(config)
  config.data.clips = (16, 4, 6)
  with pytest.raises(ValueError, match=r'--config\.data\.seq_len=96'):
    job.prepare(config)


def said(monkeypatch, *words):
  """What the flags are after these words on a command line."""
  values = flags.FlagValues()
  # Fields of a config are flags only where the command line has them.
  monkeypatch.setattr('sys.argv', ['', *words])
  reduction.define_flags(values)
  values(['', *words])
  return values


def test_flags_say_what_is_left_out(monkeypatch):
  found = said(
    monkeypatch,
    '--flashvid.retention=0.1',
    '--flashvid.layer=17',
    '--flashvid.mode=official',
  )
  want = FlashVID(0.1, layer=17, mode='official')
  assert reduction.flashvid_of(found.flashvid) == want
  config = video.get_config()
  reduction.update(config, found)
  assert reduction.flashvid_of(config.flashvid) == want
  # A default that is said wins over what the config has.
  reduction.update(config, said(monkeypatch, '--flashvid.retention=1.0'))
  assert reduction.flashvid_of(config.flashvid) is None
  assert config.flashvid.layer == 17
  wrong = said(monkeypatch, '--flashvid.retention=0.9')
  with pytest.raises(ValueError, match=r'--flashvid\.retention'):
    reduction.flashvid_of(wrong.flashvid)


@pytest.mark.parametrize('model', sorted(video.VIDEOS))
def test_published_models_have_room_for_their_videos(model):
  config = video.get_config(f'full,model={model}')
  config.model.init_from = ''
  made = job.model_of(config)
  spec = job.row_specs(config, made)[-1]
  videos, frames, tokens = spec.clips.shape
  shapes = job.batch_of(2, spec)
  early, late = made.lengths(shapes)
  assert early == video.TEXT + made.transforms[0].room(frames, tokens)
  depth, cut = made.decoder_config.depth, made.prune.layer
  mean = (early - video.TEXT) * cut + (late - video.TEXT) * (depth - cut)
  assert mean / depth / (frames * tokens) == pytest.approx(0.25, abs=0.005)


def test_prompts_need_room_behind_the_prune(files):
  """A short film is pruned less than a row for a long one assumes."""
  config = video.get_config('smoke,retention=0.5')
  config.model.init_from = str(files / 'model')
  # 8 tokens are merged away in front of the decoder, and 6 pruned inside.
  config.data.seq_len = 60
  made = job.prepare(config)
  assert (made.spec.clips.lost, made.prompt_spec.clips.lost) == (8, 14)
  content = [{'type': 'video'}, {'type': 'text', 'text': 'x' * 24}]
  example = {
    'messages': [{'role': 'user', 'content': content}],
    'images': [film(2)],
  }
  assert made.encoder.prompts([example], made.spec)['tokens'].shape == (1, 60)
  with pytest.raises(BadRecord, match=r'at most 46 fit'):
    made.encoder.prompts([example], made.prompt_spec)
