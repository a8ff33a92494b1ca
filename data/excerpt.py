"""Frames of a video between two times, from a file or a folder of its frames.

Benchmarks ask about parts of videos, and some publish folders of frames where
they may not publish the video.
"""

import dataclasses
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from data import image as images
from data.frames import Frames, sample_uniform
from data.records import BadRecord
from data.video import USUAL_FRAMES, FrameSize, Sampler, read_video

PICTURES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')


def open_excerpt(
  path: epath.PathLike,
  processor: Any,
  frames: int = 0,
  *,
  start: float | None = None,
  end: float | None = None,
  fps: float | None = None,
) -> Frames:
  """Reads the frames that a processor wants of a part of a video.

  Args:
    path: of a video, or of a folder of frames in the order of their names.
    processor: maybe with `sample` and `frame_size`.
    frames: how many, spread evenly from the first to the last of the part; 0
      leaves it to the processor's `sample`, or to `USUAL_FRAMES`.
    start: seconds; None for the beginning. Times beyond the video's are its.
    end: seconds; None for its end. The part has at least one frame.
    fps: frames a second of a folder of frames; None for a video.

  Raises:
    BadRecord: 'missing image' or 'corrupt image', naming the file.
  """
  count = frames or USUAL_FRAMES
  sample = lambda total, rate: sample_uniform(total, count)
  if not frames:
    sample = getattr(processor, 'sample', sample)
  part = Part(start, end, sample)
  frame_size = getattr(processor, 'frame_size', None)
  if fps is None:
    return part.of(read_video(path, part, frame_size))
  return part.of(_read_folder(epath.Path(path), part, frame_size, fps))


class Part:
  """Samples a part of a video as if it were a video of its own.

  Args:
    start: seconds; None for the beginning.
    end: seconds; None for the end.
    sample: which frames of the part.
  """

  def __init__(self, start: float | None, end: float | None, sample: Sampler):
    self._start, self._end, self._sample = start, end, sample

  def __call__(self, total: int, fps: float) -> np.ndarray:
    """Numbers of the frames wanted, of `total` of the whole video."""
    first = 0 if self._start is None else round(self._start * fps)
    last = total - 1 if self._end is None else round(self._end * fps)
    first = min(max(first, 0), total - 1)
    last = min(max(last, first), total - 1)
    self._offset, self._seconds = first / fps, (last - first + 1) / fps
    return first + np.asarray(self._sample(last - first + 1, fps))

  def of(self, frames: Frames) -> Frames:
    """Frames whose times count from the beginning of the part."""
    return dataclasses.replace(
      frames,
      seconds=tuple(second - self._offset for second in frames.seconds),
      fps=len(frames) / self._seconds,
    )


def _read_folder(
  folder: epath.Path,
  sample: Sampler,
  frame_size: FrameSize | None,
  fps: float,
) -> Frames:
  if not folder.is_dir():
    raise BadRecord('missing image', f'{folder}: no such folder of frames')
  paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES)
  if not paths:
    raise BadRecord('missing image', f'{folder} holds no picture {PICTURES}')
  wanted = [int(number) for number in sample(len(paths), fps)]
  opened = [images.open_image(paths[number]) for number in wanted]
  whole = None
  if frame_size is not None:
    whole = opened[0].height, opened[0].width
    height, width = frame_size(len(opened), *whole)
    bicubic = Image.Resampling.BICUBIC
    opened = [picture.resize((width, height), bicubic) for picture in opened]
  seconds = tuple(number / fps for number in wanted)
  return Frames(tuple(opened), seconds, len(wanted) / len(paths) * fps, whole)
