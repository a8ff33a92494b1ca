"""Which visual tokens are a video's, for what reduces videos.

A sample's plan then holds, beside what its tower needs,

    frames    int32 [v, f, n]   the sample's visual token n of frame f of its
                                video v; -1 where a video is smaller
    prunable  bool [m]          tokens of videos, with the newline of each frame

and a row's plan the same for all its samples, in a static shape.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from data.frames import Frames


@dataclasses.dataclass(frozen=True)
class VideoSpec:
  """Static room for the videos of a row, and what a transform leaves of them.

  Attributes:
    videos: V, of a row.
    frames: F, temporal units of a video.
    tokens: N, visual tokens of a unit.
    transform: a `vlm.models.visual.VisualTransform`.
  """

  videos: int
  frames: int
  tokens: int
  transform: Any

  @property
  def shape(self) -> tuple[int, int, int]:
    """(V, F, N)."""
    return self.videos, self.frames, self.tokens

  @property
  def dropped(self) -> int:
    """Tokens by which every row becomes shorter."""
    return self.videos * _dropped(self.transform, self.frames, self.tokens)

  def dropped_of(self, frames: np.ndarray) -> int:
    """Tokens that videos [v, f, n] surely lose."""
    return sum(
      _dropped(self.transform, *size) for size in sizes(frames) if all(size)
    )


def spec_of(
  frames: Sequence[np.ndarray], transforms: Sequence[Any]
) -> VideoSpec | None:
  """The smallest room for rows with the videos [v, f, n]; None without any.

  Raises:
    ValueError: several transforms that drop tokens.
  """
  most = np.max([(0, 0, 0), *(f.shape for f in frames)], axis=0)
  if not most.all() or not transforms:
    return None
  (transform,) = transforms
  return VideoSpec(*(int(size) for size in most), transform)


def _dropped(transform: Any, frames: int, tokens: int) -> int:
  return frames * tokens - transform.room(frames, tokens)


def sizes(frames: np.ndarray) -> list[tuple[int, int]]:
  """(frames, tokens) of each video."""
  there = frames >= 0
  units = there.any(axis=2).sum(axis=1)
  return [(int(f), int(v[0].sum())) for f, v in zip(units, there, strict=True)]


def mark_videos(
  items: Sequence[Any], counts: Sequence[int], grid: np.ndarray
) -> dict[str, np.ndarray]:
  """The arrays above for one sample.

  Args:
    items: images and videos, as they were prepared.
    counts: visual tokens of each.
    grid: int32 [m, 3] of the plan; tokens of one t are one temporal unit, and a
      newline has no column.
  """
  found, prunable, start = [], np.zeros(len(grid), bool), 0
  for item, count in zip(items, counts, strict=True):
    end = start + count
    if isinstance(item, Frames | list | tuple):
      part = grid[start:end]
      prunable[start:end] = part[:, 0] >= 0
      content = start + np.flatnonzero((part >= 0).all(axis=1))
      units = len(np.unique(grid[content, 0]))
      found.append(content.reshape(units, -1))
    start = end
  return {'frames': stacked(found), 'prunable': prunable}


def by_frames(processor: Any) -> Any:
  """The processor, with one newline per frame instead of one per row.

  A frame that loses tokens has no rows any more: FlashVID's authors lay
  LLaVA-Video's tokens out so (arXiv 2602.08024).
  """
  layout = getattr(processor, 'layout', None)
  if getattr(layout, 'newline', None) != 'grid':
    return processor
  layout = dataclasses.replace(layout, newline='frame')
  return dataclasses.replace(processor, layout=layout)


def stacked(videos: Sequence[np.ndarray]) -> np.ndarray:
  """Arrays [f, n] as one [v, f, n], filled with -1."""
  shape = np.max([v.shape for v in videos], axis=0, initial=0)
  if not len(videos):
    return np.full((0, 0, 0), -1, np.int32)
  whole = np.full((len(videos), *shape), -1, np.int32)
  for row, video in zip(whole, videos, strict=True):
    row[: video.shape[0], : video.shape[1]] = video
  return whole


def place(
  row: dict[str, np.ndarray],
  spec: VideoSpec,
  plans: Sequence[dict[str, np.ndarray]],
) -> None:
  """Writes the samples' arrays into the row's; see the module's docstring.

  Args:
    row: plan of the row, with frames [V, F, N] and prunable [M].
    spec: its static shape.
    plans: of the samples in the row, in order.

  Raises:
    ValueError: a sample without the arrays.
  """
  video = token = 0
  row['frames'][:] = -1
  for plan in plans:
    if 'frames' not in plan:
      raise ValueError('the plan does not mark videos (Encoder.mark_videos)')
    frames = plan['frames']
    for part in frames:
      f, n = part.shape
      row['frames'][video, :f, :n] = np.where(part < 0, -1, part + token)
      video += 1
    end = token + len(plan['prunable'])
    row['prunable'][token:end] = plan['prunable']
    token = end
