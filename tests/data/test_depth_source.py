"""Depth rows: files and rendered rooms give the same decoded row."""

import json

import numpy as np
import pytest
from PIL import Image

from data.records import BadRecord
from data.sources import depth
from data.worlds import rooms
from vlm.methods.depthlm import sample

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
  world = depth.RoomRows(0, 3, LOOK, labels=4, arms=arms)
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
    row = depth.label_frame(frame, rng, 50, depth_kind=kind)
    x, y = row['pixel_coords'].T
    np.testing.assert_array_equal(row['depth'], truth[y, x])
    assert len({*zip(x, y)}) == 50
    np.testing.assert_allclose(sample.ranges(row), frame.range[y, x], rtol=1e-5)


def test_every_label_is_usable_under_every_arm():
  arms = [
    sample.SampleSettings(focal=40.0, size=(24, 32)),
    sample.SampleSettings(focal_mode='none', size=(24, 32)),
  ]
  world = depth.RoomRows(0, 20, LOOK, labels=5, arms=arms)
  for arm in arms:
    rows = [world[i] for i in range(20)]
    assert all(q for _, _, q in sample.enumerate_queries(rows, arm))


def test_rows_of_rooms_are_reproducible_and_bounded():
  world = depth.RoomRows(0, 2, LOOK)
  np.testing.assert_array_equal(world[1]['depth'], world[1]['depth'])
  with pytest.raises(IndexError):
    world[2]
  with pytest.raises(ValueError, match='views'):
    depth.RoomRows(0, 1, rooms.RoomSettings(views=2))
  far = [sample.SampleSettings(focal=30.0, size=(10, 10))]
  with pytest.raises(ValueError, match='fewer labels or a larger'):
    depth.RoomRows(0, 1, LOOK, arms=far)[0]
