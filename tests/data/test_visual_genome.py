"""Visual Genome's boxes and the words that knowledge is built of."""

import numpy as np
import pytest

from data.sources import visual_genome
from data.sources.visual_genome import VisualGenome, choose_words, count_words
from tests import mask_files
from tests.mask_files import box


@pytest.fixture
def root(tmp_path):
  return mask_files.write_genome(
    tmp_path,
    {
      1: (
        None,
        [
          box(['Hot-Dog', 'sausage'], (1, 2, 10, 20), ['red', 'hot']),
          box([''], (0, 0, 5, 5)),
          box(['man'], (90, 70, 50, 50)),
          box(['sky'], (0, 0, 0, 10)),
          box(['tree'], (200, 0, 10, 10)),
        ],
      ),
      2: (77, [box(['dog'])]),
      3: (78, [box(['?!'], attributes=['blue'])]),
      4: (None, []),
    },
  )


def test_boxes_have_words_and_lie_in_the_image(root):
  genome = VisualGenome(root)
  first, second = genome
  assert len(genome) == 4
  assert first.words == (('hot', 'dog'), ('man',))
  np.testing.assert_array_equal(
    first.boxes, [[1, 2, 11, 22], [90, 70, 100, 80]]
  )
  assert first.places.tolist() == [0, 2] and first.size == (100, 80)
  assert (second.image_id, second.coco_id) == (2, 77)
  assert genome.skipped == {
    'box without a word': 2,
    'box without an area': 2,
    'image without a usable box': 2,
  }
  assert count_words(genome) == {'hot': 1, 'dog': 2, 'man': 1}
  assert sum(genome.skipped.values()) == 6  # of the last pass alone


def test_attributes_are_words_too(root):
  first, second, third = VisualGenome(root, attributes=True)
  assert first.words[0] == ('hot', 'dog', 'red')
  assert third.words == (('blue',),)


def test_images_of_a_test_set_are_left_out(root):
  genome = VisualGenome(root, without={77})
  assert [image.image_id for image in genome] == [1]
  assert genome.skipped['image of the COCO images left out'] == 1


@pytest.mark.parametrize('chunk', [1, 7, 1000])
def test_files_are_read_in_pieces(root, chunk, monkeypatch):
  whole = [image.words for image in VisualGenome(root)]
  monkeypatch.setattr(visual_genome, 'CHUNK', chunk)
  assert [image.words for image in VisualGenome(root)] == whole


def test_broken_files_are_named(root):
  path = root / 'objects.json'
  text = path.read_text()
  path.write_text(text[:-30])
  with pytest.raises(ValueError, match=r'objects\.json: cut short'):
    list(VisualGenome(root))
  path.write_text('{}')
  with pytest.raises(ValueError, match='expected a JSON list'):
    list(VisualGenome(root))
  path.write_text('[1]')
  with pytest.raises(ValueError, match='expected objects, got 1'):
    list(VisualGenome(root))
  path.write_text('[]')
  assert list(VisualGenome(root)) == []
  mask_files.write_json(root / 'image_data.json', [{'image_id': 3}])
  with pytest.raises(ValueError, match=r"without \['height', 'width'\]"):
    VisualGenome(root)
  (root / 'attributes.json').unlink()
  with pytest.raises(FileNotFoundError, match='attributes.json is missing'):
    VisualGenome(root, attributes=True)


COUNTS = {'dog': 3, 'dogs': 2, 'b2b': 9, 'man': 3, 'teh': 5, 'rare': 1}
VECTORS = {'dog', 'dogs', 'man', 'rare', 'b2b'}


def test_words_are_filtered_and_the_rest_is_counted():
  found = choose_words(COUNTS, VECTORS, minimum=2)
  assert found.words == ('dog', 'man', 'dogs') and found.counts == (3, 3, 2)
  assert found.left_out == {
    'not alphabetic': 1, 'no vector': 1, 'fewer than 2 boxes': 1
  }  # fmt: skip
  assert found.of == {'dog': 'dog', 'man': 'man', 'dogs': 'dogs'}


def test_words_may_count_as_their_base_form():
  found = choose_words(COUNTS, VECTORS, minimum=2, lemmatise=True)
  assert found.words == ('dog', 'man') and found.counts == (5, 3)
  assert found.of['dogs'] == 'dog'
  # A base form that is rarer is another word: glasses are no glass.
  found = choose_words({'glasses': 9, 'glass': 2}, {'glasses', 'glass'},
                       lemmatise=True)  # fmt: skip
  assert found.words == ('glasses', 'glass')


def test_only_the_most_frequent_words():
  found = choose_words(COUNTS, VECTORS, largest=1)
  assert found.words == ('dog',) and 'man' not in found.of
  assert found.left_out['beyond the most frequent'] == 3
  with pytest.raises(ValueError, match='no word of 6 is left'):
    choose_words(COUNTS, VECTORS, minimum=100)
