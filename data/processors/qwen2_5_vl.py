"""Videos of Qwen2.5-VL (arXiv 2502.13923): time is told by positions."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from data import frames as sampling
from data.frames import Frames
from data.patches import PatchRow
from data.processors.qwen_vl import (
  Budget,
  QwenVL,
  QwenVLFacts,
  VideoFacts,
  smart_resize,
)
from data.visual import Expansion
from vlm.models import windows
from vlm.models.mrope import Span
from vlm.models.qwen2_5_vision import Qwen25VisionConfig

# Of Qwen/Qwen2.5-VL-{3B,7B,32B,72B}-Instruct.
PUBLISHED = QwenVLFacts(
  Budget(3136, 12_845_056), VideoFacts(Budget(3136, 12_845_056), 128_000)
)


@dataclasses.dataclass(frozen=True)
class Qwen25VLProcessor(QwenVL):
  """Qwen2.5-VL: the time between frames is told by their positions.

  Attributes:
    layout: what decides the windows of its tower.
    tokens_per_second: positions in a second.
  """

  layout: windows.WindowLayout
  tokens_per_second: int | float = 2

  @classmethod
  def from_hf(cls, image, video, config) -> 'Qwen25VLProcessor':
    """See `QwenVLFacts.from_hf`."""
    vision = Qwen25VisionConfig.from_hf(config['vision_config'])
    return cls.of_tower(vision, QwenVLFacts.from_hf(image, video, config))

  @classmethod
  def of_tower(
    cls, vision: Qwen25VisionConfig, facts: QwenVLFacts = PUBLISHED
  ) -> 'Qwen25VLProcessor':
    """The processor of a tower, with the published settings."""
    return cls(facts.of_tower(vision), vision.layout, vision.tokens_per_second)

  def row(self, units: int, **shape: Any) -> PatchRow:
    """The row of `units` patches, in whole windows."""
    return self._row(units, self.layout.slots, **shape)

  def plan(self, grids: Sequence[windows.Grid]) -> dict[str, np.ndarray]:
    """`windows.plan_windows` in as many windows as the row needs."""
    needed = windows.count_windows(grids, self.layout)
    return windows.plan_windows(grids, self.layout, needed)

  def sample(self, total: int, fps: float) -> np.ndarray:
    """Frames at the published rate, a whole number of patches."""
    frames, video = self.facts.frames, self.facts.video
    most = min(video.max_frames, total) // frames * frames
    count = int(min(self._frames_at_rate(total, fps), most)) // frames * frames
    return sampling.sample_starts(total, max(count, 1))

  def frame_size(self, frames: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a video's frames: each has its own budget."""
    facts, pixels = self.facts, self.facts.video.pixels
    most = pixels.most
    if facts.video.capped:
      # Nine tenths of the context for the video, as published.
      total = int(facts.video.max_tokens * facts.factor**2 * 0.9)
      share = min(most, total * facts.frames // frames)
      most = max(share, int(pixels.fewest * 1.05))
    budget = Budget(pixels.fewest, most)
    return smart_resize(height, width, facts.factor, budget)

  def _expand_video(self, video: Frames, t: int, h: int, w: int) -> Expansion:
    pad, seconds = '<|video_pad|>', self.facts.frames / video.fps
    return Expansion(
      pad, pad, (Span(t, h, w, self.tokens_per_second * seconds),)
    )
