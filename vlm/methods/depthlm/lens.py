"""Real lenses: where a ray meets the image plane, and back.

A lens stands between a ray of the camera frame (x right, y down, z forward)
and normalised image coordinates ((u - cx) / fx, (v - cy) / fy). OpenCV's names,
orders and formulas (calib3d, "Detailed Description"):

  pinhole             none
  brown_conrady       k1 k2 p1 p2 [k3 [k4 k5 k6 [s1 s2 s3 s4]]]
  kannala_brandt      k1 k2 k3 k4, OpenCV's fisheye
  thin_prism_fisheye  k1 k2 p1 p2 k3 k4 sx1 sy1, COLMAP's, as ETH3D uses it

Every model bends a plane: (x/z, y/z) for Brown-Conrady, and the angle theta to
the axis laid along the same direction for a fisheye, so that rays beside and
behind the camera have their place too.
"""

import dataclasses
import functools

import numpy as np
from numpy.typing import ArrayLike

_COUNTS = {
  'pinhole': (0,),
  'brown_conrady': (4, 5, 8, 12),
  'kannala_brandt': (4,),
  'thin_prism_fisheye': (8,),
}
LENSES = tuple(_COUNTS)
_NEWTON_STEPS = 30
_TOLERANCE = 1e-9  # of normalised coordinates: 1e-6 pixels at f = 1000


@dataclasses.dataclass(frozen=True)
class Lens:
  """A lens model and its coefficients, in the orders above.

  Raises:
    ValueError: an unknown model, a wrong number of coefficients, or one that
      is not finite.
  """

  model: str = 'pinhole'
  coefficients: tuple[float | int, ...] = ()

  def __post_init__(self):
    if self.model not in LENSES:
      raise ValueError(
        f'camera_model must be one of {LENSES}, got {self.model!r}'
      )
    counts = _COUNTS[self.model]
    if len(self.coefficients) not in counts:
      raise ValueError(
        f'distortion of a {self.model} camera needs '
        f'{" or ".join(map(str, counts))} coefficients, got '
        f'{len(self.coefficients)}: {list(self.coefficients)}'
      )
    if not np.all(np.isfinite(self.coefficients)):
      raise ValueError(
        f'distortion must be finite, got {list(self.coefficients)}'
      )

  @property
  def is_pinhole(self) -> bool:
    """Whether straight lines stay straight."""
    return not np.any(self.coefficients) and not self._is_fisheye

  @property
  def _is_fisheye(self) -> bool:
    return self.model in ('kannala_brandt', 'thin_prism_fisheye')

  def distort(self, rays: ArrayLike) -> np.ndarray:
    """Camera-frame rays [N, 3] of any length -> image coordinates [N, 2].

    float64; NaN for a ray that the lens does not see: behind a pinhole, or
    farther out than the model is monotone.
    """
    rays = np.asarray(rays, np.float64)
    radius = np.hypot(rays[:, 0], rays[:, 1])
    with np.errstate(divide='ignore', invalid='ignore'):
      if self._is_fisheye:
        angle = np.arctan2(radius, rays[:, 2])
        stretch = np.where(radius > 0, angle / radius, 0.0)
        seen = angle < self.reach
      else:
        stretch = 1 / rays[:, 2]
        seen = (rays[:, 2] > 0) & (radius * stretch < self.reach)
      plane = np.where(seen[:, None], rays[:, :2] * stretch[:, None], np.nan)
    return self._bend(plane)

  def undistort(self, points: ArrayLike) -> np.ndarray:
    """Image coordinates [N, 2] -> unit rays [N, 3], float64.

    NaN for a point where no ray inside the lens's reach arrives.
    """
    points = np.asarray(points, np.float64)
    plane = self._unbend(points)
    radius = np.hypot(plane[:, 0], plane[:, 1])
    plane[~(radius < self.reach)] = np.nan
    if not self._is_fisheye:
      rays = np.concatenate([plane, np.ones_like(plane[:, :1])], 1)
      return rays / np.linalg.norm(rays, axis=1, keepdims=True)
    side = np.sinc(radius / np.pi)[:, None] * plane
    return np.concatenate([side, np.cos(radius)[:, None]], 1)

  @functools.cached_property
  def reach(self) -> float:
    """Largest plane radius up to which the radial part grows.

    Beyond it the polynomial turns back and would show the rim twice.
    """
    end = np.pi if self._is_fisheye else 20.0  # 20: 87 degrees off the axis
    radius = np.linspace(0, end, 20_001)
    with np.errstate(all='ignore'):
      grown = radius * self._radial(radius**2)
      turned = np.flatnonzero(~(np.diff(grown) > 0))
    return float(radius[turned[0]] if turned.size else end)

  def _radial(self, r2):
    """Radial factor at squared plane radius r2."""
    k = self.coefficients
    if self.model == 'kannala_brandt':
      return 1 + r2 * (k[0] + r2 * (k[1] + r2 * (k[2] + r2 * k[3])))
    if self.model == 'thin_prism_fisheye':
      return 1 + r2 * (k[0] + r2 * (k[1] + r2 * (k[4] + r2 * k[5])))
    k = (*k, *(0.0,) * (8 - len(k)))
    above = 1 + r2 * (k[0] + r2 * (k[1] + r2 * k[4]))
    return above / (1 + r2 * (k[5] + r2 * (k[6] + r2 * k[7])))

  def _bend(self, plane):
    """The forward map of the model's plane, [N, 2] -> [N, 2]."""
    if self.model == 'pinhole':
      return plane
    x, y = plane[:, 0], plane[:, 1]
    r2 = x * x + y * y
    bent = plane * self._radial(r2)[:, None]
    if self.model == 'kannala_brandt':
      return bent
    _, _, p1, p2, *rest = self.coefficients
    bent[:, 0] += 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    bent[:, 1] += p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    if self.model == 'thin_prism_fisheye':
      return bent + r2[:, None] * np.array(rest[2:])
    if len(rest) == 8:
      s1, s2, s3, s4 = rest[4:]
      bent[:, 0] += r2 * (s1 + r2 * s2)
      bent[:, 1] += r2 * (s3 + r2 * s4)
    return bent

  def _unbend(self, points):
    """Newton's method on `_bend` with a numerical Jacobian."""
    plane = np.array(points)
    if self.model == 'pinhole':
      return plane
    radius = np.linalg.norm(plane, axis=1, keepdims=True)
    # A start inside the monotone part, from where Newton does not leave it.
    limit = 0.98 * self.reach
    plane *= np.minimum(1, limit / np.maximum(radius, 1e-12))
    for _ in range(_NEWTON_STEPS):
      plane = plane - self._newton_step(plane, points)
      radius = np.linalg.norm(plane, axis=1, keepdims=True)
      plane *= np.minimum(1, self.reach / np.maximum(radius, 1e-12))
    off = np.abs(self._bend(plane) - points).max(1)
    plane[~(off < _TOLERANCE)] = np.nan
    return plane

  def _newton_step(self, plane, points):
    h = 1e-6
    dx, dy = np.array([h, 0.0]), np.array([0.0, h])
    a, c = ((self._bend(plane + dx) - self._bend(plane - dx)) / (2 * h)).T
    b, d = ((self._bend(plane + dy) - self._bend(plane - dy)) / (2 * h)).T
    ex, ey = (self._bend(plane) - points).T
    determinant = a * d - b * c
    determinant = np.where(np.abs(determinant) < 1e-9, 1e-9, determinant)
    step = np.stack([d * ex - b * ey, a * ey - c * ex], 1)
    return step / determinant[:, None]


PINHOLE = Lens()
