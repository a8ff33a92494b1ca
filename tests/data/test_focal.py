"""Focal lengths of photographs, in pixels."""

import io
import math

import numpy as np
import pytest
from PIL import ExifTags, Image

from data import focal
from data.image import open_image

TAGS = ExifTags.Base


def photo(size=(400, 300), orientation=None, **tags):
  """An encoded JPEG with EXIF."""
  exif = Image.Exif()
  if orientation:
    exif[TAGS.Orientation] = orientation
  exif.get_ifd(ExifTags.IFD.Exif).update(
    {TAGS[name]: value for name, value in tags.items()}
  )
  buffer = io.BytesIO()
  Image.new('RGB', size).save(buffer, 'JPEG', exif=exif)
  return buffer.getvalue()


def test_a_film_s_focal_length_is_of_equal_diagonals():
  found = focal.from_exif(photo(FocalLengthIn35mmFilm=26))
  assert found.pixels == pytest.approx(26 * 500 / 43.26661531)
  assert '26 mm' in found.origin
  # 36 x 24 pixels are the film itself, a pixel per millimetre.
  assert focal.from_exif(
    photo((36, 24), FocalLengthIn35mmFilm=50)
  ).pixels == pytest.approx(50)


def test_a_turned_picture_keeps_its_focal_length(tmp_path):
  path = tmp_path / 'turned.jpg'
  path.write_bytes(photo(orientation=6, FocalLengthIn35mmFilm=26))
  assert open_image(path).size == (300, 400)
  upright = focal.from_exif(photo(FocalLengthIn35mmFilm=26))
  assert focal.from_exif(path) == upright


def test_a_sensor_s_resolution_counts_only_at_its_size():
  tags = dict(FocalLength=8.0, FocalPlaneXResolution=50.0, ExifImageWidth=400)
  of = lambda **more: focal.from_exif(photo(**(tags | more)))
  assert of(FocalPlaneResolutionUnit=4).pixels == pytest.approx(400)
  assert of(FocalPlaneResolutionUnit=3).pixels == pytest.approx(40)
  assert of().pixels == pytest.approx(8 * 50 / 25.4)
  assert of(ExifImageWidth=4000) is None


@pytest.mark.parametrize(
  'tags', [{}, {'FocalLengthIn35mmFilm': 0}, {'FocalLength': 8.0}]
)
def test_what_is_not_said_is_not_guessed(tags):
  assert focal.from_exif(photo(**tags)) is None


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_a_damaged_file_says_nothing():
  encoded = photo(FocalLengthIn35mmFilm=26)
  assert focal.from_exif(b'no picture') is None
  rng = np.random.default_rng(0)
  for _ in range(40):  # None or a focal length, never another error
    damaged = np.frombuffer(encoded, np.uint8).copy()
    damaged[rng.integers(2, 120, 4)] = rng.integers(0, 256, 4)
    found = focal.from_exif(damaged.tobytes())
    assert found is None or found.pixels > 0


def test_a_field_of_view():
  assert focal.from_fov(90, 640).pixels == pytest.approx(320)
  back = 2 * math.degrees(math.atan(320 / focal.from_fov(53, 640).pixels))
  assert back == pytest.approx(53)
  for degrees in (0, 180, -20):
    with pytest.raises(ValueError, match='--fov='):
      focal.from_fov(degrees, 640)
