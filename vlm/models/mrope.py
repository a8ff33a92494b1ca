"""Positions of M-RoPE (arXiv 2409.12191, section 2.1), on the host.

Text advances all three numbers together; the tokens of an image or video stand
at (time, row, column) after the text before them, and the text behind goes on
from the larger of their rows and columns.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Span:
  """The visual tokens of one image or video.

  Attributes:
    t, h, w: frames, rows and columns of visual tokens.
    interval: positions between two frames; for a video, tokens per second times
      the seconds between its frames.
  """

  t: int
  h: int
  w: int
  interval: int | float = 1

  @property
  def count(self) -> int:
    """Visual tokens."""
    return self.t * self.h * self.w


def positions(parts: Sequence[int | Span]) -> np.ndarray:
  """Positions of a row made of stretches of text (lengths) and spans.

  Returns:
    int32 [T, 3].
  """
  start, found = 0, [np.zeros((0, 3), np.int64)]
  for part in parts:
    if isinstance(part, Span):
      grid = np.indices((part.t, part.h, part.w)).reshape(3, -1)
      # Fractions of a position are dropped after scaling, as published, which
      # happens in float32: 2.9999999 is 3.
      times = grid[0].astype(np.float32) * np.float32(part.interval)
      grid[0] = times.astype(np.int64)
      found.append(start + grid.T)
      start += max(part.h, part.w)
    else:
      found.append(np.repeat(start + np.arange(part)[:, None], 3, axis=1))
      start += part
  return np.concatenate(found).astype(np.int32)


def row_positions(visual: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
  """Positions of a row in which `visual` says where visual tokens stand.

  Args:
    visual: bool [T].
    spans: in the order in which they stand in the row.

  Returns:
    int32 [T, 3].
  """
  places = np.flatnonzero(visual)
  parts, end, taken = [], 0, 0
  for span in spans:
    start = int(places[taken])
    parts += [start - end, span]
    end, taken = start + span.count, taken + span.count
  return positions([*parts, len(visual) - end])
