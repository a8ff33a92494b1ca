"""What procedural photographs show: five families, which are five domains."""

from collections.abc import Callable

import numpy as np

Draw = Callable[[np.random.Generator, int], np.ndarray]


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
  """Coordinates in [0, 1): rows [size, 1], columns [1, size]."""
  line = (np.arange(size) + 0.5) / size
  return line[:, None], line[None, :]


def _gradient(rng, size: int, low: float, high: float) -> np.ndarray:
  """A soft change between two colours in some direction."""
  y, x = _grid(size)
  first, second = rng.uniform(low, high, (2, 3))
  angle = rng.uniform(0, 2 * np.pi)
  t = 0.5 + 0.5 * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))
  return first + t[..., None] * (second - first)


def ellipses(rng: np.random.Generator, size: int) -> np.ndarray:
  """Gradients with ellipses, of light colours."""
  y, x = _grid(size)
  picture = _gradient(rng, size, 0.25, 0.95)
  for _ in range(rng.integers(3, 8)):
    cy, cx = rng.uniform(0.1, 0.9, 2)
    ry, rx = rng.uniform(0.06, 0.3, 2)
    turn, colour = rng.uniform(0, np.pi), rng.uniform(0.1, 1.0, 3)
    u = np.cos(turn) * (x - cx) + np.sin(turn) * (y - cy)
    v = -np.sin(turn) * (x - cx) + np.cos(turn) * (y - cy)
    picture[(u / rx) ** 2 + (v / ry) ** 2 < 1] = colour
  return picture


def rectangles(rng: np.random.Generator, size: int) -> np.ndarray:
  """Gradients with upright rectangles, of dark colours."""
  y, x = _grid(size)
  picture = _gradient(rng, size, 0.1, 0.6)
  for _ in range(rng.integers(3, 8)):
    cy, cx = rng.uniform(0.1, 0.9, 2)
    ry, rx = rng.uniform(0.05, 0.28, 2)
    inside = (np.abs(x - cx) < rx) & (np.abs(y - cy) < ry)
    picture[inside] = rng.uniform(0.0, 0.75, 3)
  return picture


def clouds(rng: np.random.Generator, size: int) -> np.ndarray:
  """Noise whose amplitude falls as 1 / f, in two colours."""
  frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
  frequency[0, 0] = np.inf
  spectrum = np.fft.fft2(rng.standard_normal((size, size)))
  wave = np.fft.ifft2(spectrum / frequency ** rng.uniform(0.8, 1.3)).real
  t = np.clip(0.5 + wave / (4 * wave.std()), 0, 1)[..., None]
  first, second = rng.uniform(0.05, 0.95, (2, 3))
  return first + t * (second - first)


def stripes(rng: np.random.Generator, size: int) -> np.ndarray:
  """Stripes or checkers of two colours, in any direction."""
  y, x = _grid(size)
  angle, period = rng.uniform(0, np.pi), rng.uniform(0.12, 0.45)
  phase = rng.uniform(0, 1, 2)
  u = (np.cos(angle) * x + np.sin(angle) * y) / period + phase[0]
  v = (-np.sin(angle) * x + np.cos(angle) * y) / period + phase[1]
  checker = rng.random() < 0.5
  mask = (np.floor(u) + (np.floor(v) if checker else 0)) % 2 == 0
  first, second = rng.uniform(0.05, 0.95, (2, 3))
  return np.where(mask[..., None], first, second)


def waves(rng: np.random.Generator, size: int) -> np.ndarray:
  """Sums of sinusoids, each colour for itself."""
  y, x = _grid(size)
  picture = np.full((size, size, 3), 0.5)
  for _ in range(rng.integers(3, 7)):
    fy, fx = rng.uniform(-5, 5, 2)
    phase, height = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.05, 0.25, 3)
    angle = 2 * np.pi * (fy * y + fx * x)[..., None] + phase
    picture = picture + height * np.sin(angle)
  return np.clip(picture, 0, 1)


FAMILIES: dict[str, Draw] = {
  'A': ellipses,
  'B': rectangles,
  'C': clouds,
  'D': stripes,
  'E': waves,
}
