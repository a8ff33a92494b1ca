"""Qwen2.5-VL and Qwen3-VL against the published processors."""

import functools
import importlib
import itertools
import math
import pickle
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.frames import Frames
from data.processors import slots
from data.processors.qwen2_5_vl import Qwen25VLProcessor
from data.processors.qwen3_vl import PUBLISHED, Qwen3VLProcessor
from data.processors.qwen_vl import Budget, cut_patches, smart_resize
from data.records import BadRecord
from vlm.models import mrope
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
MODELS = 'transformers.models'
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


@pytest.fixture(scope='module')
def video_module():
  """The module of the published video processor, which wants torchvision.

  Its size, sampling and patch rules need none of it.
  """
  name = 'torchvision.transforms.v2.functional'
  parents = ['.'.join(name.split('.')[:n]) for n in (1, 2, 3, 4)]
  stubs = {parent: types.ModuleType(parent) for parent in parents}
  stubs[name].InterpolationMode = object
  for path, child in itertools.pairwise(parents):
    setattr(stubs[path], child.rsplit('.', 1)[1], stubs[child])
  with pytest.MonkeyPatch.context() as patch:
    for path, module in stubs.items():
      patch.setitem(sys.modules, path, module)
    return importlib.import_module(
      f'{MODELS}.qwen2_vl.video_processing_qwen2_vl'
    )


@pytest.fixture(scope='module')
def third_module():
  return importlib.import_module(f'{MODELS}.qwen3_vl.video_processing_qwen3_vl')


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
  plan = slots.plan_in_order(grids, merge)
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


@pytest.mark.parity
@pytest.mark.parametrize('frames', [1, 2, 3, 6])
def test_patches_of_videos_equal_the_published_ones(
  video_module, third_module, frames
):
  import torch

  rng = np.random.default_rng(frames)
  for processor, published in (
    (qwen25(), video_module.Qwen2VLVideoProcessor),
    (qwen3(), third_module.Qwen3VLVideoProcessor),
  ):
    facts = processor.facts
    shape = (frames, 2 * facts.factor, 3 * facts.factor, 3)
    clip = rng.integers(0, 256, shape, np.uint8)
    tensor = torch.from_numpy(clip).permute(0, 3, 1, 2)[None]
    want, *grid = published.patchify(None, tensor, facts.patch, 2, 2)
    np.testing.assert_array_equal(cut_patches(clip, facts), want[0].numpy())
    assert grid == [math.ceil(frames / 2), 4, 6]


def torch_resize(self, image, size, resample):
  """What torchvision does to uint8 frames: antialiased bicubic of torch."""
  import torch

  return torch.nn.functional.interpolate(
    image[0], (size.height, size.width), mode='bicubic', antialias=True
  )[None]


@pytest.mark.parity
@pytest.mark.parametrize('capped', [False, True])
@pytest.mark.parametrize('third', [False, True])
def test_video_sizes_equal_the_published_rule(
  video_module, third_module, monkeypatch, capped, third
):
  """And pixels differ from torch's resampling by at most 2 of 255 levels."""
  import torch
  from transformers.image_processing_backends import TorchvisionBackend
  from transformers.image_utils import SizeDict

  rng = np.random.default_rng(7)
  name = 'Qwen3VLVideoProcessor' if third else 'Qwen2VLVideoProcessor'
  published = getattr(third_module if third else video_module, name)
  theirs = object.__new__(published)
  theirs.max_video_tokens = 20 if third else 400
  monkeypatch.setattr(TorchvisionBackend, 'resize', torch_resize)
  size = dict(
    shortest_edge=20_000 if third else 10_000,
    longest_edge=200_000 if third else 60_000,
  )
  file = image_file(16 if third else 14) | {
    'size': size,
    'cap_pixels_per_frame': capped,
    'max_video_tokens': theirs.max_video_tokens,
  }
  processor = (qwen3 if third else qwen25)(file)
  worst, sizes = 0, set()
  for _ in range(40):
    count = int(rng.integers(2, 20))
    height, width = map(int, np.exp(rng.uniform(np.log(8), np.log(400), 2)))
    if max(height, width) > 100 * min(height, width):
      continue
    y, x = np.mgrid[:height, :width]
    wave = 128 + 100 * np.sin(x / 9 + y / 13 + rng.uniform(0, 6, (3, 1, 1)))
    clip = np.repeat(wave[None].astype(np.uint8), count, axis=0)
    want = theirs.resize(
      torch.from_numpy(clip)[None],
      SizeDict(**size),
      3,
      processor.facts.factor,
      temporal_factor=2,
      cap_pixels_per_frame=capped,
    )[0].permute(0, 2, 3, 1)
    frames = [Image.fromarray(f) for f in clip.transpose(0, 2, 3, 1)]
    got = processor._resized(Frames(frames, (0.0,) * count, 2.0))
    assert got.shape == want.shape
    assert got.shape[1:3] == processor.frame_size(count, height, width)
    worst = max(worst, np.abs(got.astype(int) - want.numpy()).max())
    sizes.add(got.shape)
  assert worst <= 2
  assert len(sizes) > 10


@pytest.mark.parity
def test_sampling_equals_the_published_rules(video_module, third_module):
  theirs = types.SimpleNamespace(
    fps=2, num_frames=None, min_frames=4, max_frames=64, temporal_patch_size=2
  )
  file = image_file(14) | {'max_frames': 64}
  third_file = image_file(16) | {'max_frames': 64}
  first, third = qwen25(file), qwen3(third_file)
  for total in [*range(2, 80), 250, 911, 2400]:
    for fps in (8.0, 25.0, 29.97, 60.0):
      metadata = types.SimpleNamespace(total_num_frames=total, fps=fps)
      want = third_module.Qwen3VLVideoProcessor.sample_frames(theirs, metadata)
      np.testing.assert_array_equal(third.sample(total, fps), want)
      want = video_module.Qwen2VLVideoProcessor.sample_frames(theirs, metadata)
      got = first.sample(total, fps)
      # Rounding sometimes gives them one more, behind the last frame.
      assert len(want) == len(got) or want[-1] == total
      np.testing.assert_array_equal(got, want[: len(got)])
  assert first.sample(1, 25.0).tolist() == third.sample(1, 25.0).tolist() == [0]


def clip_of(picture, count, size=(60, 90), seconds=None, fps=2.0):
  seconds = seconds or tuple(n / fps for n in range(count))
  return Frames(
    tuple(picture(*size, seed=n) for n in range(count)), seconds, fps
  )


@pytest.mark.parity
@pytest.mark.parametrize('count', [2, 5])
def test_prompts_equal_the_published_ones(picture, written, count):
  from transformers.models.qwen2_5_vl import processing_qwen2_5_vl
  from transformers.models.qwen3_vl import processing_qwen3_vl

  video, still = clip_of(picture, count, fps=30 / 7), picture(70, 80)
  for processor, published in (
    (qwen25(), processing_qwen2_5_vl.Qwen2_5_VLProcessor),
    (qwen3(), processing_qwen3_vl.Qwen3VLProcessor),
  ):
    theirs = types.SimpleNamespace(
      image_token='<|image_pad|>',
      video_token='<|video_pad|>',
      vision_start_token='<|vision_start|>',
      vision_end_token='<|vision_end|>',
      image_processor=types.SimpleNamespace(merge_size=2),
      video_processor=types.SimpleNamespace(
        merge_size=2, temporal_patch_size=2
      ),
    )
    if published is processing_qwen3_vl.Qwen3VLProcessor:
      theirs._calculate_timestamps = functools.partial(
        published._calculate_timestamps, theirs
      )
    prepared = processor.prepare([video, still])
    height, width = processor.frame_size(count, 60, 90)
    patch = processor.facts.patch
    grid = np.array([[-(-count // 2), height // patch, width // patch]])
    metadata = types.SimpleNamespace(
      frames_indices=[7 * n for n in range(count)], fps=30.0
    )
    inputs = {'video_grid_thw': grid, 'video_metadata': [metadata]}
    first, second = prepared.expansions
    want = published.replace_video_token(theirs, inputs, 0)
    assert written(first, '<|video_pad|>') == want
    span = second.spans[0]
    inputs = {'image_grid_thw': np.array([[1, 2 * span.h, 2 * span.w]])}
    want = published.replace_image_token(theirs, inputs, 0)
    assert written(second, '<|image_pad|>') == want


@pytest.mark.parity
def test_qwen3_replaces_the_brackets_of_the_template(picture, written):
  """transformers 5.23 writes all pairs of frames inside one more pair."""
  from transformers.models.qwen3_vl import processing_qwen3_vl

  theirs = types.SimpleNamespace(
    all_special_multimodal_tokens=['<|video_pad|>'],
    video_token='<|video_pad|>',
  )
  (expansion,) = qwen3().prepare([clip_of(picture, 4)]).expansions
  prompt = f'user\n{expansion.replaces}What is this?'
  ours = written(expansion, '<|video_pad|>')
  write = processing_qwen3_vl.Qwen3VLProcessor.get_text_with_replacements
  (text,), _ = write(theirs, [prompt], [], [ours], [])
  around = f'<|vision_start|>{ours}<|vision_end|>'
  assert text == prompt.replace(expansion.replaces, around)


def test_a_video_is_one_span_with_its_interval_or_one_span_per_pair(picture):
  video = clip_of(picture, 5, fps=4.0)
  (first,) = qwen25().prepare([video]).expansions
  assert (first.replaces, first.text) == ('<|video_pad|>',) * 2
  assert first.spans[0].t == 3
  assert first.spans[0].interval == 2 * 2 / 4
  (third,) = qwen3().prepare([video]).expansions
  assert third.replaces == '<|vision_start|><|video_pad|><|vision_end|>'
  assert third.text.startswith('<0.1 seconds><|vision_start|><|video_pad|>')
  assert '<1.0 seconds>' in third.text  # the last frame stands alone
  assert len(third.spans) == 3 and {s.t for s in third.spans} == {1}


@pytest.mark.parity
@pytest.mark.parametrize(
  'total, fps, count',
  [(465, 25, 36), (198, 30, 12), (589, 30, 38), (90, 30, 6)],
)
def test_positions_of_long_videos_round_as_published(total, fps, count):
  """(t * interval) in float32; but for the last, float64 is one off."""
  import torch

  times = torch.arange(count // 2)
  interval = 2 * (2 / (count / total * fps))
  got = mrope.positions([mrope.Span(count // 2, 1, 1, interval)])[:, 0]
  np.testing.assert_array_equal(got, (times * interval).long().numpy())
  double = (np.arange(count // 2) * interval).astype(int)
  assert np.array_equal(got, double) == (total == 90)


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
  processor = Qwen3VLProcessor(PUBLISHED)
  (span,) = processor.prepare([picture(320, 480)]).expansions[0].spans
  assert (span.h, span.w) == (10, 15)


def test_a_processor_travels_to_workers(picture):
  for processor in (qwen25(), qwen3()):
    copy = pickle.loads(pickle.dumps(processor))
    want = processor.prepare([picture(50, 70)])
    got = copy.prepare([picture(50, 70)])
    np.testing.assert_array_equal(got.pixels, want.pixels)
