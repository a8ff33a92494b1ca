"""Curation: parallel, resumable, exact about bad frames, two formats."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow_datasets  # noqa: F401, before a pool's remains
from PIL import Image

from data.image import open_image
from data.records import BadRecord
from data.sources import depth, depth_shards
from data.sources.depth_corpora import curate, finish, frames, store
from tests import depth_corpus_files as files
from vlm.methods.depthlm.camera import Intrinsics

BUILDINGS = ('allen', 'beech', 'cedar')


@pytest.fixture
def corpus(tmp_path):
  """Settings for three small buildings of two frames."""
  files.omnidata(tmp_path / 'in', buildings=BUILDINGS)
  return lambda output, **flags: curate.Settings(
    'taskonomy',
    str(tmp_path / 'in'),
    str(tmp_path / output),
    **{'per_image': 5, **flags},
  )


def contents(folder):
  """Every file's bytes by relative name; the report says where it lies."""
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file() and not path.name.endswith('_report.json')
  }


def test_many_workers_write_what_one_writes(tmp_path, corpus):
  seen = []
  one = curate.prepare(corpus('one'), 1)[1]
  two = curate.prepare(
    corpus('two'), 2, lambda done, scenes, report: seen.append((done, scenes))
  )[1]
  assert one == two and one.rows == 6 and one.labels == 30
  assert contents(tmp_path / 'one') == contents(tmp_path / 'two')
  assert seen == [(n, 3) for n in range(4)]


@pytest.mark.parametrize('kind', ['jsonl', 'tfds'])
def test_a_killed_run_continues(tmp_path, corpus, monkeypatch, kind):
  whole = curate.prepare(corpus('whole', format=kind))[1]
  write = store.STORES[kind].write

  def stop_inside_the_second(self, scene, rows):
    if scene == 'beech':
      rows = iter([next(rows), *()])
      write(self, 'half a scene', rows)
      raise KeyboardInterrupt
    write(self, scene, rows)

  with monkeypatch.context() as patch:
    patch.setattr(store.STORES[kind], 'write', stop_inside_the_second)
    with pytest.raises(KeyboardInterrupt):
      curate.prepare(corpus('cut', format=kind))
  assert not list((tmp_path / 'cut').glob('*-full*'))
  for path in (tmp_path / 'cut' / 'parts' / 'taskonomy-full').glob('half*'):
    path.rename(path.with_name(f'beech{path.suffix}.partial'))
  done = []

  def count(self, scene, rows):
    done.append(scene)
    write(self, scene, rows)

  monkeypatch.setattr(store.STORES[kind], 'write', count)
  report = curate.prepare(corpus('cut', format=kind))[1]
  assert done == ['beech', 'cedar'] and report == whole
  cut = contents(tmp_path / 'cut')
  assert {k: v for k, v in cut.items() if 'half' not in k} == contents(
    tmp_path / 'whole'
  )
  # Once more: nothing is left to do, nothing changes.
  assert curate.prepare(corpus('cut', format=kind))[1] == whole
  assert done == ['beech', 'cedar'] and contents(tmp_path / 'cut') == cut


def test_other_flags_need_another_output(corpus):
  curate.prepare(corpus('out'))
  with pytest.raises(ValueError, match='begun with --per_image=5'):
    curate.prepare(corpus('out', per_image=6))


def test_labels_are_random_seeded_and_different(tmp_path, corpus):
  rows = {}
  for name, seed in (('a', 0), ('b', 0), ('c', 1)):
    address, _ = curate.prepare(corpus(name, seed=seed))
    source = depth.DepthRows(address)
    rows[name] = [source[i]['pixel_coords'].tolist() for i in range(6)]
  assert rows['a'] == rows['b'] != rows['c']
  assert rows['a'][0] != rows['a'][1]
  assert all(len(set(map(tuple, row))) == 5 for row in rows['a'])


def test_shards_hold_the_same_rows(corpus, monkeypatch):
  monkeypatch.setattr(store, 'SHARD_BYTES', 2000)
  plain, shards = (
    depth_shards.open_depth_rows(curate.prepare(corpus(kind, format=kind))[0])
    for kind in ('jsonl', 'tfds')
  )
  assert isinstance(plain, depth.DepthRows)
  assert isinstance(shards, depth_shards.DepthShards)
  assert len(plain) == len(shards) == 6
  for index in range(6):
    one, two = plain[index], shards[index]
    assert set(one) == set(two)
    for key, value in one.items():
      np.testing.assert_array_equal(two[key], value)
    assert 'image' not in shards.facts(index)


def test_shards_are_several_and_keep_other_splits(tmp_path, monkeypatch):
  monkeypatch.setattr(store, 'SHARD_BYTES', 4000)
  files.nyu_mat(tmp_path, count=9)
  from scipy import io

  io.savemat(tmp_path / 'splits.mat', {'testNdxs': [2, 3], 'trainNdxs': [1]})
  specs = {}
  for split in ('full', 'train', 'test'):
    settings = curate.Settings(
      'nyuv2', str(tmp_path), str(tmp_path / 'out'), split, format='tfds'
    )
    specs[split] = curate.prepare(settings)[0]
  lengths = {s: len(depth_shards.DepthShards(specs[s])) for s in specs}
  assert lengths == {'full': 9, 'train': 1, 'test': 2}
  home = tmp_path / 'out' / 'nyuv2' / '1.0.0'
  assert len(list(home.glob('nyuv2-full.array_record-*'))) > 1
  assert not list((tmp_path / 'out' / 'parts').glob('*/*.array_record'))
  with pytest.raises(ValueError, match='local disks only'):
    store.ShardStore('gs://bucket/rows', 'nyuv2', 'full')


def test_packed_shards_take_no_more_scenes(tmp_path, corpus):
  settings = corpus('out', format='tfds')
  curate.prepare(settings)
  files.omnidata(tmp_path / 'in', buildings=('dover',))
  with pytest.raises(ValueError, match='packed for good: remove'):
    curate.prepare(settings)


def test_lost_shards_are_not_taken_for_finished_ones(tmp_path, corpus):
  settings = corpus('out', format='tfds')
  curate.prepare(settings)
  for path in (tmp_path / 'out' / 'taskonomy').glob('*/*'):
    path.unlink()
  with pytest.raises(ValueError, match='or no shards'):
    curate.prepare(settings)


def test_a_new_scene_joins_a_jsonl_file(tmp_path, corpus):
  curate.prepare(corpus('out'))
  files.omnidata(tmp_path / 'in', buildings=('dover',))
  address, report = curate.prepare(corpus('out'))
  assert report.rows == len(depth.DepthRows(address)) == 8


def test_bad_frames_are_counted_and_named(tmp_path):
  names = [f'room_{n:02d}' for n in range(9)]
  files.ibims1(tmp_path, names)
  root = tmp_path / 'ibims1_core_raw'
  whole = (root / 'rgb' / 'room_00.png').read_bytes()
  files.write(root / 'rgb' / 'room_00.png', whole[: len(whole) // 2])
  files.save(root / 'rgb' / 'room_01.png', files.picture(9, 6))
  (root / 'depth' / 'room_02.png').unlink()
  files.save(root / 'depth' / 'room_03.png', np.zeros((6, 8), np.uint16))
  files.save(root / 'depth' / 'room_04.png', files.picture())
  files.write(root / 'calib' / 'room_05.txt', '0,0,3,2')
  files.write(root / 'calib' / 'room_06.txt', '4,5,3')
  files.write(root / 'depth' / 'room_07.png', b'no png')
  settings = curate.Settings('ibims1', str(tmp_path), str(tmp_path / 'out'))
  _, report = curate.prepare(settings)
  assert (report.frames, report.rows) == (9, 1)
  assert report.by_reason() == {
    'corrupt image': ['room/room_00'],
    'bad intrinsics': [f'room/room_0{n}' for n in (1, 5, 6)],
    'missing depth': ['room/room_02'],
    'bad depth': [f'room/room_0{n}' for n in (3, 4, 7)],
  }
  written = json.loads(
    (tmp_path / 'out' / 'ibims1-val_report.json').read_text()
  )
  assert [tuple(bad) for bad in written['bad']] == report.bad


def test_nothing_but_bad_frames_is_an_error(tmp_path):
  files.ibims1(tmp_path)
  for path in (tmp_path / 'ibims1_core_raw' / 'depth').iterdir():
    path.unlink()
  settings = curate.Settings('ibims1', str(tmp_path), str(tmp_path / 'out'))
  with pytest.raises(RuntimeError, match='no row of 3 frames.*missing depth'):
    curate.prepare(settings)


def test_a_scene_that_cannot_be_opened_does_not_stop_the_rest(tmp_path):
  for scene in ('scene1', 'scene2'):
    files.scannetpp(tmp_path, frames=1)
    (tmp_path / 'data' / 'scene1').rename(tmp_path / 'data' / scene)
  files.scannetpp(tmp_path, frames=1)
  broken = tmp_path / 'data/scene2/iphone/pose_intrinsic_imu.json'
  broken.write_text('{"frame_000000": ')
  settings = curate.Settings('scannetpp', str(tmp_path), str(tmp_path / 'out'))
  _, report = curate.prepare(settings)
  assert report.rows == 1
  assert report.by_reason() == {'malformed json': ['scene2']}


@pytest.mark.parametrize(
  'change, message',
  [
    ({'corpus': 'kitti'}, '--corpus=kitti: expected one of'),
    ({'split': 'dev'}, '--split=dev: expected one of full'),
    ({'labels': 'z'}, '--labels=z: expected one of correct, official'),
    ({'format': 'csv'}, '--format=csv'),
    ({'lenses': 'bent'}, '--lenses=bent'),
    ({'per_image': 0}, '--per_image >= 1'),
    ({'source': 'gs://bucket/in'}, '--source=gs://.* local disks only'),
    ({'source': '/nowhere'}, '--source=/nowhere does not exist'),
  ],
)
def test_wrong_flags_are_named(corpus, change, message):
  with pytest.raises(ValueError, match=message):
    curate.prepare(dataclasses.replace(corpus('out'), **change))


def test_an_empty_source_says_what_belongs_there(tmp_path):
  settings = curate.Settings('waymo', str(tmp_path), str(tmp_path / 'out'))
  with pytest.raises(ValueError, match=r'no scene of waymo.*camera_image'):
    curate.prepare(settings)


def _frame(image, size=(8, 6), depth=2.0, **facts):
  return frames.DepthFrame(
    image,
    Intrinsics(4.0, 5.0, 3.5, 2.5, *size),
    np.array([[3, 2], [7, 5]]),
    np.array([depth, 3.0]),
    **facts,
  )


def test_images_stay_as_published_where_nothing_changes():
  encoded = files.jpg(files.picture())
  image, suffix, record = finish.to_row(_frame(encoded), 9)
  assert image == encoded and suffix == '.jpg'
  assert record['pixel_coords'] == [[3, 2], [7, 5]]
  assert record['depth'] == [2.0, 3.0] and record['depth_kind'] == 'range'


def test_a_turned_jpg_keeps_the_pixels_its_depth_belongs_to(tmp_path):
  pixels = np.full((60, 80, 3), 90, np.uint8)
  pixels[:30, :40] = 220
  exif = Image.Exif()
  exif[0x0112] = 6
  path = tmp_path / 'turned.jpg'
  Image.fromarray(pixels).save(path, exif=exif, quality=95)
  assert open_image(path).size == (60, 80)  # what a viewer shows
  frame = _frame(path.read_bytes(), (80, 60))
  encoded, suffix, _ = finish.to_row(frame, 9)
  stored = np.asarray(open_image(encoded)).astype(int)
  assert suffix == '.jpg' and stored.shape == (60, 80, 3)
  assert np.abs(stored - pixels).mean() < 2


@pytest.mark.parametrize('bad', [0.0, -1.0, np.nan, np.inf])
def test_depth_that_is_none_is_left_out(bad):
  record = finish.to_row(_frame(files.picture(), depth=bad), 9)[2]
  assert record['pixel_coords'] == [[7, 5]] and record['depth'] == [3.0]


def test_frames_without_labels_and_of_wrong_size_are_refused():
  empty = dataclasses.replace(_frame(files.picture()), depth=np.full(2, np.nan))
  with pytest.raises(BadRecord, match='no pixel has a usable depth'):
    finish.to_row(empty, 9)
  with pytest.raises(BadRecord, match='80 x 60 pixels but the image has 8 x 6'):
    finish.to_row(_frame(files.picture(), (80, 60)), 9)


def test_long_lenses_are_shrunk_exactly():
  frame = _frame(files.picture(), pose=np.eye(4), timestamp=2.5)
  encoded, _, record = finish.to_row(frame, 9, max_focal=2.0)
  # x by 2 / 4, y by 2 / 5: 8 x 6 becomes 4 x 2 (of 2.4 rows).
  assert record['intrinsics'] == [2.0, 2.0, 1.75, 1.0, 4, 2]
  assert open_image(encoded).size == (4, 2)
  # (3.5, 2.5) -> (1.75, 1.0); (7.5, 5.5) -> (3.75, 2.2), below the last row.
  assert record['pixel_coords'] == [[1, 1]] and record['depth'] == [2.0]
  assert record['world_from_camera'] == np.eye(4).tolist()
  assert record['timestamp'] == 2.5
