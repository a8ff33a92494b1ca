"""The frames of a video that a model sees: which ones, and when they were."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from data import image as images
from data.records import BadRecord

# The rate the published processors assume where nobody knows it.
UNKNOWN_FPS = 24.0


@dataclasses.dataclass(frozen=True, eq=False)
class Frames(Sequence):
  """Sampled frames that know their times.

  Attributes:
    images: RGB, all of one size.
    seconds: time of each frame: its number over the video's average rate, as
      the published processors count.
    fps: frames sampled per second of the video.
    whole: height and width of the video's own frames, where they were resized
      while they were read.
  """

  images: tuple[Image.Image, ...]
  seconds: tuple[float, ...]
  fps: float
  whole: tuple[int, int] | None = None

  def __post_init__(self):
    if len(self.seconds) != len(self.images) or self.fps <= 0:
      raise ValueError(
        f'{len(self.images)} frames with {len(self.seconds)} times at '
        f'{self.fps} frames per second, expected a time for each and a rate'
      )

  def __len__(self) -> int:
    return len(self.images)

  def __getitem__(self, number):
    return self.images[number]


def as_frames(pictures: Sequence[Any]) -> Frames:
  """Frames of a video whose times may be unknown.

  Args:
    pictures: `Frames`, or what `image.open_image` takes, in order of time; at
      `UNKNOWN_FPS` then, which matters to models that read times.

  Raises:
    BadRecord: no frame, a damaged one, or frames of several sizes.
  """
  if not isinstance(pictures, Frames):
    opened = tuple(images.open_image(picture) for picture in pictures)
    seconds = tuple(n / UNKNOWN_FPS for n in range(len(opened)))
    pictures = Frames(opened, seconds, UNKNOWN_FPS)
  sizes = {picture.size for picture in pictures}
  if len(sizes) != 1:
    raise BadRecord(
      'corrupt image',
      f'a video of {len(pictures)} frames with sizes {sorted(sizes)}, expected '
      'at least one frame and one size',
    )
  return pictures


def sample_uniform(total: int, frames: int) -> np.ndarray:
  """Indices of `frames` frames spread evenly, first and last included.

  A video with fewer frames gives each of them once; one asked for a single
  frame gives the first. (LLaVA-OneVision, LLaVA-Video, FlashVID.)

  Args:
    total: frames in the video.
    frames: frames wanted, at least one.

  Returns:
    int [min(total, frames)], increasing.
  """
  _check_counts(total, frames)
  if total <= frames:
    return np.arange(total)
  return np.linspace(0, total - 1, frames).astype(int)


def sample_nearest(total: int, frames: int) -> np.ndarray:
  """`sample_uniform`, to the nearest frame instead of down (Qwen3-VL)."""
  _check_counts(total, frames)
  frames = min(total, frames)
  return np.linspace(0, total - 1, frames).round().astype(int)


def sample_starts(total: int, frames: int) -> np.ndarray:
  """The first frame of each of `frames` equal parts (Qwen2.5-VL)."""
  return _sample_parts(total, frames, 0)


def sample_middles(total: int, frames: int) -> np.ndarray:
  """The middle frame of each of `frames` equal parts (InternVL)."""
  return _sample_parts(total, frames, 1 / 2)


def _sample_parts(total: int, frames: int, shift: float) -> np.ndarray:
  _check_counts(total, frames)
  frames = min(total, frames)
  step = total / frames
  # Published in float32, where 2.9999999 is 3.
  return (step * shift + np.arange(frames) * step).astype('f4').astype(int)


def _check_counts(total: int, frames: int) -> None:
  if frames < 1 or total < 1:
    raise ValueError(
      f'cannot sample {frames} frames of a video of {total}; both must be at '
      'least 1'
    )
