"""The world of degraded photographs, and real photographs degraded."""

import time

import numpy as np
import pytest

from data import dct
from data.sources import photo_rows, photographs
from data.worlds import degradations, photo_content, photos
from vlm.methods.rali.prompts import SEVERITIES
from vlm.metrics import correlation, monotonicity

FAMILIES = list(photo_content.FAMILIES)


class TestPhotos:
  def test_a_photograph_is_a_function_of_seed_family_and_index(self):
    first = photos.make_photo(3, 'B', 5)
    photos.make_photo(3, 'B', 6)
    again = photos.make_photo(3, 'B', 5)
    np.testing.assert_array_equal(first.rgb, again.rgb)
    assert first.mos == again.mos and first.caption == again.caption
    for other in ((4, 'B', 5), (3, 'A', 5), (3, 'B', 6)):
      assert (photos.make_photo(*other).rgb != first.rgb).any()
    label = photos.make_label(3, 'B', 5)
    assert vars(label).keys() == vars(first).keys() - {'rgb'}
    np.testing.assert_array_equal(label.severities, first.severities)
    assert (label.quality, label.mos) == (first.quality, first.mos)
    with pytest.raises(ValueError, match="family 'F'"):
      photos.make_photo(0, 'F', 0)

  @pytest.mark.parametrize('family', FAMILIES)
  def test_families_have_their_content_scale_and_counts(self, family):
    crowd = photos.CROWDS[family]
    labels = [photos.make_label(0, family, n) for n in range(300)]
    counts = [np.count_nonzero(label.severities) for label in labels]
    found = np.bincount(counts, minlength=len(crowd.counts)) / 300
    np.testing.assert_allclose(found, crowd.counts, atol=0.09)
    mos = np.array([label.mos for label in labels])
    span = crowd.high - crowd.low
    share = (mos - crowd.low) / span
    assert share.min() > -0.4 and share.max() < 1.4
    assert share.std() > 0.1
    quality = np.array([label.quality for label in labels])
    assert correlation.srcc(mos, quality) > 0.8
    rgb = photos.make_photo(0, family, 0).rgb
    assert rgb.shape == (32, 32, 3) and rgb.dtype == np.uint8
    assert photos.make_photo(0, family, 0, size=48).rgb.shape[0] == 48

  def test_the_same_quality_is_worth_other_scores_in_other_sets(self):
    """The conflict that breaks training on mixed scores (spec 9.1)."""
    shares = [c.law(0.5) for c in photos.CROWDS.values()]
    assert 4 * (max(shares) - min(shares)) > 1.2
    for crowd in photos.CROWDS.values():
      values = [crowd.law(q) for q in np.linspace(0, 1, 50)]
      assert (np.diff(values) > 0).all()
      assert values[0] == pytest.approx(0) and values[-1] == pytest.approx(1)
    biases = np.stack([photos.bias(family) for family in FAMILIES])
    assert biases.min() >= 0.5 and biases.max() <= 1.3
    assert len(np.unique(biases)) == biases.size

  def test_quality_falls_with_every_severity(self):
    for kind in range(5):
      levels = np.zeros((6, 5))
      levels[:, kind] = np.linspace(0, 1, 6)
      quality = [photos.quality_of(row, 1.0) for row in levels]
      assert quality[0] == 1 and (np.diff(quality) < 0).all()
    assert photos.quality_of(np.ones(5), 1.3) == 0
    want = 1 - 0.9 * 0.5 * 0.5**0.8 - 0.6 * 1.2 * 0.25**0.8
    minds = np.array([0.5, 1, 1, 1, 1.2])
    found = photos.quality_of(np.array([0.5, 0, 0, 0, 0.25]), minds)
    assert found == pytest.approx(want)

  def test_captions_name_the_strongest_first_and_err_as_often_as_said(self):
    severities = np.array([0.15, 0, 0.9, 0, 0.5])
    assert photos.caption_of(severities) == (
      ('compression', 'catastrophic'),
      ('darken', 'obvious'),
      ('blur', 'slight'),
    )
    assert photos.caption_of(np.zeros(5)) == ()
    rng = np.random.default_rng(0)
    single = np.array([0, 0.5, 0, 0, 0.0])
    said = [photos.caption_of(single, rng) for _ in range(2000)]
    spoken = [caption[0] for caption in said if caption]
    assert 1 - len(spoken) / 2000 == pytest.approx(0.1, abs=0.03)
    words = [word for _, word in spoken]
    assert np.mean([w != 'obvious' for w in words]) == pytest.approx(
      0.25, abs=0.04
    )
    # One in twenty draws another name, which may be the same.
    names = [kind for kind, _ in spoken]
    assert np.mean([n != 'noise' for n in names]) == pytest.approx(
      0.04, abs=0.015
    )

  def test_words_are_equal_parts(self):
    words = [photos.severity_word(s) for s in (0.01, 0.2, 0.21, 0.6, 0.81, 1)]
    picked = [SEVERITIES[n] for n in (0, 0, 1, 2, 4, 4)]
    assert words == picked

  def test_the_world_is_rendered_in_reasonable_time(self):
    photos.make_photo(0, 'A', 0)
    began = time.perf_counter()
    for n in range(20):
      photos.make_photo(1, FAMILIES[n % 5], n)
    assert (time.perf_counter() - began) / 20 < 0.05


class TestDegradations:
  RNG = np.random.default_rng(1)
  PIXELS = photo_content.ellipses(np.random.default_rng(0), 32)

  def one(self, kind, severity):
    severities = np.zeros(5)
    severities[degradations.KINDS.index(kind)] = severity
    rng = np.random.default_rng(2)
    return degradations.degrade(self.PIXELS, severities, rng)

  @pytest.mark.parametrize('kind', degradations.KINDS)
  def test_severity_zero_is_nothing_and_more_is_further_away(self, kind):
    np.testing.assert_array_equal(self.one(kind, 0), self.PIXELS)
    away = [
      np.square(self.one(kind, s) - self.PIXELS).mean()
      for s in (0.1, 0.4, 0.7, 1.0)
    ]
    assert (np.diff(away) > 0).all() and away[0] > 0

  def test_strengths_are_those_of_the_specification(self):
    dark = self.one('darken', 1)
    np.testing.assert_allclose(dark, 0.25 * self.PIXELS)
    flat = self.one('contrast', 1)
    assert flat.std() == pytest.approx(0.15 * self.PIXELS.std())
    grey = np.full((64, 64, 3), 0.5)
    loud = degradations.noise(grey, 0.5, np.random.default_rng(3))
    assert (loud - grey).std() == pytest.approx(0.11, rel=0.02)
    point = np.zeros((33, 33, 3))
    point[16, 16] = 1
    spread = degradations.blur(point, 1)[:, 16, 0]
    x = np.arange(33) - 16
    assert np.sqrt((spread * x**2).sum() / spread.sum()) == pytest.approx(
      2.2, abs=0.02
    )

  def test_compression_rounds_coefficients(self):
    squeezed = degradations.compress(self.PIXELS, 0.5)
    found = dct.dct(np.moveaxis(dct.blocks(squeezed), -1, 0))
    u = np.arange(8)
    step = 0.5 * (0.06 + 0.94 * (u[:, None] + u) / 14)
    np.testing.assert_allclose(found / step, np.round(found / step), atol=1e-9)


class TestDct:
  def test_the_transform_is_the_definition_and_is_undone(self):
    block = np.random.default_rng(0).random((8, 8))
    want = np.zeros((8, 8))
    n = np.arange(8)
    for u in range(8):
      for v in range(8):
        wave = np.outer(
          np.cos(np.pi * (2 * n + 1) * u / 16),
          np.cos(np.pi * (2 * n + 1) * v / 16),
        )
        scale = (1 / 8 if u == 0 else 1 / 4) * (1 if v == 0 else 2)
        scale = np.sqrt((1 if u == 0 else 2) / 8 * (1 if v == 0 else 2) / 8)
        want[u, v] = scale * (block * wave).sum()
    np.testing.assert_allclose(dct.dct(block), want, atol=1e-12)
    np.testing.assert_allclose(dct.inverse_dct(want), block, atol=1e-12)

  def test_blocks_stand_in_their_places(self):
    plane = np.arange(16 * 24).reshape(16, 24)
    cut = dct.blocks(plane)
    assert cut.shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(cut[1, 2], plane[8:, 16:])
    np.testing.assert_array_equal(dct.whole(cut), plane)
    with pytest.raises(ValueError, match='12 x 16 pixels'):
      dct.blocks(plane[:12, :16])

  def test_features_are_81_numbers_that_tell_degradations_apart(self):
    clean = photos.make_photo(0, 'A', 1).rgb
    found = dct.patch_features(clean)
    assert found.shape == (4, 4, 81) and found.dtype == np.float32
    assert np.isfinite(found).all() and np.abs(found).max() < 4
    flat = dct.patch_features(np.full((8, 8, 3), 128, np.uint8))[0, 0]
    coefficients, mean = flat[:64], flat[64:67]
    np.testing.assert_allclose(
      coefficients[1:], np.log(1e-3) / 2 + 1.75, atol=1e-5
    )
    np.testing.assert_allclose(mean, 4 * (128 / 255 - 0.5), atol=1e-6)
    assert coefficients[0] == pytest.approx(
      np.log(8 * 128 / 255 + 1e-3) / 2 + 1.75, abs=1e-5
    )

  def test_gradients_and_laplacian(self):
    ramp = np.zeros((8, 8, 3), np.uint8)
    ramp[:] = (10 * np.arange(8))[None, :, None]
    found = dct.patch_features(ramp)[0, 0]
    log = lambda v: np.log(v + 1e-3) / 2 + 1.75
    # The last column has no right neighbour.
    assert found[70] == pytest.approx(log(10 / 255 * 7 / 8), abs=1e-5)
    assert found[71] == pytest.approx(log(0), abs=1e-5)
    np.testing.assert_allclose(found[72:79], log(0), atol=1e-4)

  def test_pictures_of_features_hold_them_patch_by_patch(self):
    rgb = photos.make_photo(0, 'C', 0).rgb
    found = dct.feature_picture(rgb)
    assert found.shape == (24, 24, 3) and found.dtype == np.uint8
    patch = (found[6:12, 12:18].ravel() / 255 - 0.5) * 2 * dct.RANGE
    want = dct.patch_features(rgb)[1, 2]
    assert np.abs(want).max() < dct.RANGE
    np.testing.assert_allclose(patch[:81], want, atol=0.5 * 6 / 255 + 1e-6)
    assert np.abs(patch[81:]).max() < 0.02
    with pytest.raises(ValueError, match='patch=5'):
      dct.feature_picture(rgb, 5)


class TestRows:
  def test_opinions_are_normalised_by_train_and_test_together(self):
    train = photo_rows.PhotoRows(0, 'B', 0, 40, 60)
    test = photo_rows.PhotoRows(0, 'B', 40, 20, 60)
    rows = [*train, *test]
    scores = [row['gt_score_norm'] for row in rows]
    assert min(scores) == 1 and max(scores) == 5
    raw = np.array([row['gt_score'] for row in rows])
    want = 1 + 4 * (raw - raw.min()) / (raw.max() - raw.min())
    np.testing.assert_allclose(scores, want)
    assert rows[0]['dataset'] == 'B' and rows[0]['task'] == 'score'
    assert rows[41]['id'] == 'B/41'
    with pytest.raises(ValueError, match='of a set of 60'):
      photo_rows.PhotoRows(0, 'B', 40, 21, 60)
    with pytest.raises(ValueError, match='at least 2'):
      photo_rows.PhotoRows(0, 'B', 0, 1, 1)

  def test_degradations_are_of_the_strongest(self):
    rows = photo_rows.PhotoRows(0, 'A', 0, 60, 60, task='degradation')
    for row in rows:
      severities = row['severities']
      if not severities.any():
        assert row['distortion_class'] == row['severity'] == 'null'
        continue
      kind = degradations.KINDS[severities.argmax()]
      assert row['distortion_class'] == kind
      assert row['severity'] == photos.severity_word(severities.max())

  def test_generic_rows_are_of_all_families_and_nobodys_scale(self):
    rows = photo_rows.GenericRows(0, 50)
    assert {row['id'][0] for row in rows} == set(FAMILIES)
    guess = np.array([row['gt_score_norm'] for row in rows])
    truth = np.array([photos.quality_of(r['severities'], 1.0) for r in rows])
    assert 0.5 < correlation.srcc(guess, truth) < 1
    first = photo_rows.PhotoRows(0, 'A', 0, 2, 2)[0]
    assert (rows[0]['image'] != first['image']).any()


class TestPhotographs:
  ROWS = photographs.SeverityRows(['chelsea.png'])

  def test_every_level_is_further_from_the_photograph(self):
    assert len(self.ROWS) == 24
    clean = self.ROWS[0]['image']
    assert clean.shape == (300, 451, 3) and clean.dtype == np.uint8
    away = {}
    for row in self.ROWS:
      error = np.square(row['image'].astype(float) - clean).mean()
      away.setdefault(row['kind'], []).append(error)
    assert set(away) == set(photographs.KINDS)
    for errors in away.values():
      assert errors[0] == 0 and (np.diff(errors) > 0).all()

  def test_names_and_levels_that_are_not_there(self):
    with pytest.raises(ValueError, match="'fog' at level 1"):
      photographs.degraded(self.ROWS[0]['image'], 'fog', 1, 0)
    with pytest.raises(FileNotFoundError, match=r'nobody.png is missing'):
      photographs.photograph('nobody.png')
    for name in photographs.NAMES:
      assert photographs.photograph(name).ndim == 3


class TestMonotonicity:
  def test_pairs_steps_and_whole_series(self):
    scores = [5, 4, 3, 5, 1, 2]
    levels = [0, 1, 2, 0, 1, 2]
    found = monotonicity.falling_rate(scores, levels, ['a'] * 3 + ['b'] * 3)
    assert found == {'pairs': 5 / 6, 'steps': 3 / 4, 'series': 0.5, 'count': 2}

  def test_order_and_ties(self):
    found = monotonicity.falling_rate([1, 3, 3], [2, 0, 1], 'xxx')
    assert found['pairs'] == pytest.approx(2.5 / 3)
    assert found['steps'] == 0.75 and found['series'] == 0
    constant = monotonicity.falling_rate([2.0] * 3, [0, 1, 2], 'xxx')
    assert constant['pairs'] == 0.5

  def test_equal_levels_are_no_pair(self):
    found = monotonicity.falling_rate([3, 9, 1], [0, 0, 1], 'xxx')
    assert found['pairs'] == 1

  def test_bad_lists(self):
    with pytest.raises(ValueError, match='no series'):
      monotonicity.falling_rate([1, 2], [0, 1], ['a', 'b'])
    with pytest.raises(ValueError, match='score 1'):
      monotonicity.falling_rate([1, np.nan], [0, 1], 'aa')
    with pytest.raises(ValueError, match='1 levels'):
      monotonicity.falling_rate([1, 2], [0], 'aa')
