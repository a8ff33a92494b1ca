"""InternVL and LLaVA-OneVision against the published processors."""

import math
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import image as images
from data import pack, tiles
from data.frames import Frames
from data.processors.internvl import InternVLFacts, InternVLProcessor, tile_grid
from data.processors.llava import LlavaProcessor
from data.records import BadRecord
from vlm.models import plan

SIZES = [(63, 65), (1, 1), (37, 211), (300, 41), (56, 56), (3, 600), (127, 190)]
TILE = 56
FACTS = InternVLFacts(TILE, side=2)
CANVASES = tuple((64 * h, 64 * w) for h in range(1, 4) for w in range(1, 4))
LAYOUT = plan.Layout(tile=64, side=4, resolutions=CANVASES)


def published_internvl(fewest=1, most=12, tile=TILE):
  from transformers.models.got_ocr2 import image_processing_pil_got_ocr2

  return image_processing_pil_got_ocr2.GotOcr2ImageProcessorPil(
    size={'height': tile, 'width': tile},
    crop_to_patches=True,
    min_patches=fewest,
    max_patches=most,
  )


def check_images(ours, theirs, facts=FACTS):
  prepared = InternVLProcessor(facts).prepare(ours)
  want = published_internvl(facts.fewest, facts.most)(
    theirs, do_rescale=False, do_normalize=False, return_tensors='np'
  )
  pixels = np.moveaxis(want['pixel_values'], 1, -1)
  assert prepared.pixels.dtype == np.uint8
  np.testing.assert_array_equal(prepared.pixels, pixels)
  counts = [e.counts for e in prepared.expansions]
  assert counts == [(n * facts.side**2,) for n in want['num_patches']]
  assert len(prepared.plan['index']) == sum(want['num_patches']) * 4
  return prepared


@pytest.mark.parity
@pytest.mark.parametrize('size', SIZES)
def test_tiles_equal_the_published_processor(size, picture):
  check_images([picture(*size)], [picture(*size)])


@pytest.mark.parity
def test_tiles_of_several_images_equal_the_published_processor(picture):
  sources = [picture(*size, seed=n) for n, size in enumerate(SIZES)]
  check_images(sources, sources, InternVLFacts(TILE, 2, fewest=2, most=5))


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_tiles_of_odd_pictures_equal_the_published_processor(
  odd_pictures, upright
):
  for encoded in odd_pictures.values():
    check_images([encoded], [upright(encoded)])


@pytest.mark.parity
@settings(max_examples=60, deadline=None, derandomize=True)
@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_tiles_of_any_size_equal_the_published_processor(
  picture, height, width
):
  check_images([picture(height, width)], [picture(height, width)])


@pytest.mark.parity
@settings(max_examples=500, deadline=None, derandomize=True)
@given(
  height=st.integers(1, 6000),
  width=st.integers(1, 6000),
  fewest=st.integers(1, 6),
  more=st.integers(0, 12),
)
def test_grids_equal_the_published_rule(height, width, fewest, more):
  from transformers.models.got_ocr2 import image_processing_pil_got_ocr2

  columns, rows = image_processing_pil_got_ocr2.get_optimal_tiled_canvas(
    (height, width), (448, 448), fewest, fewest + more
  )
  facts = InternVLFacts(fewest=fewest, most=fewest + more)
  assert tile_grid(height, width, facts) == (rows, columns)


@pytest.mark.parametrize(
  'size, tiles',
  [((256, 256), 1), ((512, 512), 1), ((640, 640), 5), ((768, 768), 5),
   ((950, 950), 5), ((951, 951), 10), ((1024, 1024), 10), ((768, 1024), 13)],
)  # fmt: skip
def test_tile_counts_of_common_sizes(size, tiles):
  count = math.prod(tile_grid(*size, InternVLFacts()))
  assert count + (count > 1) == tiles


def test_the_plan_places_tokens_on_the_canvas(picture):
  """Loops over views, tiles and tokens; a thumbnail is a view of its own."""
  prepared = InternVLProcessor(FACTS).prepare(
    [picture(50, 100), picture(90, 90)]
  )
  want, view = [], 0
  for size in ((50, 100), (90, 90)):
    rows, columns = tile_grid(*size, FACTS)
    views = [(rows, columns)] + [(1, 1)] * (rows * columns > 1)
    for rows, columns in views:
      for down in range(rows):
        for across in range(columns):
          for h in range(2):
            for w in range(2):
              want.append((view, 2 * down + h, 2 * across + w))
      view += 1
  np.testing.assert_array_equal(prepared.plan['grid'], want)
  index = prepared.plan['index'][:, 0]
  np.testing.assert_array_equal(index, np.arange(4 * len(prepared.pixels)))
  assert (prepared.plan['weight'] == 1).all()


def test_internvl_fits_the_row_of_a_batch(picture):
  prepared = InternVLProcessor(FACTS).prepare([picture(50, 100)])
  count = sum(prepared.expansions[0].counts)
  processor = InternVLProcessor(FACTS)
  spec = processor.row(5, seq_len=20, visual=20, placeholders=(7,))
  text = {'tokens': np.full(count, 7), 'loss_mask': np.zeros(count)}
  visual = {'pixels': prepared.pixels, 'plan': prepared.plan}
  row = pack.pad_sample(text | visual, spec)
  assert row['plan']['valid'].sum() == count


@pytest.mark.parity
def test_prompts_of_internvl_equal_the_published_ones(picture, written):
  from transformers.models.internvl import processing_internvl

  theirs = types.SimpleNamespace(
    start_image_token='<img>', end_image_token='</img>',
    image_token='<IMG_CONTEXT>', image_seq_length=4,
  )  # fmt: skip
  video = [picture(40, 70, seed=n) for n in range(3)]
  prepared = InternVLProcessor(FACTS).prepare([picture(50, 100), video])
  still, clip = prepared.expansions
  published = processing_internvl.InternVLProcessor
  want = published.replace_image_token(theirs, {'num_patches': [3]}, 0)
  assert written(still, '<IMG_CONTEXT>') == want
  assert still.replaces == '<IMG_CONTEXT>'
  frames = {'pixel_values_videos': [np.zeros((3, 1))]}
  want = published.replace_video_token(theirs, frames, 0)
  assert written(clip, '<IMG_CONTEXT>') == want
  assert clip.replaces == '<video>'
  frames = np.concatenate([images.fit_square(f, TILE) for f in video])
  np.testing.assert_array_equal(prepared.pixels[3:], frames)


def test_llava_is_the_row_it_always_was(picture):
  items = [picture(70, 150), [picture(30, 40, seed=n) for n in range(3)]]
  prepared = LlavaProcessor(LAYOUT).prepare(items)
  row = images.prepare_row(items, LAYOUT)
  laid = plan.plan_row(LAYOUT, row.visuals)
  np.testing.assert_array_equal(prepared.pixels, row.tiles)
  for key, value in tiles.plan_fields(laid).items():
    np.testing.assert_array_equal(prepared.plan[key], value)
  texts = [(e.replaces, e.text, e.spans) for e in prepared.expansions]
  still, clip = laid.spans
  assert texts == [
    ('<image>', '<image>', (still,)),
    ('<video>', '<video>', (clip,)),
  ]


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_llava_opens_odd_pictures_as_published(odd_pictures, upright):
  from transformers.models.llava_onevision import (
    image_processing_pil_llava_onevision as module,
  )

  processor = module.LlavaOnevisionImageProcessorPil(
    size={'height': 64, 'width': 64},
    image_grid_pinpoints=[list(canvas) for canvas in CANVASES],
    image_mean=[0.5] * 3,
    image_std=[0.5] * 3,
  )
  for encoded in odd_pictures.values():
    want = processor(
      upright(encoded),
      do_rescale=False,
      do_normalize=False,
      return_tensors='np',
    )
    pixels = np.moveaxis(want['pixel_values'][0], 1, -1)
    got = LlavaProcessor(LAYOUT).prepare([encoded])
    np.testing.assert_array_equal(got.pixels, pixels)


@pytest.mark.parametrize(
  'processor', [InternVLProcessor(FACTS), LlavaProcessor(LAYOUT)]
)
def test_frames_are_tiles_and_empty_rows_are_empty(processor, picture):
  tile = processor.prepare([]).pixels.shape[1]
  video = Frames((picture(40, 70), picture(40, 70)), (0.0, 0.5), 2.0)
  prepared = processor.prepare([video])
  assert prepared.pixels.shape == (2, tile, tile, 3)
  assert processor.frame_size(2, 40, 70) == (tile, tile)
  empty = processor.prepare([])
  assert len(empty.pixels) == len(empty.plan['index']) == 0
  with pytest.raises(BadRecord, match='a video of 0 frames'):
    processor.prepare([[]])
  with pytest.raises(BadRecord, match='missing image'):
    processor.prepare(['nowhere.png'])
