"""What a row shows, opened: upright RGB images and sampled videos."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from data.frames import Frames, as_frames
from data.image import open_image


def open_items(items: Sequence[Any]) -> list[Image.Image | Frames]:
  """Opens the images and videos of a row.

  Args:
    items: for an image what `image.open_image` takes; for a video `Frames` or a
      list of its sampled frames.

  Raises:
    BadRecord: a damaged image, or a video without frames.
  """
  return [
    as_frames(item)
    if isinstance(item, Frames | list | tuple)
    else open_image(item)
    for item in items
  ]
