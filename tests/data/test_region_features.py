"""Published region features of every layout, and crops in their place."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from data import regions
from data.records import BadRecord
from data.sources import region_features as rf
from tests import iqa_files, mask_files

IDS = ('42', '7', '9')


@pytest.fixture
def features():
  rng = np.random.default_rng(0)
  return rng.normal(size=(3, 4, 5)).astype(np.float32)


def named(features):
  names = [f'COCO_val2014_{int(one):012d}' for one in IDS]
  return dict(zip(names, features))


def write(root, form, features):
  if form == 'npy':
    np.save(root / 'test_ims.npy', features)
    return root / 'test_ims.npy'
  if form == 'repeated':
    np.save(root / 'test_ims.npy', np.repeat(features, 5, axis=0))
    return root / 'test_ims.npy'
  if form == 'h5':
    h5py = pytest.importorskip('h5py')
    with h5py.File(root / 'f.h5', 'w') as file:
      file['ctx'] = features
    return root / 'f.h5'
  if form == 'npz':
    return mask_files.write_npz(root / 'npz', named(features))
  return mask_files.write_tsv(root / 'f.tsv', dict(zip(IDS, features)))


@pytest.mark.parametrize('form', ['npy', 'repeated', 'h5', 'npz', 'tsv'])
def test_layouts_agree(form, features, tmp_path):
  source = rf.open_features(write(tmp_path, form, features), images=3)
  assert len(source) == 3
  order = rf.places(source, IDS, [''] * 3)
  got = np.stack([source[place].features for place in order])
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got, features)
  if source.keys is not None:
    assert source[0].boxes.shape == (4, 4)
    turned = rf.places(source, IDS[::-1], [''] * 3)
    assert turned == order[::-1]


def test_images_are_found_by_the_name_of_their_file(features, tmp_path):
  names = dict(zip(('a_b', 'c.d', '12'), features))
  source = rf.open_features(mask_files.write_npz(tmp_path / 'x', names))
  files = ['val/c.d.jpg', '12.png', 'a_b.jpg']
  order = rf.places(source, ['1', '2', '3'], files)
  assert [source.keys[place] for place in order] == ['c.d', '12', 'a_b']
  with pytest.raises(ValueError, match='no features of image 5 .1 of 2'):
    rf.places(source, ['12', '5'], ['', 'z.jpg'])


@pytest.mark.parametrize('images', [1, 4, 15])
def test_another_number_of_images_is_refused(images, features, tmp_path):
  path = write(tmp_path, 'npy', features)
  with pytest.raises(ValueError, match=r'shape \(3, 4, 5\), expected'):
    rf.open_features(path, images=images)


def test_broken_files_are_named(features, tmp_path):
  table = write(tmp_path, 'tsv', features)
  text = table.read_text()
  table.write_text(text[: -len(text) // 8])
  source = rf.open_features(table)
  with pytest.raises(ValueError, match=r'f\.tsv: image 9: '):
    source[2]
  table.write_text(text + '42\t1\n')
  with pytest.raises(ValueError, match='line 4 has 2 fields'):
    rf.open_features(table)
  table.write_text(text + text)
  with pytest.raises(ValueError, match='image 42 is there twice'):
    rf.open_features(table)
  folder = write(tmp_path, 'npz', features)
  source = rf.open_features(folder)
  path = next(folder.glob('*42.npz'))
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(ValueError, match=r'42\.npz: no npz with x and bbox'):
    [source[place] for place in range(3)]
  np.savez(path, x=np.ones((3, 2)), bbox=np.ones((2, 4)))
  with pytest.raises(ValueError, match=r'features \(3, 2\) and boxes \(2, 4\)'):
    [source[place] for place in range(3)]
  np.save(tmp_path / 'o.npy', np.array([{}], object))
  with pytest.raises(ValueError, match='--features=.*Python objects'):
    rf.open_features(tmp_path / 'o.npy', 1)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(FileNotFoundError, match='has no npz'):
    rf.open_features(tmp_path / 'empty')
  with pytest.raises(FileNotFoundError, match='does not exist'):
    rf.open_features(tmp_path / 'none.npy')
  (tmp_path / 'a.mat').touch()
  with pytest.raises(ValueError, match='expected a .npy'):
    rf.open_features(tmp_path / 'a.mat')


def test_zero_regions_are_left_out_and_nan_is_refused(features, tmp_path):
  features[0, 1], features[1] = 0, 0
  source = rf.open_features(write(tmp_path, 'npy', features), images=3)
  left_out = Counter()
  got = list(rf.batches(source, range(3), 2, left_out))
  assert [batch.valid.sum(axis=1).tolist() for batch in got] == [[3, 0], [4]]
  np.testing.assert_array_equal(got[0].features[0, :3], features[0, [0, 2, 3]])
  assert not got[0].features[~got[0].valid].any()
  assert left_out == {'region of zeros': 5, 'image without a region': 1}
  features[2, 0, 0] = np.nan
  source = rf.open_features(write(tmp_path, 'npy', features), images=3)
  with pytest.raises(ValueError, match='image 2 has features that are NaN'):
    list(rf.batches(source, range(3), 2, Counter()))


def test_images_may_have_any_number_of_regions(tmp_path):
  x = {'1': np.ones((3, 2)), '2': np.zeros((0, 2)), '3': np.ones((1, 4))}
  source = rf.open_features(mask_files.write_npz(tmp_path / 'n', x))
  left_out = Counter()
  batch = next(rf.batches(source, [0, 1], 2, left_out))
  assert batch.features.shape == (2, 3, 2)
  assert left_out['image without a region'] == 1
  with pytest.raises(ValueError, match='features of 4 numbers, others of 2'):
    list(rf.batches(source, [0, 2], 1, left_out))


class TestCrops:
  def test_grid(self):
    boxes = regions.grid_boxes((200, 100))
    assert boxes.shape == (36, 4) and len({*map(tuple, boxes)}) == 36
    assert boxes[0].tolist() == [0, 0, 200, 100]
    assert boxes[2].tolist() == [100, 0, 200, 50]
    assert boxes.min() == 0 and boxes[:, 2].max() == 200
    assert boxes[:, 3].max() == 100 and (boxes[:, 2:] > boxes[:, :2]).all()

  def test_crops_are_encoded_in_order(self, tmp_path):
    iqa_files.picture(tmp_path / 'a' / '1.png', 3)
    iqa_files.picture(tmp_path / 'b' / 'val' / '2.jpg', 4)
    folders = [tmp_path / 'a', tmp_path / 'b']
    source = regions.Crops(Means(), folders, ['1', 'val/2.jpg'])
    pixels = np.asarray(Image.open(tmp_path / 'a' / '1.png'), np.float32)
    found = source[0]
    assert found.features.shape == (36, 3) and source.keys[1] == 'val/2.jpg'
    np.testing.assert_allclose(
      found.features[0], pixels.mean((0, 1)), rtol=1e-5
    )
    np.testing.assert_allclose(
      found.features[1], pixels[:20, :16].mean((0, 1)), rtol=1e-5
    )
    small = np.array([[31.9, 39.9, 32, 40], [5, 5, 5.1, 5.1]])
    source = regions.Crops(Means(), folders, ['1'], lambda index: small)
    np.testing.assert_allclose(
      source[0].features[0], pixels[38:, 30:].mean((0, 1)), rtol=1e-5
    )
    with pytest.raises(BadRecord, match='missing image: 3 is in none of'):
      regions.Crops(Means(), folders, ['3'])[0]

  def test_written_regions_go_on_where_they_stopped(self, tmp_path):
    for name in ('a/1.png', 'b/2.png', 'b/3.png'):
      iqa_files.picture(tmp_path / name, int(name[2]))
    means, names = Means(), ['a/1.png', '2', 'b/3.png']
    crops = regions.Crops(means, [tmp_path, tmp_path / 'b'], names)
    means.left = 2
    with pytest.raises(RuntimeError, match='killed'):
      regions.write(crops, tmp_path / 'f', encoded_by='dino')
    means.left, done = 1, []  # the other two are there
    regions.write(
      crops, tmp_path / 'f', encoded_by='dino', progress=done.append
    )
    assert len(done) == 3
    source = rf.open_features(tmp_path / 'f')
    order = rf.places(source, ['x', 'y', 'z'], names)
    means.left = 3
    for place, number in zip(order, range(3)):
      for got, want in zip(source[place], crops[number]):
        np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match='encoded by dino, not by clip'):
      regions.write(crops, tmp_path / 'f', encoded_by='clip')
    crops = regions.Crops(means, [tmp_path], ['a/1.png', 'b/1.png'])
    with pytest.raises(ValueError, match='two images of .* are called 1'):
      regions.write(crops, tmp_path / 'g', encoded_by='dino')


class Means:
  """An embedder whose embedding is the mean colour."""

  left = 99  # pictures until it is killed

  def pictures(self, sources):
    if not self.left:
      raise RuntimeError('killed')
    self.left -= 1
    rows = [np.asarray(one, np.float32).mean((0, 1)) for one in sources]
    return type('Embedded', (), {'vectors': np.stack(rows)})
