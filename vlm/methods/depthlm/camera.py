"""Focal normalisation, crops, and where a pixel goes (DepthLM, section 3).

At one focal length f a metre at depth z spans f / z pixels whatever the camera
was, so apparent size maps to distance by a single law.

Pixels. Coordinates are continuous, pixel i covers [i, i + 1), and the pixel
(x, y) of a label means its centre (x + 0.5, y + 0.5); the renderer shoots its
rays through the same points. A resize by s multiplies coordinates and
intrinsics by s and adds nothing. Hence
  'aniso' (ours):    the centre's image decides, x' = floor(s (x + 0.5)), and
                     the resize resamples an exact source box, so that the
                     focal length is exactly f although sizes are integers;
  'iso' (released):  x' = int(s x), the image of the pixel's left edge, at most
                     one pixel away for s < 2, and the whole image is stretched
                     to int(s W) x int(s H) while K is multiplied by s.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

FOCAL_MODES = ('aniso', 'iso', 'none')


class Intrinsics(NamedTuple):
  """Pinhole camera in pixels, in the order of the published row format."""

  fx: float | int
  fy: float | int
  cx: float | int
  cy: float | int
  width: int
  height: int

  def rays(self, pixels: ArrayLike) -> np.ndarray:
    """|ray| / z of pixels [N, 2]: sqrt(1 + xn^2 + yn^2), [N] float64."""
    pixels = np.asarray(pixels, np.float64)
    xn = (pixels[:, 0] + 0.5 - self.cx) / self.fx
    yn = (pixels[:, 1] + 0.5 - self.cy) / self.fy
    return np.sqrt(1 + xn**2 + yn**2)


def repaired(intrinsics) -> Intrinsics:
  """Intrinsics from a row's list; a focal length of 0 takes the other's value.

  Raises:
    ValueError: when there are not six finite numbers, or no positive focal
      length or size.
  """
  if len(intrinsics) != 6 or not np.all(np.isfinite(intrinsics)):
    raise ValueError(
      'intrinsics must be six finite numbers [fx, fy, cx, cy, W, H], got '
      f'{list(intrinsics)}'
    )
  fx, fy, cx, cy, width, height = intrinsics
  fx, fy = fx or fy, fy or fx
  if min(fx, fy, width, height) <= 0:
    raise ValueError(
      'focal lengths and image size must be positive, got '
      f'fx {fx}, fy {fy}, size {width} x {height}'
    )
  return Intrinsics(fx, fy, cx, cy, int(width), int(height))


def after_resize(intrinsics: Intrinsics, width: int, height: int) -> Intrinsics:
  """The camera of the whole picture stretched to width x height.

  What a processor's rounding to multiples of its patch does: with it fx and fy
  may end up 2 % off the common focal length, and apart; see
  `SampleSettings.multiple`.
  """
  fx, fy, cx, cy, old_width, old_height = intrinsics
  sx, sy = width / old_width, height / old_height
  return Intrinsics(fx * sx, fy * sy, cx * sx, cy * sy, width, height)


def z_to_range(z, pixels, intrinsics: Intrinsics) -> np.ndarray:
  """Depth along the axis -> distance to the camera centre, metres [N]."""
  return np.asarray(z, np.float64) * intrinsics.rays(pixels)


def range_to_z(distance, pixels, intrinsics: Intrinsics) -> np.ndarray:
  """Distance to the camera centre -> depth along the axis, metres [N]."""
  return np.asarray(distance, np.float64) / intrinsics.rays(pixels)


@dataclasses.dataclass(frozen=True)
class Geometry:
  """A rescale followed by a crop or pad, fixed before any pixel is touched.

  Attributes:
    source: camera of the incoming image.
    target: camera of the outgoing image.
    scale: (sx, sy).
    resized: (W', H') between the rescale and the crop.
    offset: (x, y) of the outgoing image in the resized one; negative pads.
    mode: one of `FOCAL_MODES`.
    shown: (left, top, right, bottom) of what no cut has taken away, in the
      resized image; a pad behind a cut does not bring it back.
  """

  source: Intrinsics
  target: Intrinsics
  scale: tuple[float, float]
  resized: tuple[int, int]
  offset: tuple[int, int]
  mode: str
  shown: tuple[int, int, int, int]

  def map_pixels(self, pixels: ArrayLike) -> np.ndarray:
    """Integer source pixels [N, 2] -> integer target pixels [N, 2].

    A result may lie outside the target image.
    """
    pixels = np.asarray(pixels, np.float64)
    if self.mode == 'iso':
      moved = np.trunc(pixels * self.scale)
    else:
      moved = np.floor((pixels + 0.5) * self.scale)
    return (moved - self.offset).astype(np.int64)

  def shows(self, pixels: ArrayLike) -> np.ndarray:
    """[N] bool: target pixels [N, 2] that show something of the source."""
    places = np.asarray(pixels) + self.offset
    low, high = self.shown[:2], self.shown[2:]
    return ((places >= low) & (places < high)).all(-1)

  def apply(self, image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [target H, target W, 3], zeros where padded."""
    height, width = image.shape[:2]
    if (width, height) != self.source[4:]:
      raise ValueError(
        f'image is {width} x {height} but its intrinsics say '
        f'{self.source.width} x {self.source.height}'
      )
    left, top, right, bottom = self.shown
    part = self._resize(image)[top:bottom, left:right]
    offset = (self.offset[0] - left, self.offset[1] - top)
    return _window(part, offset, self.target[4:])

  def _resize(self, image):
    if self.mode == 'none':
      return image
    box = None
    if self.mode == 'aniso':
      span = (r / s for r, s in zip(self.resized, self.scale))
      box = (0, 0, *(min(b, n) for b, n in zip(span, self.source[4:])))
    # Pillow's default for RGB: bicubic with antialiasing, as released.
    picture = Image.fromarray(image).resize(
      self.resized, Image.Resampling.BICUBIC, box=box
    )
    return np.asarray(picture)

  def crop(self, width: int, height: int, place=None) -> 'Geometry':
    """Cuts or zero-pads to width x height.

    Args:
      width: of the new target, pixels.
      height: of the new target, pixels.
      place: (x, y) of the cut in the present target; None is the centre,
        which is also how padding is shared out.
    """
    fx, fy, cx, cy, *size = self.target
    x, y = place or [_centred(n, m) for n, m in zip(size, (width, height))]
    offset = (self.offset[0] + x, self.offset[1] + y)
    return dataclasses.replace(
      self,
      target=Intrinsics(fx, fy, cx - x, cy - y, width, height),
      offset=offset,
      shown=_overlap(
        self.shown, (*offset, offset[0] + width, offset[1] + height)
      ),
    )

  def stretch(self, height: int) -> 'Geometry':
    """Stretches the whole picture to another height; fy and cy follow.

    Raises:
      ValueError: after a crop, or when nothing would be left.
    """
    if self.offset != (0, 0) or self.target[4:] != self.resized:
      raise ValueError('stretch comes before every crop')
    if height < 1:
      raise ValueError(f'a stretch to {height} rows leaves nothing')
    ratio = height / self.resized[1]
    fx, fy, cx, cy, width, _ = self.target
    mode = 'aniso' if self.mode == 'none' else self.mode
    return dataclasses.replace(
      self,
      target=Intrinsics(fx, fy * ratio, cx, cy * ratio, width, height),
      scale=(self.scale[0], self.scale[1] * ratio),
      resized=(width, height),
      mode=mode,
      shown=(0, 0, width, height),
    )


def _overlap(first, second):
  """Of two (left, top, right, bottom); empty where they are apart."""
  left, top = (max(a, b) for a, b in zip(first[:2], second[:2]))
  right, bottom = (min(a, b) for a, b in zip(first[2:], second[2:]))
  return left, top, max(left, right), max(top, bottom)


def _centred(size: int, wanted: int) -> int:
  """Offset of a centred cut; a negative one pads."""
  return (size - wanted) // 2 if size >= wanted else -((wanted - size) // 2)


def _window(image, offset, size):
  (x, y), (width, height) = offset, size
  rows, columns = image.shape[:2]
  if min(x, y) >= 0 and x + width <= columns and y + height <= rows:
    return image[y : y + height, x : x + width]
  out = np.zeros((height, width, 3), np.uint8)
  top, left = max(y, 0), max(x, 0)
  part = image[top : max(y + height, 0), left : max(x + width, 0)]
  out[top - y :, left - x :][: part.shape[0], : part.shape[1]] = part
  return out


def normalise(
  intrinsics: Intrinsics, focal: float | int, mode: str
) -> Geometry:
  """The rescale that brings a camera to `focal` pixels.

  'aniso' scales x by f / fx and y by f / fy (the paper's form), so both focal
  lengths become f; 'iso' scales both by f / fx (the released code's form), so
  fy' = f fy / fx; 'none' leaves the image as it is.

  Raises:
    ValueError: for an unknown mode, or when nothing would be left.
  """
  if mode not in FOCAL_MODES:
    raise ValueError(f'focal_mode must be one of {FOCAL_MODES}, got {mode!r}')
  fx, fy, cx, cy, width, height = intrinsics
  if mode == 'none':
    size = (width, height)
    return Geometry(
      *(intrinsics, intrinsics, (1.0, 1.0), size, (0, 0), mode), (0, 0, *size)
    )
  sx = focal / fx
  sy = focal / fy if mode == 'aniso' else sx
  # A size that is an integer but for rounding keeps its last pixel.
  slack = 1e-6 if mode == 'aniso' else 0.0
  resized = tuple(
    math.floor(n * s + slack) for n, s in ((width, sx), (height, sy))
  )
  if min(resized) < 1:
    raise ValueError(
      f'focal {focal} px shrinks a {width} x {height} image with fx {fx:g}, '
      f'fy {fy:g} to nothing'
    )
  target = Intrinsics(fx * sx, fy * sy, cx * sx, cy * sy, *resized)
  return Geometry(
    *(intrinsics, target, (sx, sy), resized, (0, 0), mode), (0, 0, *resized)
  )
