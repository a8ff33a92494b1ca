"""What pictures become before they meet text: pixels, a plan, and expansions.

Every family has a processor (data/processors/): it takes the images and videos
of a row and says what the tower gets and what stands for each in the prompt.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from data.pack import RowSpec
from vlm.models.mrope import Span


@dataclasses.dataclass(frozen=True)
class Expansion:
  """What stands in the prompt for one image or video.

  Attributes:
    replaces: the part of the rendered text it takes the place of, which holds
      one placeholder: '<|image_pad|>'.
    text: what is written there instead; holds one placeholder per span.
    spans: visual tokens of each placeholder in `text`: their number, or their
      grid where the checkpoint has M-RoPE.
  """

  replaces: str
  text: str
  spans: tuple[int | Span, ...]

  @property
  def counts(self) -> tuple[int, ...]:
    """Visual tokens of each placeholder."""
    return tuple(s if isinstance(s, int) else s.count for s in self.spans)


@dataclasses.dataclass(frozen=True)
class Prepared:
  """What a row shows.

  Attributes:
    pixels: uint8, tiles [i, S, S, 3] or patches [s, V] in their slots.
    plan: arrays over slots or visual tokens; see data/pipeline.py.
    expansions: one per image or video, in the order of the prompt.
  """

  pixels: np.ndarray
  plan: dict[str, np.ndarray]
  expansions: tuple[Expansion, ...]


class Processor(Protocol):
  """How a checkpoint wants its images and videos."""

  def prepare(self, items: Sequence[Any]) -> Prepared:
    """Prepares the images and videos of a row, in the order of its prompt.

    Args:
      items: for an image what `data.image.open_image` takes; for a video
        `data.frames.Frames`, or a list of its sampled frames.

    Raises:
      BadRecord: an image or video that cannot be shown, and why.
    """

  def row(self, units: int, **shape: Any) -> RowSpec:
    """The row that holds `units` tiles or patches, rounded up to whole groups.

    Args:
      units: tiles or patches.
      **shape: seq_len, visual, placeholders; see `RowSpec`.
    """
