"""Depth rows: files and rendered rooms give the same decoded row."""

import json
import pickle

import numpy as np
import pytest
from etils import epath
from PIL import Image

from data.records import BadRecord
from data.sources import depth, depth_map, rendered, room_rows
from data.worlds import cameras, rooms
from vlm.methods.depthlm import sample
from vlm.methods.depthlm.lens import Lens

LOOK = rooms.RoomSettings(width=32, height=24, focals=(24.0, 40.0))


def _write(tmp_path, row, suffix='.jsonl'):
  picture = Image.fromarray(np.full((24, 32, 3), 7, np.uint8))
  (tmp_path / 'a').mkdir(exist_ok=True)
  picture.save(tmp_path / 'a' / 'b.png')
  path = tmp_path / f'rows{suffix}'
  path.write_text(json.dumps(row if suffix == '.jsonl' else [row]))
  return path


def _row(**changes):
  row = {
    'image': '/a/b.png',
    'intrinsics': [30.0, 31.0, 16.0, 12.0, 32, 24],
    'pixel_coords': [[3, 4], [31, 23]],
    'depth': [1.5, 2],
    'depth_kind': 'z',
  }
  return {k: v for k, v in (row | changes).items() if v is not None}


@pytest.mark.parametrize('suffix', ['.jsonl', '.json'])
def test_reads_both_layouts_and_strips_the_slash(tmp_path, suffix):
  source = depth.DepthRows(_write(tmp_path, _row(), suffix))
  row = source[0]
  assert len(source) == 1 and row['image'].shape == (24, 32, 3)
  assert row['intrinsics'] == (30.0, 31.0, 16.0, 12.0, 32, 24)
  np.testing.assert_array_equal(row['pixel_coords'], [[3, 4], [31, 23]])
  np.testing.assert_array_equal(row['depth'], [1.5, 2.0])
  assert row['depth_kind'] == 'z'


def test_zero_focal_is_repaired(tmp_path):
  row = _row(intrinsics=[0, 31.0, 16, 12, 32, 24])
  assert depth.DepthRows(_write(tmp_path, row))[0]['intrinsics'].fx == 31.0


def test_published_rows_need_a_stated_kind(tmp_path):
  path = _write(tmp_path, _row(depth_kind=None))
  assert depth.DepthRows(path, depth_kind='range')[0]['depth_kind'] == 'range'
  with pytest.raises(BadRecord, match='depth_kind'):
    depth.DepthRows(path)[0]


@pytest.mark.parametrize(
  'change, reason',
  [
    ({'image': 'a/c.png'}, 'missing image'),
    ({'image': 5}, 'wrong type'),
    ({'image': None}, 'wrong type'),
    ({'intrinsics': 'fx'}, 'wrong type'),
    ({'intrinsics': [30, 30, 16, 12]}, 'bad intrinsics'),
    ({'intrinsics': [0, 0, 16, 12, 32, 24]}, 'bad intrinsics'),
    ({'intrinsics': [30, -30, 16, 12, 32, 24]}, 'bad intrinsics'),
    ({'intrinsics': [30, 30, 16, 12, 33, 24]}, 'bad intrinsics'),
    ({'intrinsics': [30, None, 16, 12, 32, 24]}, 'wrong type'),
    ({'depth': [1.0]}, 'mismatched labels'),
    ({'depth': [], 'pixel_coords': []}, 'mismatched labels'),
    ({'pixel_coords': [[3, 4], [32, 4]]}, 'pixel outside'),
    ({'pixel_coords': [[3, 4], [-1, 4]]}, 'pixel outside'),
    ({'pixel_coords': [[3, 4], [1.5, 4]]}, 'wrong type'),
    ({'pixel_coords': [[3, 4], [1, 2, 3]]}, 'wrong type'),
    ({'pixel_coords': [[3, 4], 7]}, 'wrong type'),
    ({'depth': [1.0, 0.0]}, 'bad depth'),
    ({'depth': [1.0, -2.0]}, 'bad depth'),
    ({'depth': [1.0, float('nan')]}, 'bad depth'),
    ({'depth': [1.0, float('inf')]}, 'bad depth'),
    ({'depth': [1.0, '2']}, 'wrong type'),
    ({'depth_kind': 'disparity'}, 'wrong type'),
    ({'camera_modle': 'pinhole'}, 'wrong type'),
    ({'camera_model': 'omni'}, 'bad intrinsics'),
    ({'camera_model': 'kannala_brandt'}, 'bad intrinsics'),
    ({'camera_model': 'pinhole', 'distortion': [0.1]}, 'bad intrinsics'),
    ({'camera_model': 'brown_conrady', 'distortion': 'k1'}, 'wrong type'),
    ({'world_from_camera': 'here'}, 'wrong type'),
    ({'world_from_camera': [[1, 2], [3]]}, 'wrong type'),
    ({'world_from_camera': np.eye(3).tolist()}, 'bad pose'),
    ({'world_from_camera': (2 * np.eye(4)).tolist()}, 'bad pose'),
    ({'world_from_camera': np.diag([1.0, 1, -1, 1]).tolist()}, 'bad pose'),
    ({'timestamp': 'noon'}, 'wrong type'),
    ({'timestamp': float('nan')}, 'wrong type'),
    ({'scene': 7}, 'wrong type'),
    ({'dataset': ['nuscenes']}, 'wrong type'),
    ({'depth_map': 'a/d.png'}, 'wrong type'),
    ({'depth_map': {'path': 'a/d.png', 'metres_per_unit': 0}}, 'bad depth'),
  ],
)
def test_bad_rows_say_what_is_wrong_and_where(tmp_path, change, reason):
  source = depth.DepthRows(_write(tmp_path, _row(**change)))
  with pytest.raises(BadRecord) as caught:
    source[0]
  assert caught.value.reason == reason
  assert 'rows.jsonl, row 0' in str(caught.value)


def test_other_bad_rows(tmp_path):
  path = _write(tmp_path, _row())
  whole = (tmp_path / 'a' / 'b.png').read_bytes()
  (tmp_path / 'a' / 'b.png').write_bytes(whole[: len(whole) // 2])
  path.write_text(json.dumps(_row()) + '\n{"image"\n[1]\n')
  source = depth.DepthRows(path)
  for index, reason in enumerate(
    ['corrupt image', 'malformed json', 'wrong type']
  ):
    with pytest.raises(BadRecord) as caught:
      source[index]
    assert caught.value.reason == reason


def test_missing_file_names_the_flag(tmp_path):
  with pytest.raises(FileNotFoundError, match='config.data.path'):
    depth.DepthRows(tmp_path / 'none.jsonl')


def test_rooms_survive_the_round_trip_through_files(tmp_path):
  arms = [sample.SampleSettings(focal=30.0, size=(24, 32))]
  world = room_rows.RoomRows(0, 3, LOOK, labels=4, arms=arms)
  path = depth.write_rows(tmp_path, (world[i] for i in range(3)))
  files = depth.DepthRows(path)
  assert len(files) == 3
  for index in range(3):
    for key in ('image', 'pixel_coords', 'depth'):
      np.testing.assert_array_equal(files[index][key], world[index][key])
    assert files[index]['intrinsics'] == world[index]['intrinsics']
    one, two = (
      sample.make_sample(source[index], np.random.default_rng(1), arms[0])
      for source in (files, world)
    )
    np.testing.assert_array_equal(one['image'], two['image'])
    assert one['answer'] == two['answer'] and one['pixel'] == two['pixel']


def test_labels_are_the_depth_of_their_pixels():
  (frame,) = rooms.render_batch(0, [1], LOOK)
  for kind, truth in (('range', frame.range), ('z', frame.z)):
    rng = np.random.default_rng(0)
    row = room_rows.label_frame(frame, rng, 50, depth_kind=kind)
    x, y = row['pixel_coords'].T
    np.testing.assert_array_equal(row['depth'], truth[y, x])
    assert len({*zip(x, y)}) == 50
    np.testing.assert_allclose(sample.ranges(row), frame.range[y, x], rtol=1e-5)


def test_every_label_is_usable_under_every_arm():
  arms = [
    sample.SampleSettings(focal=40.0, size=(24, 32)),
    sample.SampleSettings(focal_mode='none', size=(24, 32)),
  ]
  world = room_rows.RoomRows(0, 20, LOOK, labels=5, arms=arms)
  for arm in arms:
    rows = [world[i] for i in range(20)]
    assert all(q for _, _, q in sample.enumerate_queries(rows, arm))


def test_rows_of_rooms_are_reproducible_and_bounded():
  world = room_rows.RoomRows(0, 2, LOOK)
  np.testing.assert_array_equal(world[1]['depth'], world[1]['depth'])
  with pytest.raises(IndexError):
    world[2]
  far = [sample.SampleSettings(focal=30.0, size=(10, 10))]
  with pytest.raises(ValueError, match='fewer labels or a larger'):
    room_rows.RoomRows(0, 1, LOOK, arms=far)[0]


WHOLE = {
  'camera_model': 'brown_conrady',
  'distortion': [-0.1, 0.02, 0.0, 0.001],
  'world_from_camera': cameras.look_from((1.0, 2.0, 1.5), 0.4).tolist(),
  'timestamp': 12.5,
  'scene': 'log-7',
  'dataset': 'nuscenes',
  'depth_map': {'path': '/a/d.png', 'metres_per_unit': 0.001},
}


class TestOptionalFields:
  def test_are_decoded_and_survive_writing(self, tmp_path):
    row = depth.DepthRows(_write(tmp_path, _row(**WHOLE)))[0]
    assert row['lens'] == Lens('brown_conrady', (-0.1, 0.02, 0.0, 0.001))
    np.testing.assert_array_equal(
      row['world_from_camera'], WHOLE['world_from_camera']
    )
    assert row['timestamp'] == 12.5 and row['scene'] == 'log-7'
    (tmp_path / 'again').mkdir()
    again = depth.DepthRows(depth.write_rows(tmp_path / 'again', [row]))[0]
    assert 'depth_map' not in again
    for key in again:
      np.testing.assert_array_equal(again[key], row[key])

  def test_facts_do_not_open_the_picture(self, tmp_path):
    path = _write(tmp_path, _row(**WHOLE))
    whole = depth.DepthRows(path)[0]
    (tmp_path / 'a' / 'b.png').unlink()
    facts = depth.DepthRows(path).facts(0)
    assert set(whole) - set(facts) == {'image'}
    with pytest.raises(BadRecord, match='bad depth'):
      depth.DepthRows(_write(tmp_path, _row(depth=[1.0, 0.0]))).facts(0)


class TestDepthMap:
  @pytest.mark.parametrize('name', ['d.png', 'd.npy', 'd.tiff'])
  def test_sixteen_bits_and_floats(self, tmp_path, name):
    path = epath.Path(tmp_path / name)
    units = np.array([[0, 1500], [65535, 250]])
    if name == 'd.png':
      Image.fromarray(units.astype(np.uint16)).save(path)
    elif name == 'd.npy':
      np.save(path, np.where(units, units, np.nan))
    else:
      Image.fromarray(units.astype(np.float32)).save(path)
    found = depth_map.DepthMap(path, 0.001).read()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[np.nan, 1.5], [65.535, 0.25]])

  def test_what_is_no_depth_says_so(self, tmp_path):
    path = epath.Path(tmp_path / 'd.png')
    with pytest.raises(BadRecord, match='missing image'):
      depth_map.DepthMap(path).read()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    with pytest.raises(BadRecord, match='uint8 .*expected depth'):
      depth_map.DepthMap(path).read()
    path.write_bytes(b'not a picture')
    with pytest.raises(BadRecord, match='corrupt image'):
      depth_map.DepthMap(path).read()

  def test_a_row_resolves_its_reference(self, tmp_path):
    path = _write(tmp_path, _row(**WHOLE))
    depths = np.full((24, 32), 2500, np.uint16)
    Image.fromarray(depths).save(tmp_path / 'a' / 'd.png')
    np.testing.assert_allclose(
      depth.DepthRows(path)[0]['depth_map'].read(), 2.5
    )


def test_rooms_with_views_have_scene_pose_and_time(tmp_path):
  look = rooms.RoomSettings(width=32, height=24, views=2)
  world = room_rows.RoomRows(3, 4, look, labels=4)
  kept = rendered.RenderedRooms(3, 4, look, 4, folder=str(tmp_path))
  for index in range(4):
    room, view = divmod(index, 2)
    row = world[index]
    camera = rooms.make_cameras(3, room, look)[view]
    np.testing.assert_array_equal(
      row['world_from_camera'], camera.world_from_camera
    )
    assert (row['scene'], row['timestamp']) == (f'3-{room}', float(view))
    again = pickle.loads(pickle.dumps(kept))[index]
    assert again.keys() == row.keys()
    for key in ('image', 'pixel_coords', 'world_from_camera', 'scene'):
      np.testing.assert_array_equal(again[key], row[key])
