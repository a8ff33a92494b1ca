"""Videos of Qwen3-VL (arXiv 2511.21631): time is written into the prompt."""

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
from data.records import BadRecord
from data.visual import Expansion
from vlm.models import patches
from vlm.models.mrope import Span
from vlm.models.qwen3_vision import Qwen3VisionConfig
from vlm.models.windows import Grid

# Of Qwen/Qwen3-VL-{2B,4B,8B,32B}.
PUBLISHED = QwenVLFacts(
  Budget(65_536, 16_777_216),
  VideoFacts(Budget(4096, 25_165_824), 768),
  patch=16,
)


@dataclasses.dataclass(frozen=True)
class Qwen3VLProcessor(QwenVL):
  """Qwen3-VL: the time of each pair of frames is written before it.

  The prompt has one `<|vision_start|>...<|vision_end|>` per pair of frames and
  none around them, as the checkpoint was trained (transformers 5.23 leaves the
  pair of the template around them all).

  Attributes:
    layout: of its tower's patches and learned positions.
  """

  layout: patches.PatchLayout

  @classmethod
  def from_hf(cls, image, video, config) -> 'Qwen3VLProcessor':
    """See `QwenVLFacts.from_hf`."""
    vision = Qwen3VisionConfig.from_hf(config['vision_config'])
    return cls.of_tower(vision, QwenVLFacts.from_hf(image, video, config))

  @classmethod
  def of_tower(
    cls, vision: Qwen3VisionConfig, facts: QwenVLFacts = PUBLISHED
  ) -> 'Qwen3VLProcessor':
    """The processor of a tower, with the published settings."""
    return cls(facts.of_tower(vision), vision.layout)

  def row(self, units: int, **shape: Any) -> PatchRow:
    """The row of `units` patches, in whole merge blocks."""
    taps = ('taps', (4,), 'int32'), ('tap_weight', (4,), 'float32')
    return self._row(units, self.facts.merge**2, extra=taps, **shape)

  def plan(self, grids: Sequence[Grid]) -> dict[str, np.ndarray]:
    """`patches.plan_patches` in as many slots as the row needs."""
    slots = patches.count_patches(grids)
    return patches.plan_patches(grids, self.layout, slots)

  def sample(self, total: int, fps: float) -> np.ndarray:
    """Frames at the published rate, first and last included."""
    count = min(
      int(self._frames_at_rate(total, fps)), self.facts.video.max_frames
    )
    return sampling.sample_nearest(total, count)

  def frame_size(self, frames: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a video's frames: the clip has one budget."""
    facts, pixels = self.facts, self.facts.video.pixels
    if frames < facts.frames:
      raise BadRecord(
        'corrupt image',
        f'a video of {frames} frame, expected at least {facts.frames}: show a '
        'single frame as an image',
      )
    most = pixels.most
    if facts.video.capped:
      share = min(facts.video.max_tokens * facts.factor**2, most // frames)
      most = max(share, int(pixels.fewest * 1.05)) * frames
    if min(height, width) < facts.factor:
      scale = max(facts.factor / height, facts.factor / width)
      height, width = int(height * scale), int(width * scale)
    budget = Budget(pixels.fewest, most)
    return smart_resize(height, width, facts.factor, budget, frames)

  def _expand_video(self, video: Frames, t: int, h: int, w: int) -> Expansion:
    frame = '<|vision_start|><|video_pad|><|vision_end|>'
    text = ''.join(f'<{s:.1f} seconds>{frame}' for s in self._seconds(video))
    return Expansion(frame, text, (Span(1, h, w),) * t)

  def _seconds(self, video: Frames) -> list[float]:
    """The middle of each patch's frames; the last frame fills the last one."""
    frames = self.facts.frames
    times = [*video.seconds, *video.seconds[-1:] * (-len(video) % frames)]
    starts = range(0, len(times), frames)
    return [(times[n] + times[n + frames - 1]) / 2 for n in starts]
