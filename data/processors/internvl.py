"""Images and videos of InternVL (arXiv 2404.16821, 2504.10479).

An image is stretched over the grid of square tiles whose shape is nearest to
its own, and a thumbnail of the whole image follows the tiles; a frame of a
video is one tile.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from data import image as images
from data.frames import Frames
from data.processors import facts as published
from data.processors.items import open_items
from data.tiles import TileRow, plan_fields
from data.visual import Expansion, Prepared
from vlm.models.plan import Clip
from vlm.models.tiles import Canvas, plan_tiles

CONTEXT, OPEN, CLOSE = '<IMG_CONTEXT>', '<img>', '</img>'
VIDEO = '<video>'


@dataclasses.dataclass(frozen=True)
class InternVLFacts:
  """How a checkpoint wants its images and videos.

  Attributes:
    tile: side of a tile, pixels.
    side: visual tokens along one side of a tile.
    fewest, most: tiles of an image, without its thumbnail.
  """

  tile: int = 448
  side: int = 16
  fewest: int = 1
  most: int = 12

  @classmethod
  def from_hf(
    cls, image: published.Config, video: published.Config, config: Any
  ) -> 'InternVLFacts':
    """Reads preprocessor_config.json, video_preprocessor_config.json, config.

    The published processor cuts images into tiles whatever `crop_to_patches`
    says in its file, and so do we.

    Raises:
      ValueError: for a choice that is not supported, or one that differs from
        the model's.
    """
    tower = config['vision_config']
    tile, patch = (
      _side(tower.get(key, default))
      for key, default in (('image_size', 448), ('patch_size', 14))
    )
    for part in (image, video):
      published.check_common(part)
      found = published.square(part.get('size'), tile)
      published.check('size', found, tile)
    return cls(
      tile,
      round(tile // patch * config.get('downsample_ratio', 0.5)),
      image.get('min_patches') or 1,
      image.get('max_patches') or 12,
    )


def _side(value: int | Sequence[int]) -> int:
  return value if isinstance(value, int) else value[0]


@functools.lru_cache
def _grids(fewest: int, most: int) -> tuple[tuple[int, int], ...]:
  """(rows, columns) of few tiles first, and among these the narrow ones."""
  sides = range(1, most + 1)
  grids = [(h, w) for w in sides for h in sides if fewest <= h * w <= most]
  return tuple(sorted(grids, key=math.prod))


def tile_grid(height: int, width: int, facts: InternVLFacts) -> tuple[int, int]:
  """Rows and columns of tiles, in the shape nearest to the image's.

  Of several equally near, the last is taken for which the image has more than
  half of the grid's pixels.
  """
  best, nearest = (1, 1), math.inf
  for rows, columns in _grids(facts.fewest, facts.most):
    distance = abs(width / height - columns / rows)
    half = 0.5 * facts.tile**2 * rows * columns
    if distance < nearest or (distance == nearest and height * width > half):
      best, nearest = (rows, columns), distance
  return best


def cut_tiles(image: Image.Image, facts: InternVLFacts) -> np.ndarray:
  """The tiles of an image row by row, then its thumbnail if there are several.

  Returns:
    uint8 [tiles, tile, tile, 3].
  """
  rows, columns = tile_grid(image.height, image.width, facts)
  tile = facts.tile
  size, bicubic = (columns * tile, rows * tile), Image.Resampling.BICUBIC
  tiles = np.asarray(image.resize(size, bicubic))
  tiles = tiles.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2)
  tiles = tiles.reshape(-1, tile, tile, 3)
  if rows * columns == 1:
    return tiles
  return np.concatenate([tiles, images.fit_square(image, tile)])


@dataclasses.dataclass(frozen=True)
class InternVLProcessor:
  """See `data.visual.Processor`."""

  facts: InternVLFacts

  @classmethod
  def from_hf(cls, image, video, config) -> 'InternVLProcessor':
    """See `InternVLFacts.from_hf`."""
    return cls(InternVLFacts.from_hf(image, video, config))

  def row(self, units: int, **shape: Any) -> TileRow:
    """The row of `units` tiles; see `data.visual.Processor`."""
    facts = self.facts
    return TileRow(
      tiles=units, tile_tokens=facts.side**2, image_size=facts.tile, **shape
    )

  def frame_size(self, frames: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a video's frames after resizing, pixels."""
    return self.facts.tile, self.facts.tile

  def prepare(self, items: Sequence[Any]) -> Prepared:
    """Tiles and frames, the plan of `data.tiles`, and expansions.

    The plan's grid numbers the views of a row (a frame, a canvas of tiles, a
    thumbnail); rows and columns are places within the view.

    Returns:
      pixels uint8 [i, tile, tile, 3].

    Raises:
      BadRecord: a damaged image, or a video without frames.
    """
    tile = self.facts.tile
    parts, shown, expansions = [np.zeros((0, tile, tile, 3), np.uint8)], [], []
    for item in open_items(items):
      if isinstance(item, Frames):
        parts += [images.fit_square(frame, tile) for frame in item]
        shown.append(Clip(len(item)))
        expansions.append(self._expand_video(len(item)))
      else:
        parts.append(cut_tiles(item, self.facts))
        shown.append(Canvas(*tile_grid(item.height, item.width, self.facts)))
        expansions.append(self._expand_image(len(parts[-1])))
    plan = plan_fields(plan_tiles(self.facts.side, shown))
    return Prepared(np.concatenate(parts), plan, tuple(expansions))

  def _expand_image(self, tiles: int) -> Expansion:
    text = f'{OPEN}{CONTEXT}{CLOSE}'
    return Expansion(CONTEXT, text, (tiles * self.facts.side**2,))

  def _expand_video(self, frames: int) -> Expansion:
    text = '\n'.join(
      f'Frame{number}: {OPEN}{CONTEXT}{CLOSE}'
      for number in range(1, frames + 1)
    )
    return Expansion(VIDEO, text, (self.facts.side**2,) * frames)
