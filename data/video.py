"""From a video file to the frames a model sees.

Only sampled frames are decoded, plus what lies between them and the keyframe
before; frames may be resized while they are read, so that memory grows neither
with the length of a video nor with its resolution.
"""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from data import image as images
from data.frames import UNKNOWN_FPS, Frames, sample_uniform
from data.records import BadRecord

# (frames in the video, its frames per second) -> numbers of the frames wanted.
Sampler = Callable[[int, float], np.ndarray]
# (sampled frames, height, width) -> height and width a model wants.
FrameSize = Callable[[int, int, int], tuple[int, int]]


SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.gif')
USUAL_FRAMES = 32  # where the processor has no rule of its own


def open_video(source: Any, processor: Any, frames: int = 0) -> Frames:
  """Reads the frames that a processor wants, in the size it wants.

  Args:
    source: see `read_video`.
    processor: maybe with `sample` and `frame_size`.
    frames: how many, spread evenly; 0 leaves it to the processor's `sample`,
      or to `USUAL_FRAMES`.

  Raises:
    BadRecord: see `read_video`.
  """
  count = frames or USUAL_FRAMES
  sample = lambda total, fps: sample_uniform(total, count)
  if not frames:
    sample = getattr(processor, 'sample', sample)
  return read_video(source, sample, getattr(processor, 'frame_size', None))


def read_video(
  source: Any, sample: Sampler, frame_size: FrameSize | None = None
) -> Frames:
  """Reads sampled frames of a video file or an animated GIF, PNG or WebP.

  Frames are upright (the display matrix is applied). The count in the header is
  not trusted: packets are counted first, without decoding.

  Args:
    source: path (local or gs://) or encoded bytes.
    sample: which frames, for example
      `lambda total, fps: sample_uniform(total, 32)`, or a processor's `sample`;
      increasing.
    frame_size: a processor's `frame_size`; frames are then resized as they are
      read, to the pixels the processor would have made of them.

  Raises:
    BadRecord: 'missing image', 'corrupt image' or 'wrong type', naming the
      file.
  """
  name = 'encoded bytes' if isinstance(source, bytes) else str(source)
  try:
    with _open(source) as file:
      head = file.read(12)
      file.seek(0)
      if not head:
        raise BadRecord('corrupt image', 'empty')
      read = _read_animation if _is_animation(head) else _read_stream
      return read(file, sample, frame_size)
  except BadRecord as error:
    raise BadRecord(error.reason, f'{name}: {error.detail}') from error


@contextlib.contextmanager
def _open(source: Any) -> Iterator[Any]:
  if isinstance(source, bytes):
    yield io.BytesIO(source)
    return
  try:
    file = epath.Path(source).open('rb')
  except TypeError as error:
    raise BadRecord(
      'wrong type', f'video is {type(source).__name__}, expected a path'
    ) from error
  except (FileNotFoundError, IsADirectoryError) as error:
    raise BadRecord('missing image', 'does not exist') from error
  with file:
    yield file


def _is_animation(head: bytes) -> bool:
  # ffmpeg reads GIF without its durations, and animated WebP not at all.
  webp = head[:4] == b'RIFF' and head[8:12] == b'WEBP'
  return webp or head[:4] in (b'GIF8', b'\x89PNG')


def _read_animation(file, sample: Sampler, frame_size) -> Frames:
  with _damage(images.DAMAGE), Image.open(file) as animation:
    total = getattr(animation, 'n_frames', 1)
    milliseconds = 0.0
    for number in range(total):
      animation.seek(number)
      animation.load()  # a WebP knows the duration only then
      # Viewers show frames without a duration for a tenth of a second.
      milliseconds += animation.info.get('duration') or 100
  fps = 1000 * total / milliseconds
  wanted = [int(number) for number in sample(total, fps)]
  fit, found = _Fit(len(wanted), frame_size), []
  file.seek(0)
  with _damage(images.DAMAGE), Image.open(file) as animation:
    for number in wanted:
      animation.seek(number)
      found.append(fit(images.open_image(animation)))
  return _timed(found, wanted, total, fps, fit)


def _read_stream(file, sample: Sampler, frame_size) -> Frames:
  import av  # only readers of video files need the extra

  kinds = av.error.FFmpegError, OSError, ValueError
  with _damage(kinds):
    index = _read_index(file)
  total = len(index.pts)
  if not total:
    raise BadRecord('corrupt image', 'no video frame')
  wanted = [int(number) for number in sample(total, index.fps)]
  fit = _Fit(len(wanted), frame_size)
  with _damage(kinds):
    try:
      found = [fit(_upright(f)) for f in _seek_frames(file, index, wanted)]
    except _Unseekable:
      found = [fit(_upright(f)) for f in _count_frames(file, wanted)]
  if len(found) < len(wanted):
    raise BadRecord(
      'corrupt image',
      f'{len(found)} of {len(wanted)} sampled frames could be decoded',
    )
  return _timed(found, wanted, total, index.fps, fit)


@contextlib.contextmanager
def _damage(kinds: tuple[type[Exception], ...]) -> Iterator[None]:
  """What decoders raise on damaged files, as a bad record."""
  try:
    yield
  except BadRecord:
    raise
  except kinds as error:
    raise BadRecord('corrupt image', str(error)) from error


def _timed(found, wanted: list[int], total: int, fps: float, fit) -> Frames:
  seconds = tuple(number / fps for number in wanted)
  rate = len(wanted) / total * fps
  return Frames(tuple(found), seconds, rate, fit.whole)


class _Fit:
  """Resizes frames as they are read, if asked to, and remembers their size."""

  def __init__(self, frames: int, frame_size: FrameSize | None):
    self._frames, self._frame_size = frames, frame_size
    self.whole = None

  def __call__(self, picture: Image.Image) -> Image.Image:
    if self._frame_size is None:
      return picture
    self.whole = picture.height, picture.width
    height, width = self._frame_size(self._frames, *self.whole)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


class _Unseekable(Exception):
  """Frames cannot be found by their time stamps in this container."""


@dataclasses.dataclass(frozen=True)
class _Index:
  """Where frames are, from their packets.

  Attributes:
    pts: time stamps of all frames, in the order they are shown; those of a
      container without stamps are all -1.
    keys: time stamps of the frames at which decoding can start, sorted.
    fps: average rate.
  """

  pts: np.ndarray
  keys: np.ndarray
  fps: float


@contextlib.contextmanager
def _stream(file) -> Iterator[tuple[Any, Any]]:
  import av

  file.seek(0)
  with av.open(file) as container:
    if not container.streams.video:
      raise BadRecord('corrupt image', 'no video stream')
    stream = container.streams.video[0]
    if stream.width * stream.height > images.MAX_PIXELS:
      raise BadRecord(
        'corrupt image',
        f'frames of {stream.width} x {stream.height} pixels, at most '
        f'{images.MAX_PIXELS} are read (data.image.MAX_PIXELS)',
      )
    # Threads inside a data worker have deadlocked (PyAV 1849, 1861).
    stream.thread_type = 'NONE'
    yield container, stream


def _read_index(file) -> _Index:
  pts, keys = [], []
  with _stream(file) as (container, stream):
    for packet in container.demux(stream):
      if packet.size and not packet.is_discard:
        pts.append(-1 if packet.pts is None else packet.pts)
        if packet.is_keyframe:
          keys.append(pts[-1])
    fps = float(stream.average_rate or UNKNOWN_FPS)
  return _Index(np.sort(pts), np.sort(keys), fps)


def _seek_frames(file, index: _Index, wanted: list[int]) -> Iterator:
  """Decodes from the keyframe before each wanted frame, where that is ahead.

  Raises:
    _Unseekable: the stamps of packets and frames do not agree.
  """
  last = None
  with _stream(file) as (container, stream):
    for number in wanted:
      target = int(index.pts[number])
      before = np.searchsorted(index.keys, target, 'right')
      if not before or len(np.unique(index.pts)) < len(index.pts):
        raise _Unseekable
      key = int(index.keys[before - 1])
      if last is None or key > last:
        container.seek(key, stream=stream)
        decoded = container.decode(stream)
      frame = next((f for f in decoded if (f.pts or 0) >= target), None)
      if frame is None or frame.pts != target:
        raise _Unseekable
      last = target
      yield frame


def _count_frames(file, wanted: list[int]) -> Iterator:
  """Decodes from the start and keeps the wanted frames."""
  last, chosen = max(wanted), set(wanted)
  with _stream(file) as (container, stream):
    for number, frame in enumerate(container.decode(stream)):
      if number in chosen:
        yield frame
      if number == last:
        return


def _upright(frame) -> Image.Image:
  turns = {90: 'ROTATE_90', 180: 'ROTATE_180', 270: 'ROTATE_270'}
  picture, angle = frame.to_image(), round(frame.rotation) % 360
  if angle not in turns:
    return picture
  return picture.transpose(getattr(Image.Transpose, turns[angle]))
