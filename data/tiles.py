"""Rows of towers that see tiles of one size: LLaVA-OneVision, InternVL.

A sample's pixels are [i, S, S, 3]; its plan is {index int32 [m, k], weight
float32 [m, k], grid int32 [m, 3]} with k at most K. `index` points into the
sample's own tiles: tile * P + p for token p of a tile, or `NEWLINE`. A row's
bank has the static capacity of I tiles: tile indices move by the tiles before
them and the newline is at I * P.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from data.pack import Fields, RowSpec, Sample
from vlm.models.plan import NEWLINE, RowPlan


@dataclasses.dataclass(frozen=True)
class TileRow(RowSpec):
  """Static shape of a row with tiles.

  Attributes:
    tiles: I, tiles or frames per row.
    points: K, bank entries a visual token is a weighted sum of (1 or 4).
    tile_tokens: P, tower tokens per tile.
    image_size: S, side of a tile in pixels.
    pixel_dtype: 'uint8' (normalised on device) or 'float32'.
  """

  tiles: int = 0
  points: int = 1
  tile_tokens: int = 0
  image_size: int = 0
  pixel_dtype: str = 'uint8'

  units: ClassVar[str] = 'tiles'

  @property
  def capacity(self) -> int:
    return self.tiles

  @property
  def newline(self) -> int:
    """Bank index of the newline vector, I * P."""
    return self.tiles * self.tile_tokens

  def fields(self) -> Fields:
    S, M, K = self.image_size, self.visual, self.points
    return super().fields() | {
      'pixels': ((self.tiles, S, S, 3), self.pixel_dtype),
      'plan/index': ((M, K), 'int32'),
      'plan/weight': ((M, K), 'float32'),
      'plan/valid': ((M,), 'bool'),
      'plan/grid': ((M, 3), 'int32'),
    }

  def place_visuals(self, row: Sample, samples: Sequence[Sample]) -> None:
    """Merges tiles and plans of samples into one bank of I tiles.

    Example, P = 4, I = 5: the second sample's index [[0], [NEWLINE]] (first
    token of its only tile, newline) after a sample of two tiles becomes
    [[8], [20]].

    Raises:
      ValueError: when tiles or plan entries have another shape than the spec's.
    """
    tile = token = 0
    plan = row['plan']
    for sample in samples:
      part, tiles = sample['plan'], len(sample['pixels'])
      self._check(sample['pixels'], part)
      tokens, taps = part['index'].shape
      row['pixels'][tile : tile + tiles] = sample['pixels']
      here = slice(token, token + tokens)
      moved = part['index'] + tile * self.tile_tokens
      plan['index'][here, :taps] = np.where(
        part['index'] == NEWLINE, self.newline, moved
      )
      plan['weight'][here, :taps] = part['weight']
      plan['valid'][here] = True
      plan['grid'][here] = part['grid']
      tile, token = tile + tiles, token + tokens

  def check_plan(self, plan: Sample) -> None:
    index = plan['index']
    if index.min(initial=0) < 0 or index.max(initial=0) > self.newline:
      raise ValueError(
        f'plan/index spans [{index.min()}, {index.max()}], expected '
        f'[0, {self.newline}] (I * P = {self.tiles} * {self.tile_tokens})'
      )

  def _check(self, pixels: np.ndarray, plan: Sample) -> None:
    S = self.image_size
    if pixels.shape[1:] != (S, S, 3) or pixels.dtype != self.pixel_dtype:
      raise ValueError(
        f'tiles are {pixels.dtype} {pixels.shape[1:]}, the row expects '
        f'{self.pixel_dtype} {(S, S, 3)}; set row.image_size, row.pixel_dtype'
      )
    index = plan['index']
    if index.shape[1] > self.points:
      raise ValueError(
        f'the plan has {index.shape[1]} points per visual token, the row at '
        f'most {self.points}; set row.points'
      )
    end = len(pixels) * self.tile_tokens
    if index.size and not NEWLINE <= index.min() <= index.max() < end:
      raise ValueError(
        f'the plan points at {index.min()} to {index.max()}; {len(pixels)} '
        f'tiles of {self.tile_tokens} tokens are 0 to {end - 1}, and the '
        f'newline is {NEWLINE}; set row.tile_tokens'
      )


def plan_fields(row: RowPlan) -> Sample:
  """Returns a row plan in the form that samples carry."""
  return {'index': row.index, 'weight': row.weight, 'grid': row.grid}
