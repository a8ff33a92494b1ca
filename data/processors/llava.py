"""Images and videos of LLaVA-OneVision (arXiv 2408.03326) and LLaVA-Video."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from data import image as images
from data.frames import Frames
from data.processors import facts as published
from data.processors.items import open_items
from data.tiles import TileRow, plan_fields
from data.visual import Expansion, Prepared
from vlm.models import plan
from vlm.models.llava_onevision import LlavaOnevisionConfig

# What a processor lays out again and again in a row of images of a few sizes.
_plan_row = functools.lru_cache(256)(plan.plan_row)


@dataclasses.dataclass(frozen=True)
class LlavaProcessor:
  """See `data.visual.Processor`.

  Attributes:
    layout: how tiles and frames become visual tokens.
    background: colour around one of several images.
    image, video: what the template writes for an image and for a video.
  """

  layout: plan.Layout
  background: tuple[int, int, int] = (127, 127, 127)
  image: str = '<image>'
  video: str = '<video>'

  @classmethod
  def from_hf(
    cls, image: published.Config, texts: published.Config, config: Any
  ) -> 'LlavaProcessor':
    """Reads preprocessor_config.json, processor_config.json and config.json.

    Raises:
      ValueError: for a choice that is not supported, or one that differs from
        the model's.
    """
    layout = LlavaOnevisionConfig.from_hf(config).layout
    published.check_common(image)
    found = published.square(image.get('size'), layout.tile)
    published.check('size', found, layout.tile)
    points = image.get('image_grid_pinpoints')
    if points is not None:
      points = tuple(tuple(point) for point in points)
      published.check('image_grid_pinpoints', points, layout.resolutions)
    mean = image.get('image_mean') or (0.5, 0.5, 0.5)
    return cls(
      layout,
      tuple(int(255 * value) for value in mean),
      texts.get('image_token') or '<image>',
      texts.get('video_token') or '<video>',
    )

  def row(self, units: int, **shape: Any) -> TileRow:
    """The row of `units` tiles; see `data.visual.Processor`."""
    return TileRow(
      tiles=units,
      points=4,  # of an image or a frame that is resized
      tile_tokens=self.layout.patches,
      image_size=self.layout.tile,
      **shape,
    )

  def frame_size(self, frames: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a video's frames after resizing, pixels."""
    return self.layout.tile, self.layout.tile

  def prepare(self, items: Sequence[Any]) -> Prepared:
    """Tiles and frames, the plan of `data.tiles`, and expansions.

    Returns:
      pixels uint8 [i, tile, tile, 3].

    Raises:
      BadRecord: a damaged image, one too thin for every canvas, or a video
        without frames.
    """
    opened = open_items(items)
    row = images.prepare_row(opened, self.layout, self.background)
    laid = _plan_row(self.layout, row.visuals)
    texts = [
      self.video if isinstance(item, Frames) else self.image for item in opened
    ]
    expansions = tuple(
      Expansion(text, text, (count,))
      for text, count in zip(texts, laid.spans, strict=True)
    )
    return Prepared(row.tiles, plan_fields(laid), expansions)
