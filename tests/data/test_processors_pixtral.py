"""Pixtral against the published processor."""

import importlib
import sys
import types

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data.processors.pixtral import PixtralFacts, PixtralProcessor, patch_grid
from data.records import BadRecord

FACTS = PixtralFacts(longest=128)
SIZES = [(63, 65), (1, 1), (37, 211), (300, 41), (128, 128), (5, 600), (129, 3)]
PIL = 'transformers.models.pixtral.image_processing_pil_pixtral'


def published(facts):
  return importlib.import_module(PIL).PixtralImageProcessorPil(
    size={'longest_edge': facts.longest},
    patch_size={'height': facts.patch, 'width': facts.patch},
  )


def check_images(ours, theirs, facts=FACTS):
  """Pixels and sizes of a row of images; they pad, we do not."""
  prepared = PixtralProcessor(facts).prepare(ours)
  want = published(facts)(
    theirs, do_rescale=False, do_normalize=False, return_tensors='np'
  )
  patches = []
  for image, (height, width) in zip(want['pixel_values'], want['image_sizes']):
    for row in range(0, height, facts.patch):
      for column in range(0, width, facts.patch):
        patch = image[:, row : row + facts.patch, column : column + facts.patch]
        patches.append(patch.ravel())
  assert prepared.pixels.dtype == np.uint8
  np.testing.assert_array_equal(prepared.pixels, np.stack(patches))
  for expansion, size in zip(prepared.expansions, want['image_sizes']):
    rows, columns = (int(side) // facts.patch for side in size)
    assert expansion.spans == (columns,) * rows
  return prepared


@pytest.mark.parity
@pytest.mark.parametrize('size', SIZES)
def test_an_image_equals_the_published_processor(size, picture):
  check_images([picture(*size)], [picture(*size)])


@pytest.mark.parity
def test_several_images_equal_the_published_processor(picture):
  sources = [picture(*size, seed=n) for n, size in enumerate(SIZES)]
  prepared = check_images(sources, sources)
  assert set(prepared.plan['frame']) == set(range(1, len(SIZES) + 1))
  count = len(prepared.pixels)
  np.testing.assert_array_equal(prepared.plan['token'], np.arange(count))
  np.testing.assert_array_equal(
    prepared.plan['position'], prepared.plan['grid'][:, 1:]
  )


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_odd_pictures_equal_the_published_processor(odd_pictures, upright):
  for encoded in odd_pictures.values():
    check_images([encoded], [upright(encoded)])


@pytest.mark.parity
@settings(max_examples=60, deadline=None, derandomize=True)
@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_any_size_equals_the_published_processor(picture, height, width):
  assume(max(height, width) <= 128 * min(height, width))
  check_images([picture(height, width)], [picture(height, width)])


@pytest.mark.parity
@settings(max_examples=500, deadline=None, derandomize=True)
@given(height=st.integers(1, 9000), width=st.integers(1, 9000))
def test_grids_equal_the_published_rule(height, width):
  rule = importlib.import_module(PIL).get_resize_output_image_size
  blank = np.broadcast_to(np.uint8(0), (3, height, width))
  want = rule(blank, 1024, 16, 'channels_first')
  if 0 in want:
    with pytest.raises(BadRecord, match='too thin'):
      patch_grid(height, width, PixtralFacts())
  else:
    got = patch_grid(height, width, PixtralFacts())
    assert tuple(16 * side for side in got) == want


@pytest.mark.parity
def test_prompts_equal_the_published_ones(picture, written, monkeypatch):
  """The published processor wants torchvision; its text rule does not."""
  name = 'transformers.models.pixtral.image_processing_pixtral'
  stub = types.ModuleType(name)
  stub.get_resize_output_image_size = None
  monkeypatch.setitem(sys.modules, name, stub)
  module = importlib.import_module(
    'transformers.models.pixtral.processing_pixtral'
  )
  theirs = types.SimpleNamespace(
    patch_size=16, spatial_merge_size=1, image_token='[IMG]',
    image_break_token='[IMG_BREAK]', image_end_token='[IMG_END]',
  )  # fmt: skip
  for size, grid in (((60, 90), (64, 96)), ((16, 16), (16, 16))):
    (expansion,) = PixtralProcessor(FACTS).prepare([picture(*size)]).expansions
    replace = module.PixtralProcessor.replace_image_token
    want = replace(theirs, {'image_sizes': [grid]}, 0)
    assert written(expansion, '[IMG]') == want
    assert expansion.replaces == '[IMG]'


def test_videos_and_thin_images_are_refused(picture):
  with pytest.raises(BadRecord, match='a video, expected images'):
    PixtralProcessor(FACTS).prepare([[picture(9, 9)]])
  with pytest.raises(BadRecord, match='too thin: .* it is 0 x 128 pixels'):
    PixtralProcessor(FACTS).prepare([picture(1, 300)])
  assert len(PixtralProcessor(FACTS).prepare([]).pixels) == 0
