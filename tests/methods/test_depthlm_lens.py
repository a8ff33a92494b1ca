"""Real lenses: OpenCV's formulas by hand, inverses, undistorted rows."""

import numpy as np
import pytest

from vlm.methods.depthlm import camera, labels, sample
from vlm.methods.depthlm.lens import LENSES, Lens
from vlm.methods.depthlm.rectify import rectified

BROWN = Lens('brown_conrady', (-0.28, 0.07, 0.001, -0.0005, 0.01))
FISHEYE = Lens('kannala_brandt', (0.05, -0.01, 0.003, -0.0005))
PRISM = Lens(
  'thin_prism_fisheye',
  (-0.03, 0.01, 0.0005, -0.0003, -0.002, 0.0003, 0.0004, -0.0002),
)
WIDE = (*BROWN.coefficients, 0.1, -0.02, 0.005)


def _unit(rays):
  rays = np.asarray(rays, np.float64)
  return rays / np.linalg.norm(rays, axis=1, keepdims=True)


class TestForward:
  # x = 0.3, y = -0.2: r^2 = 0.13, r^4 = 0.0169, r^6 = 0.002197.
  radial = 1 - 0.28 * 0.13 + 0.07 * 0.0169 + 0.01 * 0.002197
  # 2 p1 x y + p2 (r^2 + 2 x^2), p1 (r^2 + 2 y^2) + 2 p2 x y
  tangential = np.array([-0.00012 - 0.000155, 0.00021 + 0.00006])

  def test_brown_conrady_by_hand(self):
    got = BROWN.distort([[0.6, -0.4, 2.0]])
    assert self.radial == pytest.approx(0.96480497)
    want = np.array([0.3, -0.2]) * self.radial + self.tangential
    np.testing.assert_allclose(got, [want], atol=1e-15)

  def test_rational_and_prism_terms_by_hand(self):
    divisor = 1 + 0.1 * 0.13 - 0.02 * 0.0169 + 0.005 * 0.002197
    bent = np.array([0.3, -0.2]) * self.radial / divisor + self.tangential
    got = Lens('brown_conrady', WIDE).distort([[0.3, -0.2, 1.0]])
    np.testing.assert_allclose(got, [bent], atol=1e-15)
    prism = (0.001, -0.002, 0.0015, 0.0005)
    got = Lens('brown_conrady', (*WIDE, *prism)).distort([[0.3, -0.2, 1.0]])
    more = [0.001 * 0.13 - 0.002 * 0.0169, 0.0015 * 0.13 + 0.0005 * 0.0169]
    np.testing.assert_allclose(got, [bent + more], atol=1e-15)

  def test_fisheye_by_hand(self):
    # theta = pi / 4 towards (0.6, 0.8).
    got = FISHEYE.distort([[0.6, 0.8, 1.0]])
    np.testing.assert_allclose(
      got, [[0.6 * 0.80712950, 0.8 * 0.80712950]], atol=1e-7
    )
    # Without coefficients the angle itself, beside and behind the camera too.
    bare = Lens('kannala_brandt', (0, 0, 0, 0))
    got = bare.distort([[1.0, 0.0, 0.0], [0.0, -1.0, -1.0]])
    np.testing.assert_allclose(got, [[np.pi / 2, 0], [0, -3 * np.pi / 4]])

  def test_thin_prism_fisheye_as_loops(self):
    k1, k2, p1, p2, k3, k4, sx, sy = PRISM.coefficients
    for x, y in ((0.3, -0.2), (1.1, 0.4), (0.0, 0.5)):
      r = np.hypot(x, y)
      u, v = np.arctan(r) * x / r, np.arctan(r) * y / r
      q = u * u + v * v
      radial = k1 * q + k2 * q**2 + k3 * q**3 + k4 * q**4
      want = (
        u + u * radial + 2 * p1 * u * v + p2 * (q + 2 * u * u) + sx * q,
        v + v * radial + 2 * p2 * u * v + p1 * (q + 2 * v * v) + sy * q,
      )
      got = PRISM.distort([[x, y, 1.0]])
      np.testing.assert_allclose(got, [want], atol=1e-14)

  def test_the_rim_is_not_shown_twice(self):
    # r - 0.4 r^3 turns back at sqrt(1 / 1.2), where it reaches 0.6086.
    lens = Lens('brown_conrady', (-0.4, 0, 0, 0))
    assert lens.reach == pytest.approx(0.9129, abs=1e-3)
    assert np.isnan(lens.distort([[1.5, 0.0, 1.0], [0.0, 0.0, -1.0]])).all()
    seen = lens.undistort([[0.7, 0.0], [0.55, 0.0]])
    assert np.isnan(seen[0]).all()
    x = seen[1, 0] / seen[1, 2]
    assert x - 0.4 * x**3 == pytest.approx(0.55) and x < 0.92


@pytest.mark.parametrize(
  'lens', [Lens(), BROWN, Lens('brown_conrady', WIDE), FISHEYE, PRISM]
)
def test_there_and_back(lens):
  rng = np.random.default_rng(0)
  rays = np.concatenate(
    [rng.uniform(-0.7, 0.7, (500, 2)), np.ones((500, 1))], 1
  )
  back = lens.undistort(lens.distort(rays))
  np.testing.assert_allclose(back, _unit(rays), atol=1e-9)


def test_there_and_back_behind_the_camera():
  rays = [[1.0, 0.2, -0.1], [-0.4, 1.0, -0.2]]
  back = FISHEYE.undistort(FISHEYE.distort(rays))
  np.testing.assert_allclose(back, _unit(rays), atol=1e-9)


@pytest.mark.parametrize(
  'model, coefficients, message',
  [
    ('omni', (), 'camera_model must be one of'),
    ('pinhole', (0.1,), 'needs 0 coefficients, got 1'),
    ('brown_conrady', (0.1, 0.2, 0.3), 'needs 4 or 5 or 8 or 12'),
    ('kannala_brandt', (1.0, 2, 3, float('nan')), 'must be finite'),
  ],
)
def test_a_wrong_lens_says_so(model, coefficients, message):
  with pytest.raises(ValueError, match=message):
    Lens(model, coefficients)
  assert len(LENSES) == 4


K = camera.Intrinsics(90.0, 100.0, 64.5, 47.5, 128, 96)


def _row(lens, kind='range'):
  rng = np.random.default_rng(3)
  pixels = np.stack([rng.integers(0, 128, 200), rng.integers(0, 96, 200)], 1)
  return {
    'image': np.zeros((96, 128, 3), np.uint8),
    'intrinsics': K,
    'pixel_coords': pixels,
    'depth': rng.uniform(1, 9, 200),
    'depth_kind': kind,
    'lens': lens,
  }


class TestLabels:
  @pytest.mark.parametrize('lens', [Lens(), BROWN, FISHEYE])
  def test_range_and_z_of_a_known_point(self, lens):
    """A point placed by hand, seen through the lens, gives both back."""
    for point in ([0.4, -0.3, 2.0], [-1.0, 0.5, 4.0]):
      point = np.array(point)
      place = lens.distort(point[None]) * K[:2] + K[2:4] - 0.5
      row = _row(lens) | {'pixel_coords': place, 'depth': [point[2]]}
      row['depth_kind'] = 'z'
      np.testing.assert_allclose(
        labels.ranges(row), [np.linalg.norm(point)], rtol=1e-9
      )
      np.testing.assert_allclose(labels.points(row), [point], rtol=1e-9)
      row = row | {'depth': labels.ranges(row), 'depth_kind': 'range'}
      np.testing.assert_allclose(labels.axial(row), [point[2]], rtol=1e-9)

  def test_pinhole_rows_agree_with_the_pinhole_formula(self):
    row = _row(Lens(), 'z')
    np.testing.assert_allclose(
      labels.ranges(row),
      camera.z_to_range(row['depth'], row['pixel_coords'], K),
      rtol=1e-14,
    )
    np.testing.assert_allclose(labels.axial(row), row['depth'])

  @pytest.mark.parametrize(
    'change, message',
    [
      ({'depth': [0.0]}, 'depth 0.0, expected finite positive'),
      ({'depth': [-1.0]}, 'depth -1.0'),
      ({'depth': [np.inf]}, 'depth inf'),
      ({'depth': [np.nan]}, 'depth nan'),
      ({'depth_kind': 'disparity'}, "must be 'range' or 'z'"),
      ({'pixel_coords': [[128, 4]]}, r'pixel \[128.0, 4.0\] lies outside'),
      ({'pixel_coords': [[3, -1]]}, 'outside the 128 x 96 image'),
      ({'intrinsics': [90, 90, 64, 48, 0, 96]}, 'must be positive'),
      ({'intrinsics': [-90, 90, 64, 48, 128, 96]}, 'fx -90'),
    ],
  )
  def test_bad_labels_say_so(self, change, message):
    row = _row(Lens()) | {'pixel_coords': [[3, 4]], 'depth': [1.0]} | change
    with pytest.raises(ValueError, match=message):
      labels.points(row)


class TestRectified:
  def test_a_pinhole_row_stays_itself(self):
    row = _row(Lens('brown_conrady', (0.0, 0, 0, 0)))
    assert rectified(row) is row

  @pytest.mark.parametrize('lens', [BROWN, FISHEYE, PRISM])
  def test_the_picture_shows_each_ray_where_a_pinhole_would(self, lens):
    """The source picture's colour is its ray; so is the result's."""
    y, x = np.mgrid[:96, :128]
    places = np.stack([x.ravel(), y.ravel()], 1) + 0.5
    rays = lens.undistort((places - K[2:4]) / K[:2])
    slopes = (rays[:, :2] / rays[:, 2:]).reshape(96, 128, 2)
    row = _row(lens)
    row['image'][..., :2] = np.rint(np.clip(128 + 80 * slopes, 0, 255))
    out = rectified(row)['image'].astype(float)
    u = (np.arange(128) + 0.5 - K.cx) / K.fx
    v = (np.arange(96) + 0.5 - K.cy) / K.fy
    want = np.stack(np.broadcast_arrays(128 + 80 * u, (128 + 80 * v)[:, None]))
    seen = (out[..., :2] > 0).all(-1)
    assert seen.mean() > 0.8
    error = np.abs(out[..., :2] - want.transpose(1, 2, 0))[seen]
    assert np.quantile(error, 0.99) < 1.0

  def test_labels_follow_their_surface_and_keep_their_range(self):
    row = _row(BROWN, 'z')
    row['image'][:] = 50
    x, y = row['pixel_coords'][7]
    row['image'][y - 1 : y + 2, x - 1 : x + 2] = 250
    out = rectified(row)
    x, y = out['pixel_coords'][7]
    assert out['image'][y, x, 0] == 250
    assert out['depth_kind'] == 'range' and 'lens' not in out
    np.testing.assert_array_equal(out['depth'], labels.ranges(row))
    np.testing.assert_allclose(labels.axial(out), row['depth'], rtol=1e-14)
    assert rectified(out) is out

  def test_what_a_pinhole_cannot_see_is_never_asked(self):
    wide = Lens('kannala_brandt', (0, 0, 0, 0))
    K_wide = K._replace(fx=30.0, fy=30.0)
    row = _row(wide) | {'intrinsics': K_wide}
    settings = sample.SampleSettings(focal_mode='none')
    out = rectified(row)
    gone = (out['pixel_coords'] < 0).any(1)
    assert 0.05 < gone.mean() < 0.95
    for label in np.flatnonzero(gone)[:5]:
      assert sample.make_query(row, int(label), settings) is None
    asked = [sample.make_query(out, k, settings) for k in range(200)]
    assert any(asked)
    for query in filter(None, asked):
      assert query['depth'] == row['depth'][query['label']]

  def test_a_picture_of_another_size_is_an_error(self):
    row = _row(BROWN) | {'image': np.zeros((96, 100, 3), np.uint8)}
    with pytest.raises(ValueError, match='100 x 96 but its intrinsics say 128'):
      rectified(row)
