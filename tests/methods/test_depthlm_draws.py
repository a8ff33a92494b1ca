"""Draws of training samples: laws, replay, crops, stretch, markers."""

import json

import numpy as np
import pytest

from vlm.methods.depthlm import camera, draws, marker, sample
from vlm.methods.depthlm.lens import Lens

K = camera.Intrinsics(50.0, 60.0, 32.0, 20.0, 64, 40)
FIVE = ('distance', 'axis', 'speed', 'time', 'two_point')
ALL = sample.SampleSettings(
  focal=75.0,
  mirror=True,
  crop_height=(30, 48),
  crop_width=(40, 90),
  crop_place='random',
  multiple=4,
  tasks=tuple((name, 1) for name in FIVE),
)


def _row(**changes):
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 256, (40, 64, 3), dtype=np.uint8),
    'intrinsics': list(K),
    'pixel_coords': np.stack(
      [rng.integers(0, 64, 40), rng.integers(0, 40, 40)]
    ).T,
    'depth': rng.uniform(1, 9, 40),
    'depth_kind': 'z',
  } | changes


def _pair():
  away = np.eye(4)
  away[:3, 3] = (0.6, 0.0, 0.8)
  return {
    'views': (
      _row(world_from_camera=np.eye(4)),
      _row(world_from_camera=away, depth_kind='range'),
    )
  }


def _same(one, two):
  assert one.keys() == two.keys()
  for key in one:
    if key in ('image', 'images'):
      for a, b in zip(one[key], two[key], strict=True):
        np.testing.assert_array_equal(a, b)
    else:
      assert one[key] == two[key], key


class TestReplay:
  @pytest.mark.parametrize('name', ['plain', 'lens', 'stretched', 'pair'])
  def test_a_sample_is_made_again_bit_for_bit_from_its_record(self, name):
    row, settings = _row(), ALL
    if name == 'lens':
      row = _row(lens=Lens('brown_conrady', (-0.2, 0.05, 0.001, 0.0)))
    if name == 'stretched':
      row = _row(dataset='noisy')
      settings = _replaced(stretched=('noisy',))
    if name == 'pair':
      row = _pair()
    tasks, mirrors = set(), set()
    for seed in range(40):
      made = sample.make_sample(row, np.random.default_rng(seed), settings)
      record = json.loads(json.dumps(made['replay']))
      assert record == made['replay']
      _same(made, sample.replay(row, record, settings))
      tasks.add(made['task'])
      mirrors.add(record['mirror'])
    assert tasks == ({'pose'} if name == 'pair' else set(FIVE))
    assert mirrors == {True, False}

  def test_the_record_holds_every_choice(self):
    made = sample.make_sample(_row(), np.random.default_rng(1), ALL)
    assert set(made['replay']) == {'task', 'labels', 'mirror', 'views', 'given'}
    assert set(made['replay']['views'][0]) == {'crop', 'stretch'}


def _replaced(**changes):
  fields = {name: getattr(ALL, name) for name in ALL.__dataclass_fields__}
  return sample.SampleSettings(**fields | changes)


class TestLaws:
  def test_labels_are_uniform_over_the_usable_ones(self):
    row, view = _row(), draws.View()
    settings = sample.SampleSettings(focal=75.0)
    usable = np.flatnonzero(draws.usable_labels(row, view, settings))
    rng = np.random.default_rng(0)
    counts = np.zeros(40)
    for _ in range(4000):
      counts[draws.draw_labels(row, 'distance', view, rng, settings)[0]] += 1
    assert set(np.flatnonzero(counts)) == set(usable)
    expected = 4000 / len(usable)
    assert np.abs(counts[usable] - expected).max() < 5 * np.sqrt(expected)

  def test_nearest_gives_way_to_the_lower_index(self):
    good, bad = [30, 20], [1, 1]
    pixels = [good, bad, bad, bad, good]
    row = _row(pixel_coords=pixels, depth=[1.0] * 5)
    settings = sample.SampleSettings(focal=50.0, label_law='nearest')
    rng = np.random.default_rng(0)
    drawn = [
      draws.draw_labels(row, 'distance', draws.View(), rng, settings)[0]
      for _ in range(2000)
    ]
    # 0, 1 and 2 (a tie) give 0; 3 and 4 give 4.
    assert set(drawn) == {0, 4}
    assert abs(drawn.count(0) / 2000 - 0.6) < 0.05

  def test_tasks_come_by_weight(self):
    settings = sample.SampleSettings(tasks=(('distance', 3), ('axis', 1)))
    rng = np.random.default_rng(0)
    drawn = [draws.draw_task(rng, settings) for _ in range(2000)]
    assert abs(drawn.count('axis') / 2000 - 0.25) < 0.04

  def test_given_numbers_have_one_decimal_and_stay_in_range(self):
    rng = np.random.default_rng(0)
    for task, low, high in (('speed', 1, 10), ('time', 0.5, 15)):
      found = [draws.draw_given(task, rng, ALL) for _ in range(500)]
      assert all(low <= v <= high and v == round(v, 1) for v in found)
      assert len(set(found)) > 60
    assert draws.draw_given('axis', rng, ALL) is None

  def test_two_points_lie_apart_and_their_arrows_stay_clear(self):
    settings = sample.SampleSettings(focal=75.0, separation=3.0)
    row = _row()
    pairs = draws.usable_pairs(row, draws.View(), settings)
    assert 10 < pairs.sum() < 780
    points = draws.labels.points(row)
    mapped = draws.geometry(K, settings).map_pixels(row['pixel_coords'])
    for a, b in np.argwhere(pairs):
      assert a < b and np.linalg.norm(points[a] - points[b]) >= 3.0
      spots = [
        {tuple(mapped[k] + o) for o in [*marker.ARROW.offsets, (0, 0)]}
        for k in (a, b)
      ]
      assert not spots[0] & spots[1]


class TestStretch:
  settings = sample.SampleSettings(
    focal=100.0, stretch=(1.25, 1.25), stretched=('noisy',)
  )

  def test_only_the_height_changes_and_only_in_that_set(self):
    rng = np.random.default_rng(0)
    plain = draws.draw_view(_row(), rng, self.settings)
    view = draws.draw_view(_row(dataset='noisy'), rng, self.settings)
    assert plain == draws.View() and view == draws.View(stretch=1.25)
    before = draws.geometry(K, self.settings)
    after = draws.geometry(K, self.settings, view)
    assert before.target[4:] == (128, 66)
    assert after.target[4:] == (128, 102)  # int(128 / 1.25)
    ratio = 102 / 66
    np.testing.assert_allclose(
      after.target[:4],
      (100, 100 * ratio, before.target.cx, before.target.cy * ratio),
    )
    # The pixel's centre (10.5, 7.5): y' = 7.5 * (100 / 60) * ratio = 19.3.
    np.testing.assert_array_equal(after.map_pixels([[10, 7]]), [[21, 19]])
    image = np.zeros((40, 64, 3), np.uint8)
    image[20:] = 200
    out = after.apply(image)
    assert out.shape == (102, 128, 3)
    edge = 20 * (100 / 60) * ratio  # 51.5
    assert out[int(edge) - 3, 5, 0] < 20 and out[int(edge) + 3, 5, 0] > 180

  def test_it_is_cut_where_the_other_sets_crops_end(self):
    settings = sample.SampleSettings(
      focal=100.0,
      stretch=(1.25, 1.25),
      stretched=('noisy',),
      crop_height=(40, 80),
      crop_width=(100, 120),
    )
    view = draws.draw_view(
      _row(dataset='noisy'), np.random.default_rng(0), settings
    )
    assert view == draws.View((4, 11, 120, 80), 1.25)
    assert draws.geometry(K, settings, view).target[4:] == (120, 80)

  def test_after_a_crop_or_to_nothing_it_is_an_error(self):
    moved = camera.normalise(K, 100.0, 'aniso')
    with pytest.raises(ValueError, match='before every crop'):
      moved.crop(20, 20).stretch(30)
    with pytest.raises(ValueError, match='leaves nothing'):
      moved.stretch(0)


class TestRounding:
  def test_multiples_keep_the_focal_and_the_processor_leaves_them_alone(self):
    settings = sample.SampleSettings(focal=73.0, multiple=28)
    query = sample.make_query(_row(), 3, settings)
    height, width = query['image'].shape[:2]
    assert (width, height) == (112, 56) == query['intrinsics'][4:]
    assert query['intrinsics'][:2] == (73.0, 73.0)
    free = sample.SampleSettings(focal=73.0)
    bare = sample.make_query(_row(), 3, free)
    rows, columns = bare['image'].shape[:2]
    x, y = (112 - columns) // 2, (56 - rows) // 2
    inner = query['image'][y : y + rows, x : x + columns]
    np.testing.assert_array_equal(inner, bare['image'])
    seen = camera.after_resize(query['intrinsics'], width, height)
    np.testing.assert_allclose(seen, query['intrinsics'], rtol=1e-15)

  def test_rounding_by_a_processor_moves_the_focal(self):
    # iBims at f = 1000: 1143 x 857 becomes 1148 x 868.
    seen = camera.after_resize(
      camera.Intrinsics(1000.0, 1000.0, 571.5, 428.5, 1143, 857), 1148, 868
    )
    np.testing.assert_allclose(seen[:2], (1004.374, 1012.835), atol=1e-3)
    np.testing.assert_allclose(seen[2:4], (574.0, 434.0))


class TestMarkers:
  @pytest.mark.parametrize('shape', marker.SHAPES)
  @pytest.mark.parametrize('size', [1, 2, 3])
  def test_shapes_leave_the_query_free_and_stay_within_the_margin(
    self, shape, size
  ):
    mark = marker.Marker(shape, size, (0, 0, 255))
    image = np.full((60, 60, 3), 9, np.uint8)
    out = mark.draw(image, (30, 28))
    y, x = np.nonzero((out != image).any(-1))
    assert len(x) == len(mark.offsets) and tuple(out[28, 30]) == (9, 9, 9)
    assert {tuple(c) for c in out[y, x]} == {(0, 0, 255)}
    assert max(np.abs(x - 30).max(), np.abs(y - 28).max()) <= mark.margin
    edge = mark.margin
    assert mark.fits(np.array([[edge, edge]]), 60, 60)[0]
    assert not mark.fits(np.array([[edge - 1, edge]]), 60, 60)[0]
    if size == 1:
      assert len(x) == {'arrow': 9, 'cross': 12, 'square': 16}[shape]

  def test_a_large_arrow_is_the_small_one_in_blocks(self):
    large = {tuple(o) for o in marker.Marker(size=3).offsets}
    # The block of the tip (-1, 0) and that of the upper wing (-3, -2).
    assert {(x, y) for x in (-3, -2, -1) for y in (-1, 0, 1)} <= large
    assert {(x, y) for x in (-9, -8, -7) for y in (-6, -5, -4)} <= large
    assert max(x for x, _ in large) == -1

  @pytest.mark.parametrize(
    'fields, message',
    [
      (('star',), 'marker shape'),
      (('arrow', 0), 'marker size'),
      (('arrow', 1, (0, 0, 256)), 'marker colour'),
    ],
  )
  def test_a_wrong_marker_says_so(self, fields, message):
    with pytest.raises(ValueError, match=message):
      marker.Marker(*fields)


@pytest.mark.parametrize(
  'wrong, message',
  [
    (dict(focal=0.0), 'focal must be positive'),
    (dict(focal=-5.0), 'got -5.0'),
    (dict(multiple=0), 'multiple'),
    (dict(label_law='x'), 'label_law'),
    (dict(style='x'), 'style'),
    (dict(tasks=(('pose', 1),)), 'tasks'),
    (dict(tasks=(('axis', 0),)), 'weight'),
    (dict(tasks=()), 'empty'),
    (dict(wordings=(('x', 'a', 'b'),)), 'wordings'),
    (dict(stretch=(0.0, 1.0)), 'stretch'),
    (dict(seconds=(5.0, 1.0)), 'seconds'),
    (dict(marker_size=0), 'marker size'),
  ],
)
def test_settings_name_what_is_wrong(wrong, message):
  with pytest.raises(ValueError, match=message):
    sample.SampleSettings(**wrong)
