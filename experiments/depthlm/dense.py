"""A depth map from many single questions: a grid of pixels, each marked once.

Every cell is asked about on its own picture, so borders stay sharp and flat
surfaces come out noisy (spec 1, 7.4).
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from data.assistant import Assistant
from experiments.asking.ask import Batches, ask
from experiments.asking.clock import Clock
from experiments.depthlm.ask import MAX_NEW_TOKENS, Pictures
from experiments.depthlm.breakdown import predictions_of
from experiments.depthlm.queries import UNFIT, Set, check_enlargement, find
from vlm.methods.depthlm import labels
from vlm.methods.depthlm.camera import Intrinsics
from vlm.methods.depthlm.sample import SampleSettings

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Dense:
  """What was answered about a picture.

  Attributes:
    pixels: int64 [rows, columns, 2], (x, y) of the cells.
    distance: float32 [rows, columns], metres to the camera centre; NaN where
      nothing could be asked or read.
    rays: float64 [rows, columns, 3], unit rays; x right, y down, z forward.
    colours: uint8 [rows, columns, 3] of the picture at the cells.
    records: one per question; see breakdown.py.
    lost: cells without an answer, by reason.
  """

  pixels: np.ndarray
  distance: np.ndarray
  rays: np.ndarray
  colours: np.ndarray
  records: list[dict[str, Any]]
  lost: Mapping[str, int]

  @property
  def z(self) -> np.ndarray:
    """float32 [rows, columns], metres along the optical axis."""
    return (self.distance * self.rays[..., 2]).astype(np.float32)

  def cloud(self) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 3] float32 in metres, and their colours [N, 3] uint8."""
    known = np.isfinite(self.distance)
    points = self.distance[known][:, None] * self.rays[known]
    return points.astype(np.float32), self.colours[known]


def grid_pixels(width: int, height: int, cells: int) -> np.ndarray:
  """Centres of square cells, `cells` of them along the longer side.

  Returns:
    int64 [rows, columns, 2], (x, y).

  Raises:
    ValueError: more cells than pixels, or none.
  """
  if not 1 <= cells <= max(width, height):
    raise ValueError(
      f'--grid={cells}, expected 1 to {max(width, height)} for a picture of '
      f'{width} x {height} pixels'
    )
  side = max(width, height) / cells
  counts = [max(1, round(n / side)) for n in (width, height)]
  x, y = (
    ((np.arange(count) + 0.5) * n / count).astype(np.int64)
    for count, n in zip(counts, (width, height))
  )
  return np.stack(np.meshgrid(x, y), -1)


class _Row:
  """One picture as a set of rows; its labels are only places."""

  def __init__(self, image, intrinsics, pixels):
    self._image = image
    self._facts = {
      'intrinsics': intrinsics,
      'pixel_coords': pixels,
      'depth': np.ones(len(pixels)),
      'depth_kind': 'range',
    }

  def __len__(self) -> int:
    return 1

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self._facts | {'image': self._image}

  def facts(self, index: int) -> dict[str, Any]:
    return self._facts


def map_depth(
  assistant: Assistant,
  image: np.ndarray,
  intrinsics: Intrinsics,
  settings: SampleSettings,
  cells: int = 32,
  *,
  mesh: jax.sharding.Mesh,
  batches: Batches,
  max_new_tokens: int = MAX_NEW_TOKENS,
  answered: str = 'range',
  progress: Progress = lambda done, total: None,
) -> Dense:
  """Asks about a grid of pixels.

  Args:
    assistant: whose parameters lie on `mesh`.
    image: uint8 [H, W, 3].
    intrinsics: of this very picture.
    settings: how the checkpoint wants to be asked.
    cells: along the longer side.
    mesh: over which batches are split.
    batches: how many questions at once.
    max_new_tokens: longest answer.
    answered: 'range', or 'z' for a checkpoint that answers in depth.
    progress: called with the questions answered and their number.

  Raises:
    BadRecord: a picture that cannot be shown at this focal length.
    ValueError: no cell can be asked about, or no answer states metres.
  """
  check_enlargement(intrinsics, settings)
  grid = grid_pixels(*intrinsics[4:], cells)
  row = _Row(image, intrinsics, grid.reshape(-1, 2))
  found = find([Set('image', row)], settings)
  records = []
  subject = Pictures(assistant, [row], settings, max_new_tokens)
  for batch in ask(assistant, found.queries, subject, batches, mesh, Clock()):
    records += batch
    progress(len(records), len(found.queries))
  metres = predictions_of(records)
  if not np.isfinite(metres).any():
    first = records[0]['problem'] or f'it said {records[0]["prediction"]!r}'
    raise ValueError(
      f'no answer states metres; to the first question: {first}. Is the '
      'checkpoint a DepthLM, and asked in the words it was trained with?'
    )
  rays = labels.directions(row.facts(0))
  places = [query.label for query in found.queries]
  distance = np.full(len(rays), np.nan, np.float32)
  distance[places] = metres / (rays[places, 2] if answered == 'z' else 1)
  lost = Counter(r['failure'] or r['problem'] for r in records)
  lost.pop(None, None)
  lost.pop('', None)
  if len(records) < len(rays):
    lost[UNFIT] = len(rays) - len(records)
  shape = grid.shape[:2]
  return Dense(
    grid,
    distance.reshape(shape),
    rays.reshape(*shape, 3),
    image[grid[..., 1], grid[..., 0]],
    records,
    dict(lost),
  )
