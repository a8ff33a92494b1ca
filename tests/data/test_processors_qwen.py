"""Qwen2.5-VL and Qwen3-VL against the published processors."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.processors.qwen2_5_vl import Qwen25VLProcessor
from data.processors.qwen3_vl import PUBLISHED, Qwen3VLProcessor
from data.processors.qwen_vl import Budget, smart_resize
from data.records import BadRecord
from vlm.models import patches
from vlm.models.qwen2_5_vision import Qwen25VisionConfig
from vlm.models.windows import (
  WindowLayout,
  count_tokens,
  count_windows,
  plan_windows,
)

SIZES = [(63, 65), (1, 1), (37, 211), (300, 41), (56, 56), (3, 600), (127, 190)]
CLIP = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
HALF = [0.5] * 3, [0.5] * 3
# Small budgets, so that both ends of them are met by small images.
LOW, HIGH = 56 * 56, 28 * 28 * 40


def image_file(patch, low=LOW, high=HIGH):
  return {
    'patch_size': patch,
    'temporal_patch_size': 2,
    'merge_size': 2,
    'size': {'shortest_edge': low, 'longest_edge': high},
    'image_processor_type': 'Qwen2VLImageProcessor',
  }


def model_file(kind, patch):
  return {
    'model_type': kind,
    'vision_config': {
      'patch_size': patch,
      'spatial_merge_size': 2,
      'temporal_patch_size': 2,
      'tokens_per_second': 2,
      'window_size': 112,
    },
  }


def qwen25(video=None, **sizes):
  image = image_file(14, **sizes)
  return Qwen25VLProcessor.from_hf(
    image, video or image, model_file('qwen2_5_vl', 14)
  )


def qwen3(video=None, **sizes):
  image = image_file(16, **sizes)
  return Qwen3VLProcessor.from_hf(
    image, video or image, model_file('qwen3_vl', 16)
  )


def published_image(processor):
  """The published image processor with our facts."""
  from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
  )

  facts = processor.facts
  mean, std = CLIP if facts.patch == 14 else HALF
  return Qwen2VLImageProcessorPil(
    **image_file(facts.patch, facts.pixels.fewest, facts.pixels.most),
    image_mean=mean,
    image_std=std,
  )


def in_order(processor, prepared, grids):
  """Patches out of their slots, in the published order."""
  source = processor.plan(grids).get('source')
  if source is None:
    return prepared.pixels
  full = source >= 0
  assert not prepared.pixels[~full].any()
  patches = np.zeros((full.sum(), prepared.pixels.shape[1]), np.uint8)
  patches[source[full]] = prepared.pixels[full]
  return patches


def check_images(processor, ours, theirs):
  """Pixels, grids and token counts of a row of images."""
  prepared = processor.prepare(ours)
  want = published_image(processor)(
    theirs, do_rescale=False, do_normalize=False, return_tensors='np'
  )
  grids = [tuple(map(int, grid)) for grid in want['image_grid_thw']]
  patches = in_order(processor, prepared, grids)
  assert prepared.pixels.dtype == np.uint8
  np.testing.assert_array_equal(patches, want['pixel_values'])
  counts = [e.counts for e in prepared.expansions]
  assert counts == [(math.prod(grid) // 4,) for grid in grids]
  assert len(prepared.plan['token']) == sum(c for (c,) in counts)
  assert len(prepared.plan['position']) == len(prepared.pixels)
  return prepared


@pytest.mark.parity
@pytest.mark.parametrize('make', [qwen25, qwen3])
@pytest.mark.parametrize('size', SIZES)
def test_an_image_equals_the_published_processor(make, size, picture):
  source = picture(*size)
  check_images(make(), [source], [source])


@pytest.mark.parity
@pytest.mark.parametrize('make', [qwen25, qwen3])
def test_several_images_equal_the_published_processor(make, picture):
  sources = [picture(*size, seed=n) for n, size in enumerate(SIZES)]
  prepared = check_images(make(), sources, sources)
  frame = prepared.plan['frame']
  assert set(frame) - {0} == set(range(1, len(SIZES) + 1))


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_odd_pictures_equal_the_published_processor(odd_pictures, upright):
  for encoded in odd_pictures.values():
    check_images(qwen25(), [encoded], [upright(encoded)])


@pytest.mark.parity
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
  height=st.integers(1, 260), width=st.integers(1, 260), third=st.booleans()
)
def test_any_size_equals_the_published_processor(picture, height, width, third):
  make = qwen3 if third else qwen25
  if max(height, width) > 200 * min(height, width):
    with pytest.raises(BadRecord, match='too thin'):
      make().prepare([picture(height, width)])
  else:
    check_images(make(), [picture(height, width)], [picture(height, width)])


@pytest.mark.parity
@settings(max_examples=500, deadline=None, derandomize=True)
@given(
  height=st.integers(1, 9000),
  width=st.integers(1, 9000),
  factor=st.sampled_from([28, 32]),
  low=st.integers(1, 100_000),
  span=st.integers(0, 10**7),
)
def test_sizes_equal_the_published_rule(height, width, factor, low, span):
  from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl

  rule = image_processing_pil_qwen2_vl.smart_resize
  args = height, width, factor
  if max(height, width) > 200 * min(height, width):
    with pytest.raises(ValueError):
      rule(*args, low, low + span)
    with pytest.raises(BadRecord):
      smart_resize(*args, Budget(low, low + span))
  else:
    want = rule(*args, low, low + span)
    assert smart_resize(*args, Budget(low, low + span)) == want


@pytest.mark.parity
@pytest.mark.parametrize('make', [qwen25, qwen3])
def test_normalising_on_device_equals_the_host(make, picture):
  """The tower's (x / 255 - mean) / std in float32: within 1e-6."""
  import jax.numpy as jnp

  processor, source = make(), picture(120, 90)
  facts, published = processor.facts, published_image(processor)
  want = published(source, return_tensors='np')['pixel_values']
  patches = in_order(processor, processor.prepare([source]), [(1, 8, 6)])
  x = jnp.asarray(patches).reshape(-1, 3, 2 * facts.patch**2)
  mean, std = (
    jnp.asarray(v, jnp.float32).reshape(3, 1)
    for v in (published.image_mean, published.image_std)
  )
  got = (x.astype(jnp.float32) * (1 / 255) - mean) / std
  np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-6, rtol=0)


def test_windows_and_order_are_those_of_the_tower(picture):
  processor = qwen25(high=28 * 28 * 400)
  layout = WindowLayout()
  prepared = processor.prepare([picture(300, 170), picture(57, 90)])
  spans = [e.spans[0] for e in prepared.expansions]
  grids = [(s.t, s.h * 2, s.w * 2) for s in spans]
  plan = plan_windows(grids, layout, count_windows(grids, layout))
  assert 'source' in plan and 'source' not in prepared.plan
  for key, value in prepared.plan.items():
    np.testing.assert_array_equal(value, plan[key])
  assert len(prepared.plan['token']) == count_tokens(grids, layout)
  assert (prepared.plan['frame'] == 0).any()


def test_a_plan_in_order_is_what_loops_give():
  merge, grids = 2, [(1, 4, 2), (2, 2, 6)]
  layout = patches.PatchLayout(merge=merge, side=0)
  plan = patches.plan_patches(grids, layout, 32)
  positions, frames, coordinates, shown = [], [], [], 0
  for t, h, w in grids:
    for time in range(t):
      shown += 1
      for row in range(0, h, merge):
        for column in range(0, w, merge):
          coordinates.append((time, row // merge, column // merge))
          for inner in range(merge**2):
            place = row + inner // merge, column + inner % merge
            positions.append(place)
            frames.append(shown)
  np.testing.assert_array_equal(plan['position'], positions)
  np.testing.assert_array_equal(plan['frame'], frames)
  np.testing.assert_array_equal(plan['grid'], coordinates)
  np.testing.assert_array_equal(plan['token'], np.arange(len(coordinates)))


def test_what_cannot_be_shown_is_named(picture):
  with pytest.raises(BadRecord, match='1 x 201 pixels is too thin'):
    qwen25().prepare([picture(1, 201)])
  with pytest.raises(BadRecord, match='a video of 0 frames'):
    qwen25().prepare([[]])
  with pytest.raises(BadRecord, match=r'sizes \[\(8, 9\), \(9, 9\)\]'):
    qwen25().prepare([[picture(9, 9), picture(9, 8)]])
  with pytest.raises(BadRecord, match='a video of 1 frame, expected'):
    qwen3().prepare([[picture(60, 60)]])


def test_a_row_without_pictures_is_empty():
  for processor in (qwen25(), qwen3()):
    prepared = processor.prepare([])
    assert prepared.pixels.shape[0] == 0 and prepared.expansions == ()
    assert {len(v) for v in prepared.plan.values()} == {0}


def test_facts_that_differ_from_the_model_are_refused():
  for change, message in (
    ({'patch_size': 16}, 'patch_size is 16, supported: 14'),
    ({'resample': 2}, 'resample is 2, supported: 3'),
    ({'do_resize': False}, 'do_resize is False'),
  ):
    with pytest.raises(ValueError, match=message):
      file = image_file(14) | change
      Qwen25VLProcessor.from_hf(file, file, model_file('qwen2_5_vl', 14))


def test_without_files_the_settings_are_the_published_ones(picture):
  processor = Qwen25VLProcessor.of_tower(Qwen25VisionConfig())
  file = image_file(14, low=3136, high=12845056)
  model = model_file('qwen2_5_vl', 14)
  assert processor.facts == Qwen25VLProcessor.from_hf(file, file, model).facts
  (span,) = processor.prepare([picture(280, 420)]).expansions[0].spans
  assert (span.h, span.w) == (10, 15)
  processor = Qwen3VLProcessor(PUBLISHED, patches.PatchLayout())
  (span,) = processor.prepare([picture(320, 480)]).expansions[0].spans
  assert (span.h, span.w) == (10, 15)


def test_a_processor_travels_to_workers(picture):
  for processor in (qwen25(), qwen3()):
    copy = pickle.loads(pickle.dumps(processor))
    want = processor.prepare([picture(50, 70)])
    got = copy.prepare([picture(50, 70)])
    np.testing.assert_array_equal(got.pixels, want.pixels)
