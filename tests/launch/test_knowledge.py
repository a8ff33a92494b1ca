"""Knowledge from Visual Genome's files and features, by the command."""

import functools

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from data import collect, region_encoder
from data.collect_parts import PARTS, Parts
from data.knowledge import Knowledge
from launch import knowledge
from tests import command_flags, mask_files
from tests.mask_files import box
from vlm.methods.mask.encoder import EncoderConfig, RegionEncoder

M = 4
CORNERS = [(0, 0, 10, 10), (20, 20, 30, 30), (60, 40, 20, 20)]
NAMES = ['dog', 'red car', 'man', 'hot dog', 'car']


@pytest.fixture(scope='module', autouse=True)
def defined():
  with command_flags.defined(
    knowledge.define_flags, ('genome', 'vectors', 'output')
  ):
    yield


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Seven images of three boxes; features in another order than the boxes."""
  root = tmp_path_factory.mktemp('genome')
  rng = np.random.default_rng(0)
  images, features, boxes = {}, {}, {}
  for image in range(1, 8):
    named = [NAMES[(image + n) % 5] for n in range(3)]
    entries = [box([n], c) for n, c in zip(named, CORNERS)]
    entries[0]['attributes'] = ['Red']
    images[image] = (900 + image, entries)
    x, y, w, h = np.array(CORNERS, np.float32).T
    order = rng.permutation(4)
    every = np.stack([x, y, x + w, y + h], 1)
    every = np.concatenate([every, [[90, 70, 99, 79]]]).astype(np.float32)
    features[str(image)] = rng.normal(size=(4, M)).astype(np.float32)[order]
    boxes[str(image)] = every[order]
  mask_files.write_genome(root, images)
  mask_files.write_npz(root / 'npz', features, boxes)
  mask_files.write_text(root / 'v.txt', mask_files.WORDS, mask_files.vectors())
  test = [(f'{n}.jpg', 'test', 900 + n, ['x'] * 5) for n in (2, 3)]
  mask_files.write_karpathy(root / 'dataset_coco.json', test)
  return root


def build(root, output, **given):
  usual = dict(
    genome=str(root), vectors=str(root / 'v.txt'), output=str(output),
    features=str(root / 'npz'), minimum=1, batch_size=2,
  )  # fmt: skip
  with flagsaver.flagsaver(**(usual | given)):
    return knowledge.run_from_flags()


def by_hand(root, images, attributes=True):
  """{word: its regions' features}, box by box."""
  found = {}
  for image in images:
    arrays = np.load(root / 'npz' / f'{image}.npz')
    for n, (x, y, w, h) in enumerate(CORNERS):
      words = NAMES[(image + n) % 5].split()
      words += ['red'] if attributes and n == 0 else []
      row = next(
        r for r, b in enumerate(arrays['bbox'])
        if np.allclose(b, [x, y, x + w, y + h])
      )  # fmt: skip
      for word in set(words):
        found.setdefault(word, []).append(arrays['x'][row])
  return found


def test_prototypes_are_means_of_all_regions_of_a_word(root, tmp_path):
  build(root, tmp_path / 'k')
  found = Knowledge.load(tmp_path / 'k')
  want = by_hand(root, range(1, 8))
  assert set(found.words) == set(want)
  for word, row in found.index.items():
    regions = np.array(want[word], np.float64)
    assert found.counts[row] == len(regions)
    np.testing.assert_allclose(
      found.prototypes[row], regions.mean(0), rtol=1e-5
    )
    np.testing.assert_allclose(found.variance[row], regions.var(0), rtol=1e-4)
  assert found.meta['method'] == 'mack' and found.meta['images'] == 7
  lines = (tmp_path / 'k' / 'words.tsv').read_text().splitlines()
  assert lines[0].split('\t') == [found.words[0], str(found.counts[0])]
  with pytest.raises(ValueError, match='holds knowledge already'):
    build(root, tmp_path / 'k')


def test_words_and_images_are_left_out_as_flags_say(root, tmp_path):
  found = build(
    root, tmp_path, attributes=False, minimum=4, largest=1,
    exclude=str(root / 'dataset_coco.json'),
  )  # fmt: skip
  want = by_hand(root, (1, 4, 5, 6, 7), attributes=False)
  counts = sorted(((-len(r), w) for w, r in want.items()))[:1]
  assert list(found.words) == [word for _, word in counts]
  assert found.counts.tolist() == [-count for count, _ in counts]
  left_out = found.meta['boxes_left_out']
  assert left_out['image of the COCO images left out'] == 2
  rare = sum(len(regions) < 4 for regions in want.values())
  assert found.meta['words_left_out'] == {
    'fewer than 4 boxes': rare,
    'beyond the most frequent': len(want) - rare - 1,
  }


class TestEncoder:
  def test_prototypes_are_means_of_codes(self, root, tmp_path):
    config = EncoderConfig(M, 8, 6, depth=1, heads=2, word_heads=2)
    model = RegionEncoder(config)
    params = mask_files.params_of(model)
    encode = jax.jit(model.encode)
    region_encoder.save(tmp_path / 'e', model.config, params)
    found = build(root, tmp_path / 'k', encoder=str(tmp_path / 'e'))
    codes = []
    for image in range(1, 8):
      arrays = np.load(root / 'npz' / f'{image}.npz')
      mean, _ = encode(params, arrays['x'][None], np.ones((1, 4), bool))
      for n, (x, y, _, _) in enumerate(CORNERS):
        if 'man' in NAMES[(image + n) % 5]:
          row = np.flatnonzero((arrays['bbox'][:, :2] == (x, y)).all(1))[0]
          codes.append(np.asarray(mean)[0, row])
    got = found.prototypes[found.index['man']]
    np.testing.assert_allclose(got, np.mean(codes, 0), atol=1e-5)
    assert found.meta['method'] == 'mask' and found.width == 8
    assert region_encoder.load(tmp_path / 'k')[0].config == model.config

  def test_other_folders_are_refused(self, root, tmp_path):
    with pytest.raises(ValueError, match='neither a workdir'):
      build(root, tmp_path / 'k', encoder=str(tmp_path))


class Killed(RuntimeError):
  pass


def test_a_killed_pass_goes_on_to_the_same_knowledge(
  root, tmp_path, monkeypatch
):
  whole = build(root, tmp_path / 'whole')
  monkeypatch.setitem(Parts.__init__.__kwdefaults__, 'every_s', 0.0)
  add, calls = collect.Collector._add, []

  def dying(self, found, batch):
    calls.append(len(batch))
    if len(calls) == 3:
      raise Killed
    add(self, found, batch)

  monkeypatch.setattr(collect.Collector, '_add', dying)
  with pytest.raises(Killed):
    build(root, tmp_path / 'k')
  with pytest.raises(ValueError, match='under other settings'):
    build(root, tmp_path / 'k', overlap=0.9)
  calls.append(None)
  found = build(root, tmp_path / 'k')
  assert sum(n for n in calls[4:]) == 3  # 7 images, 4 of them saved
  for name in ('prototypes', 'variance', 'counts'):
    np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
  assert found.meta == whole.meta
  assert not list((tmp_path / 'k').glob(PARTS))


def test_parts_of_a_pass_are_put_together(root, tmp_path, monkeypatch):
  whole = build(root, tmp_path / 'whole')
  parts = functools.partial(Parts, count=3, every_s=0.0)
  for index in (2, 1):
    monkeypatch.setattr(
      knowledge, 'Parts', functools.partial(parts, index=index)
    )
    monkeypatch.setattr(Parts, 'gather', stopped)
    with pytest.raises(Killed):
      build(root, tmp_path / 'k')
  with monkeypatch.context() as other:
    other.setattr(knowledge, 'Parts', Parts)
    with pytest.raises(ValueError, match='another number of processes than 1'):
      build(root, tmp_path / 'k')
  monkeypatch.undo()
  monkeypatch.setattr(knowledge, 'Parts', functools.partial(parts, index=0))
  found = build(root, tmp_path / 'k')
  assert found.words == whole.words and found.meta == whole.meta
  np.testing.assert_array_equal(found.counts, whole.counts)
  np.testing.assert_allclose(found.prototypes, whole.prototypes, atol=1e-6)
  np.testing.assert_allclose(found.variance, whole.variance, atol=1e-6)
  assert not list((tmp_path / 'k').glob(PARTS))


def stopped(self, collector):
  raise Killed


def test_bad_features_are_counted_and_named(root, tmp_path):
  bad = tmp_path / 'npz'
  bad.mkdir()
  for path in (root / 'npz').glob('*.npz'):
    (bad / path.name).write_bytes(path.read_bytes())
  (bad / '1.npz').write_bytes(b'PK')
  (bad / '2.npz').unlink()
  arrays = {n: np.load(bad / '3.npz')[n] for n in ('x', 'bbox')}
  np.savez(bad / '3.npz', x=arrays['x'] * np.nan, bbox=arrays['bbox'])
  np.savez(bad / '4.npz', x=arrays['x'] * 0, bbox=arrays['bbox'])
  far = arrays['bbox'] + [[11, 0, 11, 0]]
  np.savez(bad / '5.npz', x=arrays['x'], bbox=far)
  found = build(root, tmp_path / 'k', features=str(bad))
  assert found.meta['regions_left_out'] == {
    'features that cannot be read (ValueError)': 1,
    'image without features': 1,
    'features that are NaN or infinite': 1,
    'image without a region that is not zero': 1,
    'box that no region overlaps': 3,
  }
  assert found.meta['first_images_left_out']['image without features'] == ['2']
  want = by_hand(root, (6, 7))
  assert found.counts.tolist() == [len(want[word]) for word in found.words]


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    (dict(features=''), 'either --features or --embedder'),
    (dict(embedder='x'), 'either --features or --embedder'),
    (dict(features='', embedder='x'), '--embedder and --images'),
    (dict(minimum=99), 'no word of .* is left'),
    (dict(overlap=1.0, features='shifted'), 'no region of .* shows a word'),
  ],
)
def test_flags_that_do_not_fit_are_named(root, tmp_path, given, message):
  if given.get('features') == 'shifted':
    x, far = np.ones((4, M)), np.full((4, 4), 5) * [1, 1, 2, 2]
    names = {str(n): x for n in range(1, 8)}
    boxes = dict.fromkeys(names, far)
    mask_files.write_npz(tmp_path / 'shifted', names, boxes)
    given = given | dict(features=str(tmp_path / 'shifted'))
  with pytest.raises(ValueError, match=message):
    build(root, tmp_path / 'k', **given)
