"""Five degradations with a continuous severity from 0 (none) to 1.

All are functions of float pixels in [0, 1] [H, W, 3]; noise takes the random
stream it is drawn from.
"""

import numpy as np
from scipy import ndimage

from data import dct

KINDS = ('blur', 'noise', 'compression', 'contrast', 'darken')
BLUR, NOISE, CONTRAST, DARKEN = 2.2, 0.22, 0.85, 0.75
# Where they happen on the way from the lens to the file.
ORDER = ('darken', 'contrast', 'blur', 'noise', 'compression')


def blur(pixels: np.ndarray, severity: float) -> np.ndarray:
  """Gaussian, of a sigma up to 2.2 pixels."""
  sigma = BLUR * severity
  return ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode='nearest')


def noise(
  pixels: np.ndarray, severity: float, rng: np.random.Generator
) -> np.ndarray:
  """White Gaussian, of a sigma up to 0.22."""
  return pixels + NOISE * severity * rng.standard_normal(pixels.shape)


def compress(pixels: np.ndarray, severity: float) -> np.ndarray:
  """Rounds the DCT of 8 x 8 blocks, high frequencies more coarsely.

  JPEG's principle without its tables: steps grow linearly with frequency, up
  to 0.06 for the mean and 1.0 for the highest at severity 1.
  """
  if severity == 0:
    return pixels
  u = np.arange(dct.BLOCK)
  step = severity * (0.06 + 0.94 * (u[:, None] + u) / (2 * dct.BLOCK - 2))
  planes = np.moveaxis(dct.blocks(pixels), -1, 0)
  rounded = step * np.round(dct.dct(planes) / step)
  return dct.whole(np.moveaxis(dct.inverse_dct(rounded), 0, -1))


def lower_contrast(pixels: np.ndarray, severity: float) -> np.ndarray:
  """Towards the mean, down to 0.15 of the contrast."""
  mean = pixels.mean()
  return mean + (1 - CONTRAST * severity) * (pixels - mean)


def darken(pixels: np.ndarray, severity: float) -> np.ndarray:
  """Down to a quarter of the light."""
  return (1 - DARKEN * severity) * pixels


def degrade(
  pixels: np.ndarray, severities: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """All degradations of a picture, in the order of `ORDER`.

  Args:
    pixels: float64 [H, W, 3] in [0, 1]; sides are multiples of 8.
    severities: [5], of `KINDS`.
    rng: of the noise.

  Returns:
    float64 [H, W, 3], clipped.
  """
  apply = {
    'blur': blur,
    'noise': lambda p, s: noise(p, s, rng),
    'compression': compress,
    'contrast': lower_contrast,
    'darken': darken,
  }
  for kind in ORDER:
    severity = severities[KINDS.index(kind)]
    if severity > 0:
      pixels = np.clip(apply[kind](pixels, severity), 0, 1)
  return pixels
