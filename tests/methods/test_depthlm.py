"""DepthLM: where pixels go, what is drawn, what is asked and what is read."""

import numpy as np
import pytest

from data.sources import middlebury, room_rows
from data.worlds import cameras, rooms
from vlm.methods.depthlm import camera, draws, marker, sample, text

K = camera.Intrinsics(50.0, 60.0, 32.0, 20.0, 64, 40)


def _picture(width=64, height=40):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _cut(intrinsics, settings, seed):
  """The geometry of one training sample."""
  row = {'intrinsics': intrinsics}
  view = draws.draw_view(row, np.random.default_rng(seed), settings)
  return sample.geometry(intrinsics, settings, view)


class TestNormalise:
  def test_aniso_makes_both_focals_equal_and_scales_each_axis(self):
    moved = camera.normalise(K, 75.0, 'aniso')
    assert moved.scale == (1.5, 1.25)
    assert moved.target == (75.0, 75.0, 48.0, 25.0, 96, 50)
    # The centre of pixel (10, 7) is (10.5, 7.5) -> (15.75, 9.375).
    np.testing.assert_array_equal(moved.map_pixels([[10, 7]]), [[15, 9]])

  def test_iso_scales_by_fx_and_truncates(self):
    moved = camera.normalise(K, 73.0, 'iso')
    s = 73.0 / 50.0
    np.testing.assert_allclose(
      moved.target, (73.0, 60 * s, 32 * s, 20 * s, 93, 58)
    )
    pixels = np.array([[0, 0], [10, 7], [63, 39], [33, 21]])
    want = [[int(x * s), int(y * s)] for x, y in pixels]
    np.testing.assert_array_equal(moved.map_pixels(pixels), want)

  def test_iso_equals_the_released_mapping_through_the_principal_point(self):
    for focal in (33.0, 47.5, 120.0):
      moved = camera.normalise(K, focal, 'iso')
      for x in range(1, 64, 7):
        want = int((x - K.cx) * moved.target.fx / K.fx + moved.target.cx + 1e-9)
        assert moved.map_pixels([[x, 0]])[0, 0] == want

  def test_both_forms_agree_on_square_pixels(self):
    square = K._replace(fy=50.0)
    both = [camera.normalise(square, 40.0, m) for m in ('aniso', 'iso')]
    assert both[0].resized == both[1].resized == (51, 32)
    np.testing.assert_allclose(both[0].target, both[1].target)

  def test_none_changes_nothing(self):
    moved = camera.normalise(K, 75.0, 'none')
    image = _picture()
    np.testing.assert_array_equal(moved.apply(image), image)
    np.testing.assert_array_equal(moved.map_pixels([[3, 4]]), [[3, 4]])

  @pytest.mark.parametrize('focal', [31.0, 50.0, 83.7])
  def test_the_resampled_picture_follows_the_exact_scale(self, focal):
    # A horizontal ramp: the value at a continuous coordinate u is 4 u.
    ramp = np.zeros((40, 64, 3), np.uint8)
    ramp[:] = (4 * (np.arange(64) + 0.5)).astype(np.uint8)[None, :, None]
    moved = camera.normalise(K, focal, 'aniso')
    out = moved.apply(ramp)[10, 3:-3, 0].astype(float)
    middles = (np.arange(3, moved.target.width - 3) + 0.5) / (focal / 50.0)
    np.testing.assert_allclose(out, 4 * middles, atol=1.01)

  def test_unknown_mode_and_vanishing_image_are_errors(self):
    with pytest.raises(ValueError, match='focal_mode'):
      camera.normalise(K, 10.0, 'both')
    with pytest.raises(ValueError, match='to nothing'):
      camera.normalise(K, 0.1, 'aniso')

  def test_a_zero_focal_takes_the_other(self):
    assert camera.repaired([0, 60, 1, 2, 3, 4])[:2] == (60, 60)
    assert camera.repaired([50, 0, 1, 2, 3, 4])[:2] == (50, 50)
    with pytest.raises(ValueError, match='positive'):
      camera.repaired([0, 0, 1, 2, 3, 4])
    with pytest.raises(ValueError, match='six finite'):
      camera.repaired([50, float('nan'), 1, 2, 3, 4])

  def test_image_of_another_size_is_an_error(self):
    with pytest.raises(ValueError, match='64 x 40'):
      camera.normalise(K, 50.0, 'aniso').apply(_picture(32, 32))


class TestCrop:
  def test_centre_cut_and_pad_by_hand(self):
    whole = camera.normalise(K, 0, 'none')
    cut = whole.crop(20, 50)  # narrower and taller than 64 x 40
    assert cut.offset == (22, -5)
    assert cut.target == (50.0, 60.0, 10.0, 25.0, 20, 50)
    image = _picture()
    out = cut.apply(image)
    np.testing.assert_array_equal(out[5:45], image[:, 22:42])
    assert not out[:5].any() and not out[45:].any()
    np.testing.assert_array_equal(cut.map_pixels([[22, 0]]), [[0, 5]])

  def test_a_pad_does_not_bring_back_what_was_cut_away(self):
    cut = camera.normalise(K, 0, 'none').crop(20, 10, (30, 8))
    padded = cut.crop(40, 26)
    image, out = _picture(), padded.apply(_picture())
    np.testing.assert_array_equal(out[8:18, 10:30], image[8:18, 30:50])
    out[8:18, 10:30] = 0
    assert not out.any()
    assert padded.shows([[10, 8], [29, 17]]).all()
    assert not padded.shows([[9, 8], [30, 17], [10, 7], [29, 18]]).any()
    # Nor is a label asked about that the training crop took away.
    settings = sample.SampleSettings(
      focal=50.0, focal_mode='none', size=(40, 64)
    )
    row = {
      'intrinsics': K,
      'pixel_coords': np.array([[32, 20], [8, 20], [32, 35]]),
    }
    view = draws.View(crop=(16, 5, 32, 24))
    usable = draws.usable_labels(row, view, settings)
    np.testing.assert_array_equal(usable, [True, False, False])

  def test_training_crop_sizes_and_places(self):
    base = dict(focal=50.0, focal_mode='iso')
    base |= dict(crop_height=(20, 30), crop_width=(30, 50))
    centred = sample.SampleSettings(**base)
    loose = sample.SampleSettings(**base, crop_place='random')
    offsets, sizes = set(), set()
    for seed in range(40):
      moved = _cut(K, centred, seed)
      width, height = moved.target[4:]
      assert 30 <= width < 50 and 20 <= height < 30
      assert moved.offset == ((64 - width) // 2, (40 - height) // 2)
      sizes.add((width, height))
      moved = _cut(K, loose, seed)
      width, height = moved.target[4:]
      x, y = moved.offset
      assert 0 <= x <= 64 - width and 0 <= y <= 40 - height
      offsets.add(x)
    assert len(sizes) > 20 and len(offsets) > 10

  def test_crop_never_exceeds_the_image_and_never_runs_in_evaluation(self):
    settings = sample.SampleSettings(
      focal=50.0, focal_mode='iso', crop_height=(700, 1200), crop_width=(9, 9)
    )
    assert _cut(K, settings, 0).target[4:] == (9, 40)
    assert sample.geometry(K, settings).target[4:] == (64, 40)


class TestGeometryOfPoints:
  @pytest.mark.parametrize('mode', ['aniso', 'iso', 'none'])
  def test_projected_points_stay_on_their_pixel(self, mode):
    """A 3D point seen by the new camera falls where the pixel was mapped."""
    rng = np.random.default_rng(1)
    for fx, fy in ((50.0, 60.0), (80.0, 66.0), (37.0, 37.0)):
      K = camera.Intrinsics(fx, fy, 31.0, 21.5, 64, 40)
      settings = sample.SampleSettings(
        focal=48.0, focal_mode=mode, size=(48, 48)
      )
      moved = sample.geometry(K, settings)
      pixels = np.stack([rng.integers(0, 64, 99), rng.integers(0, 40, 99)], 1)
      z = rng.uniform(0.5, 20, 99)
      centres = pixels + 0.5
      points = np.stack(
        [
          (centres[:, 0] - K.cx) / K.fx * z,
          (centres[:, 1] - K.cy) / K.fy * z,
          z,
        ],
        1,
      )
      new = moved.target
      seen = np.stack(
        [
          new.fx * points[:, 0] / z + new.cx,
          new.fy * points[:, 1] / z + new.cy,
        ],
        1,
      )
      mapped = moved.map_pixels(pixels)
      if mode == 'iso':  # the released form follows the pixel's upper left
        assert np.abs(seen - (mapped + 0.5)).max() < 1.5
      else:
        np.testing.assert_array_equal(np.floor(seen + 1e-9), mapped)

  def test_z_and_range(self):
    # 30 px right and 40 px down of the centre at f = 50: |ray| = sqrt(2).
    K = camera.Intrinsics(50, 50, 10.5, 10.5, 64, 64)
    pixels = np.array([[40, 50], [10, 10]])
    distance = camera.z_to_range([2.0, 3.0], pixels, K)
    np.testing.assert_allclose(distance, [2 * np.sqrt(2), 3.0])
    np.testing.assert_allclose(
      camera.range_to_z(distance, pixels, K), [2.0, 3.0]
    )

  def test_range_does_not_depend_on_the_normalisation(self):
    moved = camera.normalise(K, 75.0, 'aniso')
    # Centre (10.5, 7.5) maps to (15.75, 9.375); compare the continuous rays.
    before = K.rays([[10, 7]])
    after = moved.target.rays([[15.25, 8.875]])
    np.testing.assert_allclose(before, after)


class TestMarker:
  def test_nine_exact_pixels(self):
    image = _picture(20, 16)
    out = marker.ARROW.draw(image, (9, 8))
    changed = {(x, y) for y, x in np.argwhere((out != image).any(-1))}
    assert changed == {
      *((9 - k, 8) for k in range(1, 6)),
      *((7, 7), (7, 9), (6, 6), (6, 10)),
    }
    assert all(tuple(out[y, x]) == (255, 0, 0) for x, y in changed)
    assert (image == _picture(20, 16)).all()

  @pytest.mark.parametrize(
    'pixel, good',
    [
      ((5, 5), True),
      ((14, 10), True),
      ((4, 8), False),
      ((15, 8), False),
      ((8, 4), False),
      ((8, 11), False),
    ],
  )
  def test_rule_of_the_margin(self, pixel, good):
    assert marker.ARROW.fits(np.array([pixel]), 20, 16)[0] == good
    if not good:
      with pytest.raises(ValueError, match='5 pixels'):
        marker.ARROW.draw(_picture(20, 16), pixel)


class TestText:
  @pytest.mark.parametrize(
    'output, metres',
    [
      ('<answer> 4.00 </answer>', 4.0),
      ('<answer>4.00</answer>', 4.0),
      ('glued >4.00<', 4.0),
      ('unclosed <answer> 4.00', 4.0),
      ('<think> 9.00 meters </think>\n\n<answer> 4.25 </answer>', 4.25),
      ('<answer>4.25</answer> or so, give or take 3', 4.25),
      ('<answer>2</answer> no, <answer>5</answer>', 5.0),
      ('<answer>5</answer> then <answer>none</answer>', 5.0),
      ('<answer></answer> perhaps 3', 3.0),
      ('<answer> 3.4 m </answer>', 3.4),
      ('<ANSWER>3.4 metres.</ANSWER>', 3.4),
      ('about 2.50 meters.', 2.5),
      ('first 2, then 7', 7.0),
      ('1,234.5', 1234.5),
      ('between 3-4', 4.0),
      ('~4.00', 4.0),
      ('+4', 4.0),
      ('.5', 0.5),
      ('1e1', 10.0),
      ('$4.2$', 4.2),
      ('\\boxed{4.2}', 4.2),
      ('-3.0', None),
      ('<answer>-3.0</answer>', None),
      ('5 <answer>0.00</answer>', None),
      ('50%', None),
      ('<answer>50%</answer>', None),
      ('1/2', None),
      ('4,5', None),
      ('1.2.3', None),
      ('inf', None),
      ('nan', None),
      ('1e999', None),
      ('', None),
      ('far away', None),
    ],
  )
  def test_parser(self, output, metres):
    assert text.parse_metres(output) == metres

  @pytest.mark.parametrize('name', sorted(text.PROMPTS))
  def test_every_format_reads_back_its_own_answer(self, name):
    reply = text.PROMPTS[name].reply(3.14159)
    places = 1 if '.1f' in text.PROMPTS[name].answer else 2
    assert text.parse_metres(reply) == round(3.14159, places)

  def test_rounding_is_that_of_the_binary_float(self):
    tag = text.PromptFormat('', '{d:.2f}')
    assert [tag.reply(d) for d in (0.015, 2.675, 0.004)] == [
      '0.01',
      '2.67',
      '0.00',
    ]

  def test_coordinates_are_those_of_the_final_image(self):
    row = _row()
    settings = sample.SampleSettings(
      focal=75.0, mark=False, prompt='coordinates_number'
    )
    query = sample.make_query(row, 0, settings)
    assert query['pixel'] == (45, 25)
    assert query['question'] == 'how far? 45 25'


def _row(**changes):
  row = {
    'image': _picture(),
    'intrinsics': list(K),
    'pixel_coords': [[30, 20], [1, 1], [40, 30]],
    'depth': [2.0, 3.0, 4.0],
    'depth_kind': 'range',
  }
  return row | changes


class TestSample:
  settings = sample.SampleSettings(focal=75.0, prompt='marker_number')

  def test_the_picture_is_rescaled_first_and_marked_last(self):
    query = sample.make_query(_row(), 0, self.settings)
    clean = camera.normalise(K, 75.0, 'aniso').apply(_picture())
    np.testing.assert_array_equal(
      query['image'], marker.ARROW.draw(clean, query['pixel'])
    )
    assert query['depth'] == 2.0 and query['answer'] == '02.0'
    assert query['intrinsics'] == (75.0, 75.0, 48.0, 25.0, 96, 50)

  def test_unusable_labels_are_never_drawn(self):
    seen = {
      sample.make_sample(_row(), np.random.default_rng(s), self.settings)[
        'label'
      ]
      for s in range(30)
    }
    assert seen == {0, 2}

  def test_no_usable_label_gives_none(self):
    row = _row(pixel_coords=[[1, 1]], depth=[3.0])
    rng = np.random.default_rng(0)
    assert sample.make_sample(row, rng, self.settings) is None
    assert sample.make_query(row, 0, self.settings) is None

  def test_evaluation_is_image_major_and_complete(self):
    rows = [_row(), _row()]
    found = list(sample.enumerate_queries(rows, self.settings))
    assert [(i, k) for i, k, _ in found] == [
      (i, k) for i in range(2) for k in range(3)
    ]
    assert [q is None for _, _, q in found] == [False, True, False] * 2

  def test_z_labels_become_range(self):
    query = sample.make_query(_row(depth_kind='z'), 0, self.settings)
    ray = np.array([(30.5 - 32) / 50, 0.5 / 60, 1])
    np.testing.assert_allclose(query['depth'], 2 * np.linalg.norm(ray))

  def test_a_row_draws_the_same_sample_from_the_same_seed(self):
    pair = [
      sample.make_sample(_row(), np.random.default_rng(5), self.settings)
      for _ in range(2)
    ]
    np.testing.assert_array_equal(pair[0]['image'], pair[1]['image'])
    assert pair[0]['pixel'] == pair[1]['pixel']

  @pytest.mark.parametrize('mode', ['aniso', 'iso', 'none'])
  def test_mask_says_what_queries_say(self, mode):
    settings = sample.SampleSettings(focal=48.0, focal_mode=mode, size=(48, 40))
    mask = sample.usable_mask(K, settings)
    y, x = np.mgrid[:40, :64]
    pixels = np.stack([x.ravel(), y.ravel()], 1)
    np.testing.assert_array_equal(
      mask.ravel(), sample.usable(pixels, K, settings)
    )
    assert 0.1 < mask.mean() < 0.9

  @pytest.mark.parametrize(
    'wrong',
    [
      dict(focal_mode='x'),
      dict(crop_place='x'),
      dict(prompt='x'),
      dict(crop_height=(1, 2)),
    ],
  )
  def test_settings_name_what_is_wrong(self, wrong):
    with pytest.raises(ValueError, match='crop|focal_mode|prompt'):
      sample.SampleSettings(**wrong)


@pytest.mark.parametrize('mode, share', [('aniso', 0.95), ('iso', 0.8)])
def test_label_stays_with_its_surface(mode, share):
  """Rendering with the normalised camera gives the label at the new pixel."""
  look = rooms.RoomSettings(
    width=160, height=120, focals=(100.0, 220.0), focal_ratio=(0.8, 1.25)
  )
  settings = sample.SampleSettings(
    focal=150.0, focal_mode=mode, size=(120, 120)
  )
  close, astray = [], []
  for index in range(8):
    (frame,) = rooms.render_batch(3, [index], look)
    row = room_rows.label_frame(
      frame, np.random.default_rng(index), 60, [settings]
    )
    moved = sample.geometry(row['intrinsics'], settings)
    again = rooms.render(
      rooms.make_scene(3, index, look),
      cameras.Camera(*moved.target, frame.camera.world_from_camera),
    )
    x, y = moved.map_pixels(row['pixel_coords']).T
    wrong = again.range[y, x - 5] / row['depth'] - 1
    close.append(np.abs(again.range[y, x] / row['depth'] - 1))
    astray.append(np.abs(wrong))
  # What is left are borders of objects and grazing walls, where the fraction
  # of a pixel that rounding drops matters (a whole one in the released form).
  assert np.mean(np.concatenate(close) < 0.02) > share
  assert np.mean(np.concatenate(astray) < 0.02) < 0.6


def test_motorcycle_photograph():
  photo = middlebury.motorcycle()
  assert photo.rgb.shape == (500, 741, 3)
  known = np.isfinite(photo.z)
  np.testing.assert_allclose(known.mean(), 0.927, atol=5e-4)
  np.testing.assert_allclose(photo.z[known].min(), 2.11, atol=5e-3)
  np.testing.assert_allclose(photo.z[known].max(), 5.02, atol=5e-3)
  assert (photo.range[known] >= photo.z[known]).all()
  settings = sample.SampleSettings(focal=48.0, size=(48, 48))
  row = room_rows.label_frame(photo, np.random.default_rng(0), 20, [settings])
  queries = [sample.make_query(row, k, settings) for k in range(20)]
  assert all(q['image'].shape == (48, 48, 3) for q in queries)
  assert all(2.1 < q['depth'] < 5.4 for q in queries)


class TestMirror:
  def test_twice_is_the_row_itself(self):
    row = _row()
    again = sample.mirrored(sample.mirrored(row))
    np.testing.assert_array_equal(again['image'], row['image'])
    np.testing.assert_array_equal(again['pixel_coords'], row['pixel_coords'])
    assert list(again['intrinsics']) == list(row['intrinsics'])

  def test_pixels_keep_their_colours_and_distances(self):
    row = _row(depth_kind='z', intrinsics=[50.0, 60.0, 20.0, 20.0, 64, 40])
    seen = sample.mirrored(row)
    for (x, y), (u, v) in zip(
      row['pixel_coords'], seen['pixel_coords'], strict=True
    ):
      np.testing.assert_array_equal(row['image'][y, x], seen['image'][v, u])
      assert (u, v) == (63 - x, y)
    np.testing.assert_allclose(sample.ranges(seen), sample.ranges(row))

  def test_half_of_the_training_samples_are_mirrored(self):
    settings = sample.SampleSettings(
      focal_mode='none', mark=False, mirror=True, prompt='coordinates_number'
    )
    row = _row(pixel_coords=[[20, 20]], depth=[2.0])
    found = [
      sample.make_sample(row, np.random.default_rng(s), settings)['pixel']
      for s in range(60)
    ]
    assert set(found) == {(20, 20), (43, 20)}
    assert 15 < found.count((43, 20)) < 45
    assert sample.make_query(row, 0, settings)['pixel'] == (20, 20)
