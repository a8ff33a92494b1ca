"""Pictures of every kind, and what the published processors make of them."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps


def _draw(height, width, seed=0, channels=3):
  """Smooth colours plus noise, so that resampling has something to do."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width][..., None]
  wave = np.sin(x / 7 + np.arange(channels)) + np.cos(y / 11)
  noise = rng.normal(size=(height, width, channels)) / 3
  return np.clip(128 + 60 * (wave + noise), 0, 255).astype(np.uint8)


def _encode(image, format='PNG', **options):
  buffer = io.BytesIO()
  image.save(buffer, format, **options)
  return buffer.getvalue()


@pytest.fixture(scope='session')
def picture():
  """(height, width, seed) -> an RGB Pillow image."""
  return lambda *size, seed=0: Image.fromarray(_draw(*size, seed=seed))


@pytest.fixture(scope='session')
def odd_pictures():
  """Encoded images of unusual kinds, by name."""
  rgb, rgba = _draw(61, 83), _draw(61, 83, channels=4)
  exif = Image.Exif()
  exif[0x0112] = 6
  frames = [Image.fromarray(_draw(40, 50, seed=n)) for n in range(3)]
  animated = dict(save_all=True, append_images=frames[1:], duration=80)
  return {
    'rgb': _encode(Image.fromarray(rgb)),
    'grey': _encode(Image.fromarray(rgb[..., 0])),
    'grey with alpha': _encode(Image.fromarray(rgba).convert('LA')),
    'alpha': _encode(Image.fromarray(rgba)),
    'palette': _encode(Image.fromarray(rgb).quantize(16)),
    'bilevel': _encode(Image.fromarray(rgb).convert('1')),
    'cmyk': _encode(Image.fromarray(rgb).convert('CMYK'), 'JPEG'),
    'turned by EXIF': _encode(Image.fromarray(rgb), 'JPEG', exif=exif),
    'one pixel': _encode(Image.fromarray(rgb[:1, :1])),
    'animated GIF': _encode(frames[0], 'GIF', **animated),
    'animated WebP': _encode(frames[0], 'WEBP', lossless=True, **animated),
    'animated PNG': _encode(frames[0], 'PNG', **animated),
  }


@pytest.fixture(scope='session')
def upright():
  """Encoded bytes -> what a published processor is given: an upright image."""
  return lambda encoded: ImageOps.exif_transpose(
    Image.open(io.BytesIO(encoded))
  )


@pytest.fixture(scope='session')
def written():
  """(expansion, placeholder) -> the text with all its placeholders."""

  def write(expansion, placeholder):
    first, *rest = expansion.text.split(placeholder)
    parts = zip(expansion.counts, rest, strict=True)
    return first + ''.join(placeholder * n + text for n, text in parts)

  return write
