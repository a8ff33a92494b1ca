"""LLaVA-OneVision and LLaVA-Video: anyres tiles, frames as tiles."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from data import image
from data.tiles import TileRow, plan_fields
from data.visual import Expansion, Prepared
from vlm.models import plan


@dataclasses.dataclass(frozen=True)
class LlavaProcessor:
  """Fulfils `data.visual.Processor`.

  Attributes:
    layout: how the checkpoint lays its visual tokens out.
    image, video: the placeholders' texts.
  """

  layout: plan.Layout
  image: str = '<image>'
  video: str = '<video>'

  def prepare(self, items: Sequence[Any]) -> Prepared:
    """Tiles of the images and frames of a row; see `image.prepare_row`."""
    row = image.prepare_row(items, self.layout)
    fields, spans = self._laid(row.visuals)
    names = (
      self.image if isinstance(item, Image.Image) else self.video
      for item in items
    )
    expansions = tuple(
      Expansion(name, name, (span,)) for name, span in zip(names, spans)
    )
    return Prepared(row.tiles, fields, expansions)

  def row(self, units: int, points: int = 4, **shape: Any) -> TileRow:
    """The row of `units` tiles; see `TileRow`."""
    return TileRow(
      tiles=units,
      points=points,
      tile_tokens=self.layout.patches,
      image_size=self.layout.tile,
      **shape,
    )

  @functools.cached_property
  def _laid(self) -> Callable:
    def lay(visuals):
      laid = plan.plan_row(self.layout, visuals)
      return plan_fields(laid), laid.spans

    return functools.lru_cache(256)(lay)

  def __getstate__(self) -> dict[str, Any]:
    return {'layout': self.layout, 'image': self.image, 'video': self.video}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
