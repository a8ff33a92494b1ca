"""Image decoding and tiling against the published PIL processors."""

import io

import numpy as np
import pytest
from PIL import Image

from data import image as images
from data.records import BadRecord
from vlm.models import plan

RESOLUTIONS = tuple((64 * h, 64 * w) for h in range(1, 4) for w in range(1, 4))
LAYOUT = plan.Layout(tile=64, side=4, resolutions=RESOLUTIONS)
SIZES = [(63, 65), (1, 1), (37, 211), (300, 41), (64, 64), (127, 190), (3, 60)]


def draw(height, width, seed=0, channels=3):
  """Smooth colours plus noise, so that resampling has something to do."""
  rng = np.random.default_rng(seed)
  y, x = np.mgrid[:height, :width][..., None]
  wave = np.sin(x / 7 + np.arange(channels)) + np.cos(y / 11)
  noise = rng.normal(size=(height, width, channels)) / 3
  return np.clip(128 + 60 * (wave + noise), 0, 255).astype(np.uint8)


def encode(array_or_image, format='PNG', **options):
  image = array_or_image
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  buffer = io.BytesIO()
  image.save(buffer, format, **options)
  return buffer.getvalue()


def published_pixels(processor, *args, **options):
  """uint8 pixels [..., h, w, 3] of a processor, before normalisation."""
  out = processor(
    *args, do_rescale=False, do_normalize=False, return_tensors='np', **options
  )
  return np.moveaxis(np.asarray(out['pixel_values']), -3, -1)


def onevision():
  from transformers.models.llava_onevision import (
    image_processing_pil_llava_onevision as module,
  )

  return module.LlavaOnevisionImageProcessorPil(
    size={'height': 64, 'width': 64},
    image_grid_pinpoints=[list(r) for r in RESOLUTIONS],
    image_mean=[0.5, 0.5, 0.5],
    image_std=[0.5, 0.5, 0.5],
  )


@pytest.mark.parity
@pytest.mark.parametrize('size', SIZES)
def test_anyres_equals_published_processor(size):
  source = Image.fromarray(draw(*size))
  got = images.prepare_row([source], LAYOUT)
  want = published_pixels(onevision(), source)[0]
  np.testing.assert_array_equal(got.tiles, want)
  assert got.visuals == (plan.Still(*size),)
  assert len(got.tiles) == plan.count_tiles(LAYOUT, got.visuals)


@pytest.mark.parity
def test_several_images_equal_published_processor():
  sources = [Image.fromarray(draw(*s, seed=i)) for i, s in enumerate(SIZES)]
  got = images.prepare_row(sources, LAYOUT)
  want = published_pixels(onevision(), [sources])
  np.testing.assert_array_equal(got.tiles, want[:, 0])
  assert len(got.tiles) == len(SIZES)


@pytest.mark.parity
@pytest.mark.parametrize('size', SIZES)
def test_siglip_and_clip_equal_published_processors(size):
  from transformers.models.clip.image_processing_pil_clip import (
    CLIPImageProcessorPil,
  )
  from transformers.models.siglip.image_processing_pil_siglip import (
    SiglipImageProcessorPil,
  )

  source = Image.fromarray(draw(*size))
  square = SiglipImageProcessorPil(size={'height': 64, 'width': 64})
  np.testing.assert_array_equal(
    images.fit_square(source, 64), published_pixels(square, source)
  )
  crop = CLIPImageProcessorPil(
    size={'shortest_edge': 48}, crop_size={'height': 48, 'width': 48}
  )
  np.testing.assert_array_equal(
    images.centre_crop(source, 48), published_pixels(crop, source)
  )


@pytest.mark.parity
def test_normalising_on_device_equals_the_host():
  """(x / 255 - mean) / std in float32, for all 256 values: at most 2 ulp."""
  import jax.numpy as jnp
  from transformers.models.clip.image_processing_pil_clip import (
    CLIPImageProcessorPil,
  )

  ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
  ramp = np.stack([ramp] * 3, -1)
  processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
  want = processor(ramp, return_tensors='np')['pixel_values'][0]
  mean, std = (
    jnp.asarray(v, jnp.float32)
    for v in (processor.image_mean, processor.image_std)
  )
  got = (jnp.asarray(ramp).astype(jnp.float32) / 255 - mean) / std
  np.testing.assert_allclose(
    np.moveaxis(np.asarray(got), -1, 0), want, atol=5e-7, rtol=0
  )


def test_exif_orientation_is_applied():
  array = draw(20, 30)
  exif = Image.Exif()
  exif[0x0112] = 6  # the camera was turned: rotate clockwise to view
  opened = images.open_image(encode(array, exif=exif))
  assert opened.size == (20, 30)
  np.testing.assert_array_equal(np.asarray(opened), np.rot90(array, -1))


def test_grey_palette_and_cmyk_become_rgb():
  grey = draw(9, 7)[..., 0]
  want = np.repeat(grey[..., None], 3, -1)
  np.testing.assert_array_equal(images.open_image(encode(grey)), want)
  np.testing.assert_array_equal(images.open_image(grey), want)
  cmyk = Image.new('CMYK', (4, 4), (0, 255, 255, 0))
  opened = np.asarray(images.open_image(encode(cmyk, 'TIFF')))
  assert (opened == [255, 0, 0]).all()
  palette = Image.fromarray(draw(9, 7)).quantize(8)
  np.testing.assert_array_equal(
    images.open_image(encode(palette)), np.asarray(palette.convert('RGB'))
  )


def test_sixteen_bit_grey_is_scaled_not_clipped():
  deep = (np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)
  opened = np.asarray(images.open_image(encode(deep)))
  np.testing.assert_array_equal(opened[..., 0], deep >> 8)


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    (np.linspace(0, 1, 16, dtype=np.float32), 'float values from 0 to 1'),
    (np.arange(16, dtype=np.int32) - 3, 'integer values from -3 to 12'),
  ],
)
def test_values_without_a_white_are_refused_not_clipped(values, message):
  encoded = encode(values.reshape(4, 4), 'TIFF')
  with pytest.raises(BadRecord, match=f'wrong type: .*32-bit {message}'):
    images.open_image(encoded)


@pytest.mark.parity
def test_transparency_lies_over_white_like_published():
  from transformers.image_transforms import convert_to_rgb

  rgba = Image.fromarray(draw(12, 10, channels=4), 'RGBA')
  opened = images.open_image(encode(rgba))
  np.testing.assert_array_equal(opened, convert_to_rgb(rgba, return_numpy=True))
  clear = Image.new('RGBA', (3, 3), (200, 10, 10, 0))
  assert (np.asarray(images.open_image(encode(clear))) == 255).all()


@pytest.mark.parametrize('format', ['PNG', 'JPEG', 'WEBP', 'GIF', 'BMP'])
def test_every_truncation_is_a_bad_record(format):
  encoded = encode(draw(24, 31), format)
  for cut in range(0, len(encoded) - 16, max(1, len(encoded) // 60)):
    with pytest.raises(BadRecord) as info:
      images.open_image(encoded[:cut])
    assert info.value.reason == 'corrupt image'


@pytest.mark.filterwarnings('ignore::UserWarning')
def test_flipped_bytes_give_an_image_or_a_bad_record():
  rng = np.random.default_rng(3)
  outcomes = set()
  for format in ('PNG', 'JPEG', 'GIF', 'TIFF', 'WEBP'):
    encoded = encode(draw(24, 31), format)
    for _ in range(60):
      damaged = np.frombuffer(encoded, np.uint8).copy()
      places = rng.integers(0, len(damaged), 4)
      damaged[places] = rng.integers(0, 256, 4)
      try:
        outcomes.add(images.open_image(damaged.tobytes()).mode)
      except BadRecord as error:
        outcomes.add(error.reason)
  assert outcomes == {'RGB', 'corrupt image'}


def test_bombs_and_wrong_sources_are_named(tmp_path, monkeypatch):
  with pytest.raises(BadRecord, match='missing image: .*nowhere.png'):
    images.open_image(tmp_path / 'nowhere.png')
  with pytest.raises(BadRecord, match='missing image'):
    images.open_image(tmp_path)
  with pytest.raises(BadRecord, match='wrong type'):
    images.open_image(7)
  with pytest.raises(BadRecord, match='float32'):
    images.open_image(np.zeros((4, 4, 3), np.float32))
  (tmp_path / 'void.png').write_bytes(b'')
  with pytest.raises(BadRecord, match='void.png: empty'):
    images.open_image(tmp_path / 'void.png')
  monkeypatch.setattr(images, 'MAX_PIXELS', 99)
  with pytest.raises(BadRecord, match='10 x 10 pixels, at most 99'):
    images.open_image(encode(draw(10, 10)))


def test_damage_found_late_and_thin_images_are_named():
  encoded = encode(draw(60, 60))
  late = Image.open(io.BytesIO(encoded[: len(encoded) // 2]))
  with pytest.raises(BadRecord, match='corrupt image: a PIL image'):
    images.open_image(late)
  with pytest.raises(BadRecord, match='1 x 900 pixels is too thin'):
    images.prepare_row([Image.fromarray(draw(1, 900))], LAYOUT)


def test_a_decompression_bomb_is_refused_before_decoding():
  header = encode(Image.new('1', (16, 16)))
  width = (60_000).to_bytes(4, 'big')
  import zlib

  chunk = b'IHDR' + width + width + header[24:29]
  bomb = header[:12] + chunk + zlib.crc32(chunk).to_bytes(4, 'big')
  with pytest.raises(BadRecord, match='corrupt image'):
    images.open_image(bomb + header[33:])
