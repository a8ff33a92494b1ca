"""Real photographs, really degraded: which of two is worse is known, not why.

scikit-image ships the photographs. Each is blurred, made noisy, compressed by
JPEG and robbed of contrast, five times as severely each time; a scorer should
fall with the level. Nobody judged them, so levels are pseudo-labels.
"""

import io
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from data.sources.middlebury import package_folder

NAMES = (
  'astronaut.png',
  'camera.png',
  'chelsea.png',
  'coffee.png',
  'motorcycle_left.png',
  'rocket.jpg',
)
# Five levels each; level 0 is the photograph.
BLUR = (0.8, 1.4, 2.2, 3.5, 5.5)  # sigma, pixels
NOISE = (6, 12, 22, 38, 60)  # sigma of 255
JPEG = (50, 30, 18, 10, 5)  # quality
CONTRAST = (0.75, 0.55, 0.4, 0.27, 0.15)  # share that stays
KINDS = ('blur', 'noise', 'jpeg', 'contrast')
LEVELS = 5


def photograph(name: str) -> np.ndarray:
  """One of `NAMES` as uint8 [h, w, 3].

  Raises:
    FileNotFoundError: scikit-image does not ship it.
  """
  path = package_folder() / name
  if not path.exists():
    raise FileNotFoundError(
      f'{path} is missing from this scikit-image; version 0.26 ships it'
    )
  with Image.open(path) as picture:
    return np.asarray(picture.convert('RGB'))


def degraded(rgb: np.ndarray, kind: str, level: int, seed: int) -> np.ndarray:
  """A photograph at a level of a degradation.

  Args:
    rgb: uint8 [h, w, 3].
    kind: one of `KINDS`.
    level: 0 to 5; 0 is the photograph itself.
    seed: of the noise.

  Raises:
    ValueError: another kind or level.
  """
  if kind not in KINDS or not 0 <= level <= LEVELS:
    raise ValueError(f'{kind!r} at level {level}; expected {KINDS}, 0 to 5')
  if level == 0:
    return rgb
  if kind == 'jpeg':
    return _jpeg(rgb, JPEG[level - 1])
  pixels = rgb.astype(np.float64)
  if kind == 'blur':
    sigma = BLUR[level - 1]
    pixels = ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode='nearest')
  elif kind == 'noise':
    drawn = np.random.default_rng(seed).standard_normal(pixels.shape)
    pixels = pixels + NOISE[level - 1] * drawn
  else:
    mean = pixels.mean()
    pixels = mean + CONTRAST[level - 1] * (pixels - mean)
  return np.round(np.clip(pixels, 0, 255)).astype(np.uint8)


def _jpeg(rgb: np.ndarray, quality: int) -> np.ndarray:
  file = io.BytesIO()
  Image.fromarray(rgb).save(file, 'JPEG', quality=quality)
  return np.asarray(Image.open(file).convert('RGB'))


class SeverityRows:
  """Every photograph at every level of every kind.

  Rows are {'image', 'id', 'photograph', 'kind', 'level'}; the untouched
  photograph comes once with each kind.

  Args:
    names: of `NAMES`.
  """

  def __init__(self, names: Sequence[str] = NAMES):
    self.name = 'photographs'
    self._rows = [
      (name, kind, level)
      for name in names
      for kind in KINDS
      for level in range(LEVELS + 1)
    ]

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    name, kind, level = self._rows[index]
    # The same noise at every level, only stronger.
    seed = zlib.crc32(f'{name}/{kind}'.encode())
    return {
      'image': degraded(photograph(name), kind, level, seed),
      'id': f'{name}/{kind}/{level}',
      'photograph': name,
      'kind': kind,
      'level': level,
    }
