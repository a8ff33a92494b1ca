"""Pairs of a picture and a text: cut at sentences, equal ids, bad rows."""

import pickle

import numpy as np
import pytest
from PIL import Image

from data import records
from data.pairs import PairEncoder, TextEncoder, text_id
from data.processors.towers import Crop
from experiments.contrastive import contrastive, toy

config = contrastive.get_config('smoke')


@pytest.fixture(scope='module')
def encoder():
  text = TextEncoder(toy.Task(config).tokenizer_json(), 10)
  return PairEncoder(Crop(32, 32), text)


def words(encoder, ids):
  return encoder.text.tokenizer.decode(ids.tolist()).split()


def test_a_text_that_fits_ends_where_it_ends(encoder):
  ids, cut = encoder.text('a red disc on blue ground .')
  assert not cut and ids.shape == (10,) and ids.dtype == np.int32
  assert ids[8] == encoder.text.end and ids[9] == 0
  again, _ = encoder.text('  a red disc on blue ground .\n')
  np.testing.assert_array_equal(ids, again)


def test_a_long_text_is_cut_after_a_sentence(encoder):
  text = 'a red disc . a blue bar . it is white .'
  ids, cut = encoder.text(text)
  assert cut
  want, _ = encoder.text('a red disc . a blue bar .')
  np.testing.assert_array_equal(ids, want)
  # A first sentence that is too long is cut inside, and still has its end.
  ids, cut = encoder.text('a ' * 30 + '.')
  assert cut and ids[-1] == encoder.text.end and 0 not in ids[1:]


def test_equal_texts_have_equal_ids(encoder):
  image = Image.new('RGB', (40, 32))
  first = encoder(image, 'a red disc .')
  same = encoder(image, 'a red disc . ')
  other = encoder(image, 'a red bar .')
  assert first['text_ids'] == same['text_ids'] != other['text_ids']
  assert first['text_ids'].dtype == np.int32 and first['text_ids'] > 0
  assert text_id(np.zeros(3, np.int32)) > 0
  assert first['pixels'].shape == (32, 32, 3)
  assert first['cut'] == 0 and first['cut'].dtype == np.float32


def test_an_encoder_can_be_pickled(encoder):
  copy = pickle.loads(pickle.dumps(encoder))
  ids, _ = copy.text('a red disc .')
  np.testing.assert_array_equal(ids, encoder.text('a red disc .')[0])


@pytest.mark.parametrize('text', ['', ' \n', None, 3])
def test_no_text_is_a_bad_row(encoder, text):
  reason = 'empty text' if isinstance(text, str) else 'wrong type'
  with pytest.raises(records.BadRecord, match=reason):
    encoder(Image.new('RGB', (32, 32)), text)


def test_a_missing_picture_keeps_no_text(encoder, tmp_path):
  with pytest.raises(records.BadRecord, match='missing image'):
    encoder(tmp_path / 'gone.png', 'a red disc .')
  (tmp_path / 'broken.png').write_bytes(b'\x89PNG')
  with pytest.raises(records.BadRecord, match='corrupt image'):
    encoder(tmp_path / 'broken.png', 'a red disc .')


def test_a_tokenizer_without_an_end_is_refused():
  from data.chat import char_tokenizer

  bare = TextEncoder(char_tokenizer('ab', ['<x>']).to_str(), 4)
  with pytest.raises(ValueError, match='no token at the end'):
    _ = bare.end


def test_of_several_texts_each_is_drawn_and_bad_ones_are_named():
  task = toy.Task(config)
  row = {'image': 'a.png', 'texts': ['x', 'y', 'z']}
  rng = np.random.default_rng(0)
  drawn = {task.pair(row, rng)[1] for _ in range(40)}
  assert drawn == {'x', 'y', 'z'}
  assert task.texts({'image': 'a.png', 'texts': 'one'})[1] == ['one']
  for texts in ([], ['x', ' '], ['x', None]):
    with pytest.raises(records.BadRecord, match='empty text'):
      task.pair({'image': 'a.png', 'texts': texts}, rng)
  with pytest.raises(records.BadRecord, match="no field 'texts'"):
    task.pair({'image': 'a.png'}, rng)
  with pytest.raises(records.BadRecord, match="field 'image' is int"):
    task.pair({'image': 3, 'texts': 'x'}, rng)


def test_fewer_texts_can_be_asked_for():
  few = contrastive.get_config('smoke')
  few.contrastive.texts = 1
  row = {'image': 'a.png', 'texts': ['x', 'y', 'z']}
  assert toy.Task(few).texts(row)[1] == ['x']
