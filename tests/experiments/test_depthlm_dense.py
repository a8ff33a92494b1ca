"""Depth maps: which pixels, which points, and what lies on disk."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from data.records import BadRecord
from data.sources.depth_map import DepthMap
from experiments.depthlm import dense, dense_files
from vlm.methods.depthlm.camera import Intrinsics
from vlm.methods.depthlm.sample import SampleSettings

K = Intrinsics(80.0, 60.0, 50.0, 30.0, 96, 64)


def made(distance) -> dense.Dense:
  """A map of given distances, as if they had been answered."""
  grid = dense.grid_pixels(96, 64, 6)
  rays = np.ones((*grid.shape[:2], 3))
  rays[..., :2] = (grid + 0.5 - [K.cx, K.cy]) / [K.fx, K.fy]
  rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
  image = np.zeros((64, 96, 3), np.uint8)
  image[..., 0] = np.arange(96)
  colours = image[grid[..., 1], grid[..., 0]]
  distance = np.asarray(distance, np.float32)
  return dense.Dense(grid, distance, rays, colours, [], {'empty': 2})


def test_cells_are_square_and_cover_the_picture():
  grid = dense.grid_pixels(96, 64, 6)
  assert grid.shape == (4, 6, 2)
  np.testing.assert_array_equal(grid[0, :, 0], [8, 24, 40, 56, 72, 88])
  np.testing.assert_array_equal(grid[:, 0, 1], [8, 24, 40, 56])
  assert dense.grid_pixels(3000, 40, 5).shape == (1, 5, 2)
  every = dense.grid_pixels(5, 4, 5)
  np.testing.assert_array_equal(every[..., 0], [range(5)] * 4)
  for cells in (0, 97):
    with pytest.raises(ValueError, match='--grid='):
      dense.grid_pixels(96, 64, cells)


def test_a_wall_becomes_a_plane(tmp_path):
  """A wall 3 m ahead: distances differ, depth and the points' z do not."""
  ahead = made(np.zeros((4, 6)))
  wall = made(3 / ahead.rays[..., 2])
  assert np.ptp(wall.distance) > 0.1
  np.testing.assert_allclose(wall.z, 3, rtol=1e-6)
  points, colours = wall.cloud()
  np.testing.assert_allclose(points[:, 2], 3, rtol=1e-6)
  # Projected, the points are the pixels they came from.
  back = points[:, :2] / points[:, 2:] * [K.fx, K.fy] + [K.cx, K.cy] - 0.5
  np.testing.assert_allclose(back, wall.pixels.reshape(-1, 2), atol=1e-4)
  np.testing.assert_array_equal(colours[:, 0], wall.pixels[..., 0].ravel())


def test_files_hold_what_was_answered(tmp_path):
  distance = np.linspace(0.0001, 9, 24).reshape(4, 6)
  distance[1, 2:4] = np.nan
  found = made(distance)
  dense_files.write(tmp_path, found, {'model': 'm'})
  for name, want in (('distance', found.distance), ('depth', found.z)):
    got = np.load(tmp_path / f'{name}.npy')
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)
  said = json.loads((tmp_path / 'depth.json').read_text())
  assert said['model'] == 'm' and said['cells_lost'] == {'empty': 2}
  assert said['rows_at_y'] == [8, 24, 40, 56]
  # Read as a row's depth map: half a millimetre, and what is unknown.
  unit = said['metres_per_unit']
  back = DepthMap(tmp_path / 'depth.png', unit).read()
  np.testing.assert_allclose(back, found.z, atol=unit)
  picture = Image.open(tmp_path / 'depth.png')
  assert picture.mode == 'I;16' and float(picture.text['metres_per_unit']) == (
    0.001
  )
  header, _, body = (
    (tmp_path / 'cloud.ply').read_bytes().partition(b'end_header\n')
  )
  assert b'element vertex 22\n' in header and b'little_endian' in header
  fields = [('xyz', '<f4', 3), ('rgb', 'u1', 3)]
  rows = np.frombuffer(body, fields)
  points, colours = found.cloud()
  np.testing.assert_array_equal(rows['xyz'], points)
  np.testing.assert_array_equal(rows['rgb'], colours)
  figure = Figure(layout='constrained')
  dense_files.draw(figure, np.zeros((64, 96, 3), np.uint8), found)
  assert len(figure.axes) == 3  # picture, map, bar


def test_far_depths_take_a_coarser_unit_rather_than_be_cut(tmp_path):
  metres = np.array([[0.002, 65.0], [80.0, np.nan]])
  unit = dense_files.write_png(tmp_path / 'far.png', metres)
  assert unit == pytest.approx(0.01)
  stored = np.asarray(Image.open(tmp_path / 'far.png'))
  np.testing.assert_array_equal(stored, [[1, 6500], [8000, 0]])


def test_a_camera_of_another_picture_is_refused():
  image = np.zeros((64, 96, 3), np.uint8)
  with pytest.raises(BadRecord, match='bad intrinsics: fx 0.01'):
    dense.map_depth(
      None,
      image,
      K._replace(fx=0.01),
      SampleSettings(),
      4,
      mesh=None,
      batches=None,
    )
