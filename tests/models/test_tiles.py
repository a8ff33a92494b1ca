"""Tiles of a row against what is drawn and counted by hand."""

import numpy as np
import pytest

from vlm.models import plan, tiles


def test_a_canvas_and_its_thumbnail_token_by_token():
  """The drawing in `tiles.py`: 1 x 2 tiles of side 2, then the thumbnail."""
  row = tiles.plan_tiles(2, [tiles.Canvas(1, 2)])
  assert row.tiles == 3 and row.spans == (12,)
  assert row.index[:, 0].tolist() == list(range(12))
  assert row.weight.tolist() == [[1.0]] * 12
  canvas, thumbnail = np.full((2, 4), -1), np.full((2, 2), -1)
  for number, (t, h, w) in enumerate(row.grid):
    (canvas, thumbnail)[t][h, w] = number
  assert canvas.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
  assert thumbnail.tolist() == [[8, 9], [10, 11]]


def test_views_are_numbered_through_the_row():
  visuals = [tiles.Canvas(1, 1), plan.Clip(2), tiles.Canvas(2, 1)]
  row = tiles.plan_tiles(1, visuals)
  assert row.tiles == tiles.count_tiles(visuals) == 1 + 2 + 3
  assert row.spans == (1, 2, 3)
  assert row.grid.tolist() == [
    [0, 0, 0],  # one tile: no thumbnail
    [1, 0, 0], [2, 0, 0],
    [3, 0, 0], [3, 1, 0], [4, 0, 0],
  ]  # fmt: skip


def test_a_row_without_pictures():
  row = tiles.plan_tiles(16, [])
  assert row.tiles == 0 and row.spans == ()
  assert row.index.shape == row.weight.shape == (0, 1)
  assert row.grid.shape == (0, 3)


@pytest.mark.parametrize('visual', [tiles.Canvas(0, 2), plan.Clip(0)])
def test_nothing_to_see_is_an_error(visual):
  with pytest.raises(ValueError, match='at least one tile or frame'):
    tiles.plan_tiles(2, [visual])
