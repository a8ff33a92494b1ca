"""From an image file to the uint8 tiles a vision tower sees.

One path for training and evaluation, equal to the pixel to the PIL processors
of `transformers` (their torchvision twins differ slightly). Tiles stay uint8:
a device gets a quarter of the bytes and normalises them itself.
"""

import dataclasses
import io
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image, ImageOps, UnidentifiedImageError

from data.records import BadRecord
from vlm.models import plan

# Of files that are taken for pictures where a folder is read.
SUFFIXES = (
  *('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.gif'),
  *('.tif', '.tiff', '.ppm'),
)

# Above this, a file of a few kB can ask for gigabytes of memory.
MAX_PIXELS = 100_000_000

# What Pillow raises on damaged files, apart from its own subclasses of OSError.
DAMAGE = (
  OSError,
  SyntaxError,
  ValueError,
  TypeError,
  IndexError,
  EOFError,
  OverflowError,
  struct.error,
  zlib.error,
  Image.DecompressionBombError,
)


def open_image(source: Any) -> Image.Image:
  """Opens an image as upright 8-bit RGB.

  The EXIF orientation is applied; transparency is laid over white; 16-bit grey
  is scaled to 8 bits (Pillow's own conversion would clip it to white); of an
  animation the first frame is taken. Floats and 32-bit integers are refused:
  nothing says which value is white.

  Args:
    source: path (local or gs://), encoded bytes, uint8 array [h, w, 3] or
      [h, w], or a `PIL.Image.Image`.

  Raises:
    BadRecord: 'missing image', 'corrupt image' (unreadable, cut short, empty,
      or more than `MAX_PIXELS` pixels) or 'wrong type' (also for floats).
  """
  if isinstance(source, np.ndarray):
    return _from_array(source)
  if isinstance(source, Image.Image):
    image, name = source, 'a PIL image'
  else:
    encoded, name = source, 'encoded bytes'
    if not isinstance(source, bytes):
      encoded, name = _read_bytes(source), str(source)
    if not encoded:
      raise BadRecord('corrupt image', f'{name}: empty')
    image = io.BytesIO(encoded)
  try:
    if isinstance(image, Image.Image):
      return _decode(image, name)
    with Image.open(image) as opened:
      return _decode(opened, name)
  except BadRecord:
    raise
  except UnidentifiedImageError as error:
    # Pillow names the object in memory, which differs from run to run.
    raise BadRecord('corrupt image', f'{name}: no known format') from error
  except DAMAGE as error:
    raise BadRecord('corrupt image', f'{name}: {error}') from error


def fit_square(image: Image.Image, side: int) -> np.ndarray:
  """Resizes to a square, whatever the aspect ratio (SigLIP).

  Returns:
    uint8 [1, side, side, 3].
  """
  return np.asarray(_resize(image, side, side))[None]


def centre_crop(
  image: Image.Image, side: int, edge: int | None = None
) -> np.ndarray:
  """Resizes the shorter edge and crops the middle (CLIP, DINOv2).

  Args:
    image: upright RGB.
    side: of the crop, pixels.
    edge: of the shorter edge before the crop, at least `side`, its default.

  Returns:
    uint8 [1, side, side, 3].
  """
  width, height = image.size
  edge = edge or side
  longer = int(edge * max(width, height) / min(width, height))
  width, height = (edge, longer) if width <= height else (longer, edge)
  left, top = (width - side) // 2, (height - side) // 2
  pixels = np.asarray(_resize(image, height, width))
  return pixels[None, top : top + side, left : left + side]


def pad_square(
  image: Image.Image, side: int, background: tuple[int, int, int]
) -> np.ndarray:
  """Pads to a square with a colour, then resizes (one of several images).

  Returns:
    uint8 [1, side, side, 3].
  """
  longest = max(image.size)
  square = Image.new('RGB', (longest, longest), background)
  left, top = ((longest - edge) // 2 for edge in image.size)
  square.paste(image, (left, top))
  return fit_square(square, side)


def anyres_tiles(image: Image.Image, layout: plan.Layout) -> np.ndarray:
  """The base view, then the tiles of the best canvas, row by row.

  Returns:
    uint8 [1 + rows * columns, tile, tile, 3]; the unused border is black.

  Raises:
    BadRecord: the image is too thin for every canvas.
  """
  tile = layout.tile
  try:
    height, width = plan.best_resolution(
      image.height, image.width, layout.resolutions
    )
  except ValueError as error:
    raise BadRecord('corrupt image', str(error)) from error
  across, down = width / image.width, height / image.height
  if across < down:
    fitted = min(math.ceil(image.height * across), height), width
  else:
    fitted = height, min(math.ceil(image.width * down), width)
  canvas = np.zeros((height, width, 3), np.uint8)
  top, left = (height - fitted[0]) // 2, (width - fitted[1]) // 2
  pixels = np.asarray(_resize(image, *fitted))
  canvas[top : top + fitted[0], left : left + fitted[1]] = pixels
  tiles = canvas.reshape(height // tile, tile, width // tile, tile, 3)
  tiles = tiles.transpose(0, 2, 1, 3, 4).reshape(-1, tile, tile, 3)
  return np.concatenate([fit_square(image, tile), tiles])


@dataclasses.dataclass(frozen=True)
class VisualInput:
  """What a row shows, ready for a tower and a plan.

  Attributes:
    tiles: uint8 [I, tile, tile, 3], in the order of the visuals.
    visuals: what each was, for `plan.plan_row`.
  """

  tiles: np.ndarray
  visuals: tuple[plan.Visual, ...]


def prepare_row(
  items: Sequence[Image.Image | Sequence[Image.Image]],
  layout: plan.Layout,
  background: tuple[int, int, int] = (127, 127, 127),
) -> VisualInput:
  """Tiles of all images and videos of a row, in the order of its prompt.

  Args:
    items: an image, or a sequence of frames for a video.
    layout: the checkpoint's layout.
    background: colour around one of several images: the image mean times 255,
      rounded down.

  Raises:
    BadRecord: an image too thin for every canvas.
  """
  visuals = tuple(
    plan.Still(item.height, item.width)
    if isinstance(item, Image.Image)
    else plan.Clip(len(item))
    for item in items
  )
  single = plan.has_single_view(layout, visuals)
  tiles = [np.zeros((0, layout.tile, layout.tile, 3), np.uint8)]
  for item in items:
    if not isinstance(item, Image.Image):
      tiles += [fit_square(frame, layout.tile) for frame in item]
    elif single:
      tiles.append(pad_square(item, layout.tile, background))
    else:
      tiles.append(anyres_tiles(item, layout))
  return VisualInput(np.concatenate(tiles), visuals)


def _resize(image: Image.Image, height: int, width: int) -> Image.Image:
  return image.resize((width, height), Image.Resampling.BICUBIC)


def _from_array(pixels: np.ndarray) -> Image.Image:
  shape = pixels.shape
  if (
    pixels.dtype != np.uint8
    or len(shape) not in (2, 3)
    or (len(shape) == 3 and shape[2] != 3)
  ):
    raise BadRecord(
      'wrong type',
      f'image array is {pixels.dtype} {list(shape)}, expected uint8 [h, w, 3] '
      'or [h, w]',
    )
  return Image.fromarray(pixels).convert('RGB')


def _decode(image: Image.Image, name: str) -> Image.Image:
  if image.width * image.height > MAX_PIXELS:
    raise BadRecord(
      'corrupt image',
      f'{name}: {image.width} x {image.height} pixels, at most {MAX_PIXELS} '
      'are read (data.image.MAX_PIXELS)',
    )
  if image.mode in ('F', 'I'):
    kind = 'float' if image.mode == 'F' else 'integer'
    low, high = image.getextrema()
    raise BadRecord(
      'wrong type',
      f'{name}: 32-bit {kind} values from {low:g} to {high:g}, expected 8 or '
      '16 bits; nothing says which value is white, so scale it before',
    )
  image = ImageOps.exif_transpose(image)
  if image.mode.startswith('I;16'):
    grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
    return Image.fromarray(grey).convert('RGB')
  if 'A' in image.getbands() or 'transparency' in image.info:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, (255, 255, 255, 255))
    image = Image.alpha_composite(white, image)
  return image.convert('RGB')


def _read_bytes(path: Any) -> bytes:
  try:
    return epath.Path(path).read_bytes()
  except TypeError as error:
    raise BadRecord(
      'wrong type', f'image is {type(path).__name__}, expected a path'
    ) from error
  except (FileNotFoundError, IsADirectoryError) as error:
    raise BadRecord('missing image', f'{path} does not exist') from error
