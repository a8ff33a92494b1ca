"""Word vectors of every form, words of captions, and what is known of them."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from data.words import lemmas
from data.words.captions import WordSettings, look_up, resolve, words_of
from data.words.vectors import WordVectors, load_vectors
from tests import mask_files

WORDS = ('dog', 'ice_cream', 'café', 'red')


@pytest.fixture
def values():
  return mask_files.vectors(WORDS)


def write(root, form, values):
  """A file of `WORDS` in a form, and its path."""
  if form == 'npy':
    np.save(root / 'v.npy', values)
    table = pyarrow.table({'index': list(WORDS)})
    pyarrow.parquet.write_table(table, root / 'words.parquet')
    return root / 'v.npy'
  if form == 'npz':
    np.savez(root / 'v.npz', words=np.array(WORDS), vectors=values)
    return root / 'v.npz'
  if form.startswith('bin'):
    return mask_files.write_binary(
      root / 'v.bin', WORDS, values, form == 'bin2'
    )
  header = form == 'vec'
  return mask_files.write_text(root / f'v.{form}', WORDS, values, header)


@pytest.mark.parametrize('form', ['txt', 'vec', 'bin', 'bin2', 'npy', 'npz'])
def test_forms_agree(form, values, tmp_path):
  path = write(tmp_path, form, values)
  found = load_vectors(path)
  assert found.words == WORDS and found.vectors.dtype == np.float32
  np.testing.assert_array_equal(found.vectors, values)
  part = load_vectors(path, wanted={'red', 'dog', 'no such'})
  assert part.words == ('dog', 'red') and part.digest == found.digest
  np.testing.assert_array_equal(part.rows(['red', 'dog']), values[[3, 0]])


def test_words_may_hold_spaces(values, tmp_path):
  """As '. . .' does in GloVe 840B."""
  words = ('dog', '. . .', 'at name@domain.com', 'red')
  path = mask_files.write_text(tmp_path / 'v.txt', words, values)
  found = load_vectors(path)
  assert found.words == words
  np.testing.assert_array_equal(found.vectors, values)


def test_digests_tell_files_apart(values, tmp_path):
  first = load_vectors(write(tmp_path, 'txt', values)).digest
  assert load_vectors(write(tmp_path, 'txt', values)).digest == first
  assert load_vectors(write(tmp_path, 'txt', values + 1)).digest != first


def test_entries_without_a_direction_are_counted(values, tmp_path):
  rows = np.stack([*values, values[0], values[0] * 0, values[0] * np.nan])
  words = (*WORDS, 'dog', 'zero', 'nan')
  path = mask_files.write_text(tmp_path / 'v.txt', words, rows)
  with path.open('ab') as file:
    file.write(b'\xff\xfe' + b' 1.0' * 6 + b'\n')
  found = load_vectors(path)
  assert found.words == WORDS
  assert found.left_out == {
    'word seen before': 1, 'zero': 1, 'not finite': 1, 'not UTF-8': 1
  }  # fmt: skip


def test_broken_files_are_named(values, tmp_path):
  text = write(tmp_path, 'txt', values).read_text()
  bad = tmp_path / 'bad.txt'
  bad.write_text(text[: -len(text) // 8].rstrip())
  with pytest.raises(ValueError, match='line 4: expected a word and 6'):
    load_vectors(bad)
  bad.write_text(text.replace('red ', 'red x '))  # a field too many is a word
  assert 'red x' in load_vectors(bad).words
  bad.write_text('dog 1 2 3\nred 1 two 3\n')
  with pytest.raises(ValueError, match="line 2: could not convert .*'?two"):
    load_vectors(bad)
  binary = write(tmp_path, 'bin', values)
  binary.write_bytes(binary.read_bytes()[:-30])
  with pytest.raises(ValueError, match=r'ends at word \d of 4'):
    load_vectors(binary)
  binary.write_bytes(b'PK\x03\x04')
  with pytest.raises(ValueError, match='no word2vec file'):
    load_vectors(binary)
  np.savez(tmp_path / 'v.npz', a=values)
  with pytest.raises(ValueError, match='expected words and vectors'):
    load_vectors(tmp_path / 'v.npz')
  np.save(tmp_path / 'v.npy', values)
  with pytest.raises(FileNotFoundError, match='one parquet file'):
    load_vectors(tmp_path / 'v.npy')
  with pytest.raises(FileNotFoundError, match='does not exist'):
    load_vectors(tmp_path / 'none.txt')
  with pytest.raises(FileNotFoundError, match='pip install --no-deps no-such'):
    load_vectors('package:no-such-words')
  (tmp_path / 'v.zip').touch()
  with pytest.raises(ValueError, match='archives unpacked'):
    load_vectors(tmp_path / 'v.zip')
  with pytest.raises(ValueError, match='none of the words looked for'):
    load_vectors(write(tmp_path, 'txt', values), wanted=['no such'])


@pytest.mark.parametrize(
  ('caption', 'words'),
  [
    ('Two dogs are running; one ISN\u2019T brown.', 'dogs running brown'),
    ("A man's T-shirt, 3 cats/dogs (small)", 'man shirt cats dogs small'),
    ('A man and a man.', 'man man'),
    ('The U.S. flag at 7pm', 'flag'),
    ('It is what it is.', ''),
    ('', ''),
    ('café au lait', 'café au lait'),
  ],
)
def test_words_of_captions(caption, words):
  assert words_of(caption, WordSettings()) == words.split()


def test_all_words_and_tagged_words():
  every = words_of('The dog is red', WordSettings(stop_words=False))
  assert every == ['the', 'dog', 'is', 'red']
  tagged = [('The', 'DT'), ('Dogs', 'NNS'), ('run', 'VBP'), ('after', 'IN')]
  tagged += [('after', 'NN'), ('reddest', 'JJS'), ("'s", 'NN')]
  settings = WordSettings()
  assert words_of(tagged, settings) == ['dogs', 'after', 'reddest']
  assert words_of(tagged, WordSettings(tags=('VB',))) == ['run']


@pytest.mark.parametrize(
  ('word', 'base'),
  [
    ('musicians', 'musician'),
    ('puppies', 'puppy'),
    ('knives', 'knife'),
    ('women', 'woman'),
    ('firemen', 'fireman'),
    ('dresses', 'dress'),
    ('boxes', 'box'),
    ('running', 'run'),
    ('riding', 'ride'),
    ('stopped', 'stop'),
    ('children', 'child'),
  ],
)
def test_base_forms(word, base):
  assert base in lemmas.candidates(word)


def test_words_that_are_base_forms_have_no_other():
  for word in ('glass', 'bus', 'red', 'king', 'corner', 'forest', 'dog'):
    assert not lemmas.candidates(word), word


def test_known_forms_win_over_vectors():
  known, vectors = {'dog'}, {'dog', 'dogs', 'puppy'}
  assert resolve('dogs', known, vectors) == ('dogs', 'ood')
  assert resolve('dogs', known, vectors, lemmatise=True) == ('dog', 'known')
  assert resolve('puppies', known, vectors, lemmatise=True)[1] == 'ood'
  assert resolve('puppies', known, vectors) == ('puppies', 'unknown')


def test_words_are_looked_up_once_and_counted_every_time():
  captions = [['dog', 'zzz', 'dog'], [], ['puppy', 'dog'], ['zzz']]
  found = look_up(captions, {'dog'}, {'dog', 'puppy'}, WordSettings())
  assert found.words == ('dog', 'puppy') and found.status == ('known', 'ood')
  np.testing.assert_array_equal(
    found.ids, [[0, -1, 0], [-1] * 3, [1, 0, -1], [-1] * 3]
  )
  assert found.counts == {'known': 3, 'ood': 1, 'unknown': 2}
  np.testing.assert_array_equal(
    found.by_caption, [[2, 0, 1], [0, 0, 0], [1, 1, 0], [0, 0, 1]]
  )
  assert found.unknown == {'zzz': 2}
  np.testing.assert_array_equal(found.without('ood')[2], [-1, 0, -1])
  nothing = look_up([['zzz']], {'dog'}, {'dog'}, WordSettings())
  assert nothing.words == () and nothing.ids.tolist() == [[-1]]
  assert nothing.without('ood').tolist() == [[-1]]


def test_vectors_may_be_made_without_a_file():
  made = WordVectors(('a', 'b'), np.eye(2, dtype=np.float32), 'x')
  assert made.size == 2 and made.index == {'a': 0, 'b': 1}
