"""From a video to the frames a model sees."""

import numpy as np
from PIL import Image

from data.records import BadRecord


def sample_uniform(total: int, frames: int) -> np.ndarray:
  """Indices of `frames` frames spread evenly, first and last included.

  A video with fewer frames gives each of them once; one asked for a single
  frame gives the first.

  Args:
    total: frames in the video.
    frames: frames wanted, at least one.

  Returns:
    int [min(total, frames)], increasing.
  """
  if frames < 1 or total < 1:
    raise ValueError(
      f'cannot sample {frames} frames of a video of {total}; both must be at '
      'least 1'
    )
  if total <= frames:
    return np.arange(total)
  return np.linspace(0, total - 1, frames).astype(int)


def read_frames(path: str, frames: int) -> list[Image.Image]:
  """Reads evenly spread frames of a video file.

  Decodes from the start and keeps the sampled frames only, so that memory
  does not grow with the length. The count in the container is not trusted:
  a first pass counts packets without decoding.

  Args:
    path: local file.
    frames: frames wanted.

  Returns:
    RGB images, in order of time.

  Raises:
    BadRecord: 'missing image' or 'corrupt image', naming the file.
  """
  import av  # only readers of video files need the extra

  try:
    with av.open(path) as container:
      stream = _video_stream(container, path)
      total = sum(packet.size > 0 for packet in container.demux(stream))
    wanted = set(sample_uniform(total, frames).tolist()) if total else set()
    with av.open(path) as container:
      stream = _video_stream(container, path)
      # Threads inside a data worker have deadlocked (PyAV 1849, 1861).
      stream.thread_type = 'NONE'
      found = [
        frame.to_image()
        for number, frame in enumerate(container.decode(stream))
        if number in wanted
      ]
  except FileNotFoundError as error:
    raise BadRecord('missing image', f'{path} does not exist') from error
  except BadRecord:
    raise
  except (av.error.FFmpegError, OSError, ValueError) as error:
    raise BadRecord('corrupt image', f'{path}: {error}') from error
  if not wanted or len(found) < len(wanted):
    raise BadRecord(
      'corrupt image',
      f'{path}: {len(found)} of {len(wanted)} sampled frames could be decoded',
    )
  return found


def _video_stream(container, path: str):
  if not container.streams.video:
    raise BadRecord('corrupt image', f'{path} has no video stream')
  return container.streams.video[0]
