"""Single images of the towers that stand alone: CLIP, DINOv2 and SigLIP."""

import dataclasses
from typing import Any

import numpy as np

from data import image as images
from data.processors import facts as published


@dataclasses.dataclass(frozen=True)
class Crop:
  """The middle of an image (CLIP, DINOv2).

  Attributes:
    edge: the shorter edge is resized to this, pixels.
    side: of the crop, pixels.
  """

  edge: int
  side: int

  @classmethod
  def from_hf(cls, config: published.Config, default: int = 224) -> 'Crop':
    """Reads preprocessor_config.json.

    Raises:
      ValueError: for a choice that is not supported.
    """
    published.check_common(config)
    published.check('do_center_crop', config.get('do_center_crop'), True)
    size = config.get('size') or default
    edge = size if isinstance(size, int) else size['shortest_edge']
    side = published.square(config.get('crop_size'), default)
    published.check('crop_size <= size', side <= edge, True)
    return cls(edge, side)

  def __call__(self, image: Any) -> np.ndarray:
    """uint8 [1, side, side, 3] of what `image.open_image` takes."""
    return images.centre_crop(images.open_image(image), self.side, self.edge)


@dataclasses.dataclass(frozen=True)
class Square:
  """A whole image, its shape not kept (SigLIP).

  Attributes:
    side: pixels.
  """

  side: int

  @classmethod
  def from_hf(cls, config: published.Config, default: int = 224) -> 'Square':
    """Reads preprocessor_config.json.

    Raises:
      ValueError: for a choice that is not supported.
    """
    published.check_common(config)
    return cls(published.square(config.get('size'), default))

  def __call__(self, image: Any) -> np.ndarray:
    """uint8 [1, side, side, 3] of what `image.open_image` takes."""
    return images.fit_square(images.open_image(image), self.side)
