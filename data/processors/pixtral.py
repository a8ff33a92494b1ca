"""Images of Pixtral (arXiv 2410.07073): every size, row by row."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from data.frames import Frames
from data.patches import PatchRow
from data.processors import facts as published
from data.processors.items import open_items
from data.processors.slots import fill_slots
from data.records import BadRecord
from data.visual import Expansion, Prepared
from vlm.models import patches
from vlm.models.windows import Grid


@dataclasses.dataclass(frozen=True)
class PixtralFacts:
  """How a checkpoint wants its images.

  Attributes:
    longest: most pixels along a side.
    patch: side of a patch, pixels.
    token, row_end, image_end: what stands in the prompt for a patch, and after
      a row and an image.
  """

  longest: int = 1024
  patch: int = 16
  token: str = '[IMG]'
  row_end: str = '[IMG_BREAK]'
  image_end: str = '[IMG_END]'

  @property
  def layout(self) -> patches.PatchLayout:
    """Where the patches of an image lie."""
    return patches.PatchLayout(self.patch, merge=1, side=0)

  @classmethod
  def from_hf(
    cls, image: published.Config, texts: published.Config, config: Any
  ) -> 'PixtralFacts':
    """Reads preprocessor_config.json, processor_config.json and config.json.

    Args:
      image: of the images.
      texts: names of the tokens, where they are not the published ones.
      config: HF's `config.json`, model_type llava with a pixtral tower.

    Raises:
      ValueError: for a choice that is not supported, or one that differs from
        the model's.
    """
    published.check_common(image)
    published.check('spatial_merge_size', config.get('spatial_merge_size'), 1)
    patch = config['vision_config'].get('patch_size', 16)
    found = published.square(image.get('patch_size'), patch)
    published.check('patch_size', found, patch)
    size = image.get('size') or {'longest_edge': 1024}
    return cls(
      size.get('longest_edge') or published.square(size, 1024),
      patch,
      texts.get('image_token') or '[IMG]',
      texts.get('image_break_token') or '[IMG_BREAK]',
      texts.get('image_end_token') or '[IMG_END]',
    )


def patch_grid(height: int, width: int, facts: PixtralFacts) -> tuple[int, int]:
  """Rows and columns of patches: shrunk to fit, then rounded up.

  Raises:
    BadRecord: 'corrupt image' for one so thin that nothing of it is left.
  """
  ratio = max(height / facts.longest, width / facts.longest)
  if ratio > 1:
    height, width = math.floor(height / ratio), math.floor(width / ratio)
  if not height or not width:
    raise BadRecord(
      'corrupt image',
      f'too thin: shrunk to a longest side of {facts.longest} pixels it is '
      f'{height} x {width} pixels',
    )
  return math.ceil(height / facts.patch), math.ceil(width / facts.patch)


def cut_patches(image: Image.Image, facts: PixtralFacts) -> np.ndarray:
  """Resizes to whole patches and cuts them row by row.

  Returns:
    uint8 [rows * columns, 3 * patch^2]: channel, row, column.
  """
  rows, columns = patch_grid(image.height, image.width, facts)
  patch = facts.patch
  size, bicubic = (columns * patch, rows * patch), Image.Resampling.BICUBIC
  pixels = np.asarray(image.resize(size, bicubic))
  cut = pixels.reshape(rows, patch, columns, patch, 3)
  return cut.transpose(0, 2, 4, 1, 3).reshape(rows * columns, -1)


@dataclasses.dataclass(frozen=True)
class PixtralProcessor:
  """See `data.visual.Processor`.

  Attributes:
    facts: the checkpoint's.
  """

  facts: PixtralFacts

  @classmethod
  def from_hf(cls, image, texts, config) -> 'PixtralProcessor':
    """See `PixtralFacts.from_hf`."""
    return cls(PixtralFacts.from_hf(image, texts, config))

  def row(self, units: int, **shape: Any) -> PatchRow:
    """The row of `units` patches; see `data.visual.Processor`."""
    return PatchRow(patches=units, values=3 * self.facts.patch**2, **shape)

  def prepare(self, items: Sequence[Any]) -> Prepared:
    """Patches in their slots, the plan's arrays, and expansions.

    Returns:
      pixels uint8 [S, 3 * patch^2].

    Raises:
      BadRecord: a damaged image or one too thin, or a video.
    """
    parts = [np.zeros((0, 3 * self.facts.patch**2), np.uint8)]
    grids, expansions = [], []
    for item in open_items(items):
      if isinstance(item, Frames):
        raise BadRecord(
          'wrong type',
          'a video, expected images: Pixtral was not trained on videos',
        )
      parts.append(cut_patches(item, self.facts))
      grids.append((1, *patch_grid(item.height, item.width, self.facts)))
      expansions.append(self._expand(grids[-1]))
    slots = patches.count_patches(grids)
    plan = patches.plan_patches(grids, self.facts.layout, slots)
    pixels, plan = fill_slots(np.concatenate(parts), plan)
    return Prepared(pixels, plan, tuple(expansions))

  def _expand(self, grid: Grid) -> Expansion:
    _, rows, columns = grid
    facts = self.facts
    text = facts.row_end.join([facts.token] * rows) + facts.image_end
    return Expansion(facts.token, text, (columns,) * rows)
