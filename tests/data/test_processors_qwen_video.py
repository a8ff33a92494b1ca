"""Videos of Qwen2.5-VL and Qwen3-VL against the published processors."""

import functools
import importlib
import itertools
import math
import sys
import types

import numpy as np
import pytest
from PIL import Image

from data.frames import Frames
from data.processors.qwen2_5_vl import Qwen25VLProcessor
from data.processors.qwen3_vl import Qwen3VLProcessor
from data.processors.qwen_vl import (
  Budget,
  QwenVLFacts,
  VideoFacts,
  cut_patches,
)
from vlm.models import mrope
from vlm.models.patches import PatchLayout
from vlm.models.windows import WindowLayout

MODELS = 'transformers.models'
# Small budgets, so that both ends of them are met by small frames.
PIXELS = Budget(56 * 56, 28 * 28 * 40)


def facts_of(patch, **video):
  clip = VideoFacts(**(dict(pixels=PIXELS, max_tokens=1000) | video))
  return QwenVLFacts(PIXELS, clip, patch)


def qwen25(**video):
  return Qwen25VLProcessor(facts_of(14, **video), WindowLayout())


def qwen3(**video):
  return Qwen3VLProcessor(facts_of(16, **video), PatchLayout())


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
  processor = (qwen3 if third else qwen25)(
    pixels=Budget(*size.values()),
    capped=capped,
    max_tokens=theirs.max_video_tokens,
  )
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
  first, third = qwen25(max_frames=64), qwen3(max_frames=64)
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
