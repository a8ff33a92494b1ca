"""The knowledge folder: what is written is read, what does not fit is named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data import region_encoder
from data.knowledge import ARRAYS, FACTS, Knowledge
from data.region_encoder import Encoding
from data.words.vectors import WordVectors
from tests import mask_files
from vlm.methods.mask.encoder import EncoderConfig, RegionEncoder
from vlm.methods.mask.reconstruct import Reconstruction

WORDS = mask_files.WORDS
KNOWN = ('dog', 'red', 'car', 'man')


@pytest.fixture
def vectors():
  return WordVectors(WORDS, mask_files.vectors(), 'digest')


@pytest.fixture
def knowledge(vectors):
  prototypes = mask_files.vectors(KNOWN, 3, seed=1)
  return Knowledge(
    KNOWN,
    vectors.rows(KNOWN),
    prototypes,
    np.array([4, 3, 2, 1]),
    prototypes**2,
    'digest',
    {'method': 'mack'},
  )


def test_what_is_written_is_read(knowledge, tmp_path):
  knowledge.save(tmp_path / 'k')
  found = Knowledge.load(tmp_path / 'k')
  assert (found.words, found.meta, found.vector_digest) == (
    KNOWN, {'method': 'mack'}, 'digest'
  )  # fmt: skip
  for name in ('vectors', 'prototypes', 'counts', 'variance'):
    np.testing.assert_array_equal(
      getattr(found, name), getattr(knowledge, name)
    )


def test_broken_folders_are_named(knowledge, tmp_path):
  with pytest.raises(FileNotFoundError, match='knowledge.json is missing'):
    Knowledge.load(tmp_path)
  knowledge.save(tmp_path)
  (tmp_path / ARRAYS).write_bytes((tmp_path / ARRAYS).read_bytes()[:50])
  with pytest.raises(ValueError, match='--knowledge='):
    Knowledge.load(tmp_path)
  (tmp_path / ARRAYS).unlink()
  with pytest.raises(FileNotFoundError, match='safetensors is missing'):
    Knowledge.load(tmp_path)
  knowledge.save(tmp_path)
  (tmp_path / FACTS).write_text('{}')
  with pytest.raises(ValueError, match="--knowledge=.*'words'"):
    Knowledge.load(tmp_path)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('words', ('dog', 'red'), 'expected as many as words'),
    ('words', ('dog', 'dog', 'car', 'man'), r'\(3 different\)'),
    ('variance', np.zeros((4, 2)), 'expected equal shapes'),
    ('counts', np.array([1, 0, 1, 1]), "'red' has a prototype of no region"),
    ('prototypes', np.full((4, 3), np.nan), "prototypes of 'dog' are not"),
  ],
)
def test_arrays_that_do_not_fit_are_refused(knowledge, field, value, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(knowledge, **{field: value})


def test_other_vectors_are_refused(knowledge, vectors):
  wide = WordVectors(WORDS, mask_files.vectors(size=7), 'digest')
  with pytest.raises(ValueError, match='have 7 dimensions, .* built with 6'):
    knowledge.check_vectors(wide)
  other = WordVectors(WORDS, mask_files.vectors(seed=9), 'other')
  with pytest.raises(ValueError, match='are others .*4 common words'):
    knowledge.check_vectors(other)
  strangers = WordVectors(('x',), vectors.vectors[:1], 'other')
  with pytest.raises(ValueError, match='0 common words'):
    knowledge.table_for(['x'], strangers)
  # Another form of the same vectors, or a part of them.
  part = WordVectors(('puppy', 'dog'), vectors.rows(['puppy', 'dog']), 'other')
  knowledge.check_vectors(part)


ASKED = ('puppy', 'dog', 'nonsense', 'man', 'ball')


def test_tables_by_what_is_done_about_ood_words(knowledge, vectors):
  status = ('ood', 'known', 'unknown', 'known', 'ood')
  table = {}
  for mode in ('drop', 'constant', 'reconstruct'):
    table[mode], found = knowledge.table_for(ASKED, vectors, ood=mode)
    assert found == status and table[mode].dtype == np.float32
    np.testing.assert_array_equal(
      table[mode][[1, 3]], knowledge.prototypes[[0, 3]]
    )
    assert not table[mode][2].any()
  assert not table['drop'][[0, 4]].any()
  mean = knowledge.prototypes.mean(0)
  np.testing.assert_allclose(table['constant'][[0, 4]], [mean] * 2, rtol=1e-6)
  nearest, _ = knowledge.table_for(
    ASKED, vectors, reconstruction=Reconstruction(neighbours=1)
  )
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  cosine = unit(vectors.rows(['puppy', 'ball'])) @ unit(knowledge.vectors).T
  np.testing.assert_allclose(
    nearest[[0, 4]], knowledge.prototypes[cosine.argmax(1)], rtol=1e-6
  )
  with pytest.raises(ValueError, match="--ood='guess'"):
    knowledge.table_for(ASKED, vectors, ood='guess')


def test_words_of_no_vocabulary_make_an_empty_table(knowledge, vectors):
  table, status = knowledge.table_for(['nonsense'], vectors)
  assert status == ('unknown',) and not table.any()
  table, status = knowledge.table_for([], vectors)
  assert table.shape == (0, 3) and status == ()


@pytest.fixture(scope='module')
def encoder():
  config = EncoderConfig(8, 8, 6, depth=1, heads=2, word_heads=2)
  model = RegionEncoder(config)
  return model, mask_files.params_of(model)


def test_encoders_are_written_and_read(encoder, tmp_path):
  model, params = encoder
  region_encoder.save(tmp_path, model.config, params)
  found, read = region_encoder.load(tmp_path)
  assert found.config == model.config
  assert jax.tree.structure(read) == jax.tree.structure(params)
  for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(params)):
    np.testing.assert_array_equal(a, b)
  other = dataclasses.replace(model.config, depth=2)
  region_encoder.save(tmp_path, other, params)
  with pytest.raises(ValueError, match=r'expected .* arrays do not fit'):
    region_encoder.load(tmp_path)
  (tmp_path / region_encoder.FACTS).write_text('{"depth": 0}')
  with pytest.raises(ValueError, match='region_encoder.json: encoder.depth=0'):
    region_encoder.load(tmp_path)


def test_codes_do_not_depend_on_batches(encoder):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(5, 7, 8)).astype(np.float32)
  valid = rng.random((5, 7)) < 0.7
  valid[3] = False
  whole = Encoding(*encoder, 5)(x, valid)
  parts = Encoding(*encoder, 2)(x, valid)
  assert whole.shape == (5, 7, 8) and not whole[~valid].any()
  np.testing.assert_allclose(parts, whole, atol=1e-5)
  want, _ = jax.jit(encoder[0].encode)(
    encoder[1], jnp.asarray(x), jnp.asarray(valid)
  )
  np.testing.assert_allclose(whole[valid], np.asarray(want)[valid], atol=1e-5)
  assert Encoding(*encoder)(x[:0], valid[:0]).shape == (0, 7, 8)
  with pytest.raises(ValueError, match='of 4 numbers, the encoder expects 8'):
    Encoding(*encoder)(x[..., :4], valid)
