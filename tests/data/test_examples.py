"""Examples become rows and left-padded prompts that agree with each other."""

import pickle

import numpy as np
import pytest

from data import pack, records
from data.chat import Chat, char_tokenizer
from data.examples import Encoder
from data.processors.llava import LlavaProcessor
from data.sources.rendered import RenderedRooms
from data.worlds.rooms import RoomSettings
from experiments.depthlm.task import TEMPLATE, WORDS
from vlm.models.plan import Layout

IMAGE, END, SEP = 3, 1, 2


@pytest.fixture(scope='module')
def encoder() -> Encoder:
  specials = ('<pad>', '<end>', '<sep>', '<image>', '<video>')
  names = {'image': '<image>', 'video': '<video>'}
  chat = Chat(char_tokenizer(WORDS, specials).to_str(), TEMPLATE, names)
  layout = Layout(tile=8, side=2, resolutions=())
  return Encoder(chat, LlavaProcessor(layout))


@pytest.fixture(scope='module')
def spec(encoder) -> pack.RowSpec:
  names = encoder.chat.placeholder_ids
  return encoder.processor.row(1, seq_len=14, visual=5, placeholders=names)


def example(answer: str | None, size: int = 8) -> dict:
  content = [{'type': 'image'}, {'type': 'text', 'text': 'how far?'}]
  messages = [{'role': 'user', 'content': content}]
  if answer is not None:
    messages.append({'role': 'assistant', 'content': answer})
  picture = np.arange(size * size * 3, dtype=np.uint8).reshape(size, size, 3)
  return {'images': [picture], 'messages': messages}


def test_a_row_by_hand(encoder, spec):
  row = pack.pad_sample(encoder.sample(example('2.5')), spec)
  digits = [encoder.chat.tokenizer.token_to_id(c) for c in '2.5']
  ask = encoder.chat.tokenizer.token_to_id('how far?')
  said = [*digits, END]
  assert row['tokens'].tolist() == [*[IMAGE] * 5, ask, SEP, *said, 0, 0, 0]
  assert row['loss_mask'].tolist() == [*[0] * 7, *[1] * 4, *[0] * 3]
  assert row['plan']['index'][:, 0].tolist() == [0, 1, 2, 3, 4]
  assert row['plan']['valid'].all()
  np.testing.assert_array_equal(row['pixels'][0], example('')['images'][0])


def test_prompts_are_the_rows_without_answers(encoder, spec):
  batch = encoder.prompts([example(None), example(None)], spec)
  row = pack.pad_sample(encoder.sample(example('2.5')), spec)
  assert batch['tokens'].shape == (2, 14)
  assert batch['tokens'][0].tolist() == [0] * 7 + row['tokens'][:7].tolist()
  assert batch['segment_ids'][1].tolist() == [0] * 7 + [1] * 7
  np.testing.assert_array_equal(batch['pixels'][1], row['pixels'])


def test_bad_examples_have_their_reason(encoder, spec):
  with pytest.raises(records.BadRecord, match='empty answer'):
    encoder.sample(example(''))
  with pytest.raises(records.BadRecord, match='too long'):
    pack.pad_sample(encoder.sample(example('1234567890')), spec)
  two = example('2.5')
  two['images'] = two['images'] * 2
  with pytest.raises(records.BadRecord):
    encoder.sample(two)


def test_text_outside_the_alphabet_is_an_error(encoder):
  with pytest.raises(Exception, match='unk|UNK'):
    encoder.sample(example('two'))


def test_an_encoder_survives_pickling_after_use(encoder):
  encoder.sample(example('2.5'))
  copy = pickle.loads(pickle.dumps(encoder))
  np.testing.assert_array_equal(
    copy.sample(example('2.5'))['tokens'],
    encoder.sample(example('2.5'))['tokens'],
  )


def test_rendered_rooms_are_kept_and_equal(tmp_path):
  settings = RoomSettings(width=24, height=24, focals=(20.0, 30.0))
  seen = []
  make = lambda **kwargs: RenderedRooms(
    1, 3, settings, 4, folder=str(tmp_path), **kwargs
  )
  first = make(progress=lambda done, count: seen.append((done, count)))
  again = make(progress=lambda done, count: seen.append('again'))
  assert seen == [(3, 3)] and len(list(tmp_path.iterdir())) == 1
  for index in range(3):
    for field in ('image', 'pixel_coords', 'depth'):
      np.testing.assert_array_equal(first[index][field], again[index][field])
  other = RenderedRooms(2, 3, settings, 4, folder=str(tmp_path))
  assert np.any(other[0]['image'] != first[0]['image'])
  copy = pickle.loads(pickle.dumps(first))
  np.testing.assert_array_equal(copy[2]['depth'], first[2]['depth'])
