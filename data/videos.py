"""Which visual tokens are a video's, for what reduces videos.

A sample's plan then holds, beside what its tower needs,

    frames    int32 [v, f, n]   the sample's visual token n of frame f of its
                                video v; -1 where a video is smaller
    prunable  bool [m]          tokens of videos, with the newline of each frame

and a row's plan the same for all its samples, in a static shape.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlm.models.prune import Prune


@dataclasses.dataclass(frozen=True)
class VideoSpec:
  """Static room for the videos of a row, and what a transform leaves of them.

  Attributes:
    videos: V, of a row.
    frames: F, temporal units of a video.
    tokens: N, visual tokens of a unit.
    transform: a `vlm.models.visual.VisualTransform`.
    prune: what it prunes inside the decoder; None where nothing is, as in
      training.
  """

  videos: int
  frames: int
  tokens: int
  transform: Any
  prune: Prune | None = None

  @property
  def shape(self) -> tuple[int, int, int]:
    """(V, F, N)."""
    return self.videos, self.frames, self.tokens

  @property
  def lost(self) -> int:
    """Tokens by which every row is shorter in the last layer."""
    return self.lost_of([(self.frames, self.tokens)] * self.videos)

  def lost_of(self, videos: Sequence[tuple[int, int]]) -> int:
    """Tokens that videos of so many frames x tokens lose at least."""
    kept = sum(self.transform.room(*video) for video in videos)
    if self.prune is not None:
      kept = self.prune.left(kept)
    return sum(frames * tokens for frames, tokens in videos) - kept


def spec_of(frames: Sequence[np.ndarray], model: Any) -> VideoSpec | None:
  """The smallest room for prompts with the videos [v, f, n]; None without any.

  Args:
    frames: of each prompt.
    model: from `registry.build`, with one transform or none.
  """
  most = np.max([(0, 0, 0), *(f.shape for f in frames)], axis=0)
  if not most.all() or not model.transforms:
    return None
  (transform,) = model.transforms
  shape = (int(size) for size in most)
  return VideoSpec(*shape, transform, model.prune)


def frames_of(sample: Mapping[str, Any]) -> np.ndarray:
  """A sample's frames [v, f, n]; empty without videos."""
  empty = np.full((0, 0, 0), -1, np.int32)
  return sample.get('plan', {}).get('frames', empty)


def sizes(frames: np.ndarray) -> list[tuple[int, int]]:
  """(frames, tokens) of each video."""
  there = frames >= 0
  units = there.any(axis=2).sum(axis=1)
  return [(int(f), int(v[0].sum())) for f, v in zip(units, there, strict=True)]


def mark_videos(
  moving: Sequence[bool], counts: Sequence[int], grid: np.ndarray
) -> dict[str, np.ndarray]:
  """The arrays above for one sample.

  Args:
    moving: of each image or video of the sample, whether it is a video.
    counts: visual tokens of each.
    grid: int32 [m, 3] of the plan; tokens of one t are one temporal unit, and a
      newline has no column.
  """
  found, prunable, start = [], np.zeros(len(grid), bool), 0
  for is_video, count in zip(moving, counts, strict=True):
    end = start + count
    if is_video:
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
  shape = np.max([(0, 0), *(v.shape for v in videos)], axis=0)
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
