"""The focal length of a photograph in pixels, and where it is known from."""

import dataclasses
import io
import math
from typing import Any

from etils import epath
from PIL import ExifTags, Image

from data.image import DAMAGE

FILM_DIAGONAL = math.hypot(36, 24)  # millimetres of 35 mm film
# Millimetres of EXIF's units of resolution: inch, centimetre, mm, micrometre.
_UNITS = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
_TAGS = ExifTags.Base


@dataclasses.dataclass(frozen=True)
class Focal:
  """A focal length.

  Attributes:
    pixels: of the picture as it is stored; square pixels.
    origin: where it is known from, in words.
  """

  pixels: float
  origin: str


def from_fov(degrees: float, width: int) -> Focal:
  """The focal length of a horizontal field of view.

  Raises:
    ValueError: for an angle that no pinhole has.
  """
  if not 0 < degrees < 180:
    raise ValueError(f'--fov={degrees:g}, expected degrees between 0 and 180')
  pixels = width / 2 / math.tan(math.radians(degrees) / 2)
  return Focal(pixels, f'a horizontal field of view of {degrees:g} degrees')


def from_exif(source: Any) -> Focal | None:
  """What a camera wrote into its file; None where it wrote nothing usable.

  The focal length in terms of 35 mm film is of equal diagonals (CIPA DCG-001);
  where it is missing, millimetres times the resolution of the sensor, if the
  picture still has the sensor's size.

  Args:
    source: path (local or gs://) or encoded bytes.
  """
  encoded = source
  if not isinstance(source, bytes):
    encoded = epath.Path(source).read_bytes()
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      size, exif = image.size, image.getexif()
      tags = dict(exif.get_ifd(ExifTags.IFD.Exif))
  except DAMAGE:
    return None
  return _of_film(tags, size) or _of_sensor(tags, size)


def _of_film(tags: dict[int, Any], size: tuple[int, int]) -> Focal | None:
  film = _number(tags.get(_TAGS.FocalLengthIn35mmFilm))
  if not film:
    return None
  pixels = film * math.hypot(*size) / FILM_DIAGONAL
  return Focal(pixels, f"EXIF's {film:g} mm in terms of 35 mm film")


def _of_sensor(tags: dict[int, Any], size: tuple[int, int]) -> Focal | None:
  length = _number(tags.get(_TAGS.FocalLength))
  density = _number(tags.get(_TAGS.FocalPlaneXResolution))
  unit = _UNITS.get(tags.get(_TAGS.FocalPlaneResolutionUnit, 2))
  stated = tags.get(_TAGS.ExifImageWidth)
  if not length or not density or not unit or stated != size[0]:
    return None
  return Focal(
    length * density / unit,
    f"EXIF's {length:g} mm and {density / unit:.1f} pixels per mm",
  )


def _number(value: Any) -> float:
  """Of a rational; 0 where there is none, or none that is positive."""
  try:
    number = float(value)
  except (TypeError, ValueError, ZeroDivisionError):
    return 0.0
  return number if math.isfinite(number) and number > 0 else 0.0
