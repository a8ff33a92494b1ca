"""Captions of Karpathy's and SCAN's layouts, and tags beside them."""

import json
import pickle

import numpy as np
import pytest

from data.sources import karpathy
from tests import mask_files


@pytest.fixture
def coco(tmp_path):
  five = lambda word: [f'a {word} {n}' for n in range(5)]
  rows = [
    ('COCO_val2014_000000000042.jpg', 'test', 42, [*five('dog'), 'a sixth']),
    ('COCO_val2014_000000000007.jpg', 'test', 7, five('cat')),
    ('COCO_train2014_000000000009.jpg', 'train', 9, five('x')),
    ('COCO_val2014_000000000011.jpg', 'restval', 11, five('y')),
  ]
  return mask_files.write_karpathy(tmp_path / 'dataset_coco.json', rows)


def test_karpathy_splits(coco):
  found = karpathy.open_captions(coco)
  assert found.images == ('42', '7')
  assert found.files[0] == 'val2014/COCO_val2014_000000000042.jpg'
  assert len(found.captions) == 10 and found.captions[5] == 'a cat 0'
  np.testing.assert_array_equal(found.owners, np.repeat([0, 1], 5))
  assert found.skipped == {'caption beyond the first five': 1}
  assert karpathy.open_captions(coco, 'train').images == ('9', '11')
  assert karpathy.coco_ids(coco) == {42, 7}


def test_flickr_has_no_coco_ids(tmp_path):
  row = ('12.jpg', 'test', None, ['one', 'two'])
  path = mask_files.write_karpathy(tmp_path / 'dataset.json', [row])
  found = karpathy.open_captions(path)
  assert found.images == ('12',) and found.files == ('12.jpg',)
  assert found.owners.tolist() == [0, 0] and not found.skipped
  with pytest.raises(ValueError, match='no cocoid'):
    karpathy.coco_ids(path)


def test_scan_captions_with_an_empty_one(tmp_path):
  path = tmp_path / 'test_caps.txt'
  path.write_text('\n'.join(['a dog', '', 'c', 'd', 'e'] * 2) + '\n')
  found = karpathy.open_captions(path)
  assert found.images == ('0', '1') and found.captions[1] == ''
  assert found.owners.tolist() == [0] * 5 + [1] * 5
  path.write_text('a\nb\n')
  with pytest.raises(ValueError, match='2 captions, expected a multiple of 5'):
    karpathy.open_captions(path)


def test_other_files_are_refused(coco, tmp_path):
  with pytest.raises(ValueError, match='no image of --split=val; it has'):
    karpathy.open_captions(coco, 'val')
  with pytest.raises(ValueError, match="--split='tset'"):
    karpathy.open_captions(coco, 'tset')
  with pytest.raises(FileNotFoundError, match='does not exist'):
    karpathy.open_captions(tmp_path / 'no.json')
  bad = mask_files.write_json(tmp_path / 'bad.json', [1])
  with pytest.raises(ValueError, match='expected an object with images'):
    karpathy.open_captions(bad)
  row = ('a.jpg', 'test', 1, [])
  empty = mask_files.write_karpathy(tmp_path / 'empty.json', [row])
  with pytest.raises(ValueError, match=r"image 'a\.jpg' has sentences \[\]"):
    karpathy.open_captions(empty)
  twice = [('a.jpg', 'test', 1, ['x']), ('b.jpg', 'test', 1, ['x'])]
  twice = mask_files.write_karpathy(tmp_path / 'twice.json', twice)
  with pytest.raises(ValueError, match="image '1' is there twice"):
    karpathy.open_captions(twice)
  (tmp_path / 'a.csv').touch()
  with pytest.raises(ValueError, match='or SCAN'):
    karpathy.open_captions(tmp_path / 'a.csv')


TAGS = [[['a', 'DT'], ['dog', 'NN']], []]
PARSES = [[[['dog', 'NN'], 'amod', ['red', 'JJ']]], []]


def test_tags_and_parses_are_read_from_json(tmp_path):
  tags = mask_files.write_json(tmp_path / 'tags.json', TAGS)
  assert karpathy.read_tags(tags, 2)[0][1] == ('dog', 'NN')
  parses = mask_files.write_json(tmp_path / 'parses.json', PARSES)
  found = karpathy.read_parses(parses, 2)
  assert found == (((('dog', 'NN'), 'amod', ('red', 'JJ')),), ())


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_not_opened(protocol, tmp_path):
  trap = [mask_files.Unpickled()]
  for name in ('tags.pkl', 'tags.json'):
    (tmp_path / name).write_bytes(pickle.dumps(trap, protocol))
    with pytest.raises(ValueError, match='pickles are not opened'):
      karpathy.read_tags(tmp_path / name, 1)


def test_rows_of_another_form_are_named(tmp_path):
  path = mask_files.write_json(tmp_path / 'tags.json', TAGS)
  with pytest.raises(
    ValueError, match='2 rows, expected one for each of the 5'
  ):
    karpathy.read_tags(path, 5)
  path.write_text(json.dumps([TAGS[0], [['dog']]]))
  with pytest.raises(ValueError, match=r"row 1 is \[\['dog'\]\]"):
    karpathy.read_tags(path, 2)
  path.write_text(json.dumps([TAGS[0], []]))
  with pytest.raises(ValueError, match='row 0 .*head'):
    karpathy.read_parses(path, 2)
  path.write_text('[1')
  with pytest.raises(ValueError, match='is not JSON'):
    karpathy.read_tags(path, 2)
