"""Images and videos of Qwen2.5-VL (arXiv 2502.13923) and Qwen3-VL.

Every image keeps its shape: it is resized to whole merge blocks within a budget
of pixels and cut into patches of two frames (a still is shown twice). The two
generations differ in the patch size, in how a video's budget is shared among
its frames, and in how time is told: by positions, or written into the prompt.
"""

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
from vlm.models.mrope import Span
from vlm.models.windows import Grid

MAX_ASPECT = 200  # beyond it the published processors refuse an image


@dataclasses.dataclass(frozen=True)
class Budget:
  """Fewest and most pixels of an image, a frame or a clip after resizing."""

  fewest: int
  most: int


@dataclasses.dataclass(frozen=True)
class VideoFacts:
  """How a checkpoint wants its videos.

  Attributes:
    pixels: of a frame (Qwen2.5-VL) or of a whole clip (Qwen3-VL).
    capped: whether frames are also held to an even share of a total.
    max_tokens: what that total is made of: tokens of a video (Qwen2.5-VL) or of
      a frame (Qwen3-VL).
    rate: frames sampled per second.
    min_frames, max_frames: bounds on what the rate gives.
  """

  pixels: Budget
  max_tokens: int
  capped: bool = False
  rate: float = 2
  min_frames: int = 4
  max_frames: int = 768


@dataclasses.dataclass(frozen=True)
class QwenVLFacts:
  """How a checkpoint wants its images.

  Attributes:
    pixels: of an image.
    video: of a video.
    patch: side of a patch, pixels.
    merge: patches along one side of a merge block.
    frames: frames in a patch.
  """

  pixels: Budget
  video: VideoFacts
  patch: int = 14
  merge: int = 2
  frames: int = 2

  @property
  def factor(self) -> int:
    """Side of a merge block, pixels."""
    return self.patch * self.merge

  @classmethod
  def from_hf(
    cls, image: published.Config, video: published.Config, config: Any
  ) -> 'QwenVLFacts':
    """Reads preprocessor_config.json, video_preprocessor_config.json, config.

    Args:
      image: of the images.
      video: of the videos; checkpoints without such a file use that of images.
      config: HF's `config.json`, model_type qwen2_5_vl or qwen3_vl.

    Raises:
      ValueError: for a choice that is not supported, or one that differs from
        the model's.
    """
    tower = config['vision_config']
    third = config['model_type'] == 'qwen3_vl'
    shape = {
      'patch_size': tower.get('patch_size', 16 if third else 14),
      'merge_size': tower.get('spatial_merge_size', 2),
      'temporal_patch_size': tower.get('temporal_patch_size', 2),
    }
    for part in (image, video):
      published.check_common(part)
      for key, value in shape.items():
        published.check(key, part.get(key), value)
    side = shape['patch_size'] * shape['merge_size']
    clip = VideoFacts(
      pixels=_budget(video, Budget(128 * side**2, 768 * side**2)),
      max_tokens=video.get('max_video_tokens') or (768 if third else 128_000),
      capped=bool(video.get('cap_pixels_per_frame')),
      rate=video.get('fps') or 2,
      min_frames=video.get('min_frames') or 4,
      max_frames=video.get('max_frames') or 768,
    )
    still = _budget(image, Budget(56**2, 1280 * 28**2))
    return cls(still, clip, *shape.values())

  def of_tower(self, vision: Any) -> 'QwenVLFacts':
    """The same settings for a tower's patches."""
    return dataclasses.replace(
      self, patch=vision.patch, merge=vision.merge, frames=vision.frames
    )


def _budget(config: published.Config, default: Budget) -> Budget:
  """Older files say min_pixels and max_pixels, later ones size."""
  size = config.get('size') or {}
  return Budget(
    config.get('min_pixels') or size.get('shortest_edge', default.fewest),
    config.get('max_pixels') or size.get('longest_edge', default.most),
  )


def smart_resize(
  height: int, width: int, factor: int, budget: Budget, frames: int = 1
) -> tuple[int, int]:
  """Height and width in whole merge blocks, near the aspect ratio of an image.

  Args:
    height: of the image, pixels.
    width: of the image, pixels.
    factor: side of a merge block, pixels.
    budget: pixels of all frames together.
    frames: frames that share the budget, 1 for an image.

  Raises:
    BadRecord: 'corrupt image' for an aspect ratio above `MAX_ASPECT`.
  """
  if max(height, width) > MAX_ASPECT * min(height, width):
    raise BadRecord(
      'corrupt image',
      f'{height} x {width} pixels is too thin, expected an aspect ratio of at '
      f'most {MAX_ASPECT}',
    )
  # Whether the budget holds is asked of whole pairs, the scale is the frames'.
  counted = round(frames / 2) * 2 if frames > 1 else 1
  rows, columns = round(height / factor), round(width / factor)
  size = counted * rows * columns * factor**2
  if size > budget.most:
    shrink = math.sqrt(frames * height * width / budget.most)
    rows = max(1, math.floor(height / shrink / factor))
    columns = max(1, math.floor(width / shrink / factor))
  elif size < budget.fewest:
    grow = math.sqrt(budget.fewest / (frames * height * width))
    rows = math.ceil(height * grow / factor)
    columns = math.ceil(width * grow / factor)
  return rows * factor, columns * factor


def cut_patches(frames: np.ndarray, facts: QwenVLFacts) -> np.ndarray:
  """Cuts frames into patches, the patches of a merge block one after another.

  Args:
    frames: uint8 [t, h, w, 3], whole merge blocks; the last frame is repeated
      until the patches are full.
    facts: the checkpoint's.

  Returns:
    uint8 [n, 3 * frames * patch^2]: channel, frame, row, column.
  """
  frames = np.concatenate(
    [frames, np.repeat(frames[-1:], -len(frames) % facts.frames, axis=0)]
  )
  t, h, w, _ = frames.shape
  patch, merge = facts.patch, facts.merge
  blocks = (h // facts.factor, merge, patch, w // facts.factor, merge, patch)
  cut = frames.reshape(t // facts.frames, facts.frames, *blocks, 3)
  # [t, frame, h, mh, ph, w, mw, pw, c] -> [t, h, w, mh, mw, c, frame, ph, pw]
  cut = cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
  return cut.reshape(-1, 3 * facts.frames * patch**2)


@dataclasses.dataclass(frozen=True)
class QwenVL:
  """What both generations do alike; see `data.visual.Processor`.

  A generation says how the patches of a row lie in slots (`plan`), how large
  its frames become (`frame_size`) and what stands for a video.

  Attributes:
    facts: the checkpoint's.
  """

  facts: QwenVLFacts

  def plan(self, grids: Sequence[Grid]) -> dict[str, np.ndarray]:
    """The plan of a row, in just enough slots; see `slots.fill_slots`."""
    raise NotImplementedError

  def prepare(self, items: Sequence[Any]) -> Prepared:
    """Patches in their slots, the plan's arrays, and expansions.

    Returns:
      pixels uint8 [S, 3 * frames * patch^2].

    Raises:
      BadRecord: a damaged image, one too thin, or a video without frames.
    """
    values = 3 * self.facts.frames * self.facts.patch**2
    parts, grids = [np.zeros((0, values), np.uint8)], []
    expansions = []
    for item in open_items(items):
      resized = self._resized(item)
      t = math.ceil(len(resized) / self.facts.frames)
      h, w = (side // self.facts.patch for side in resized.shape[1:3])
      parts.append(cut_patches(resized, self.facts))
      grids.append((t, h, w))
      expansions.append(self._expand(item, grids[-1]))
    pixels, plan = fill_slots(np.concatenate(parts), self.plan(grids))
    return Prepared(pixels, plan, tuple(expansions))

  def _row(self, units: int, group: int, **shape: Any) -> PatchRow:
    facts = self.facts
    return PatchRow(
      patches=units + -units % group,
      values=3 * facts.frames * facts.patch**2,
      block=facts.merge**2,
      group=group,
      axes=3,
      **shape,
    )

  def _resized(self, item: Image.Image | Frames) -> np.ndarray:
    still = isinstance(item, Image.Image)
    pictures = [item] if still else item
    shape = pictures[0].height, pictures[0].width
    if still:
      facts = self.facts
      height, width = smart_resize(*shape, facts.factor, facts.pixels)
    else:
      # A size that came out of the rule may not stay as it is under the rule.
      height, width = self.frame_size(len(item), *(item.whole or shape))
    size, bicubic = (width, height), Image.Resampling.BICUBIC
    return np.stack([np.asarray(p.resize(size, bicubic)) for p in pictures])

  def frame_size(self, frames: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a video's frames after resizing, pixels."""
    raise NotImplementedError

  def _expand(self, item: Image.Image | Frames, grid: Grid) -> Expansion:
    t, h, w = grid[0], grid[1] // self.facts.merge, grid[2] // self.facts.merge
    if isinstance(item, Image.Image):
      pad = '<|image_pad|>'
      return Expansion(pad, pad, (Span(1, h, w),))
    return self._expand_video(item, t, h, w)

  def _expand_video(self, video: Frames, t: int, h: int, w: int) -> Expansion:
    raise NotImplementedError

  def _frames_at_rate(self, total: int, fps: float) -> float:
    video = self.facts.video
    return max(total / fps * video.rate, video.min_frames)
