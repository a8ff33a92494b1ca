"""Waymo Open Dataset, perception v2 in parquet (Sun et al., CVPR 2020).

  training/camera_image/SEGMENT.parquet      and beside it camera_calibration,
  lidar, lidar_calibration, lidar_camera_projection, lidar_pose, vehicle_pose

Version 2 is read because pyarrow opens it; version 1 would need TensorFlow's
records. Points are the first returns of the roof laser, the only one with a
pose per pixel; the corpus itself projects them into the images, rolling shutter
and lens included, so labels sit on exact pixels of the bent image. Images are
bent by Brown-Conrady lenses, and (0, 0) is the edge of the first pixel.

The scripts released with DepthLM straighten images onto a centred principal
point but move label pixels by the map of the opposite direction, up to 16
pixels off, and leave the time between laser frame and image out.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet
from etils import epath
from PIL import Image

from data.image import open_image
from data.records import BadRecord
from data.sources.depth_corpora import frames, points, released
from vlm.methods.depthlm.lens import Lens

ROOF = 1
OFFICIAL_FOCAL = 1000.0
SPLITS = {'train': 'training', 'val': 'validation'}
_TIME, _CAMERA, _LASER = (
  f'key.{name}'
  for name in ('frame_timestamp_micros', 'camera_name', 'laser_name')
)
# Their cameras look along x with z up, ours along z with y down.
_AXES = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])


class _Component:
  """Rows of one component by key; the last row group read is kept."""

  def __init__(self, path: epath.Path, keys: tuple[str, ...]):
    # After the class's name, as in [LiDARComponent].range_image_return1.shape.
    self._name = str(path)
    self._file = pyarrow.parquet.ParquetFile(self._name)
    self._places, self._group = {}, (-1, None)
    for group in range(self._file.num_row_groups):
      table = self._file.read_row_group(group, columns=list(keys))
      for row, key in enumerate(zip(*table.to_pydict().values())):
        self._places[key] = group, row

  def __contains__(self, key: tuple) -> bool:
    return key in self._places

  def keys_in_order(self) -> list[tuple]:
    return sorted(self._places)

  def row(self, key: tuple) -> dict[str, Any]:
    """Values by name without the class: numbers, bytes, flat arrays or None.

    Raises:
      BadRecord: 'missing depth' when there is no such row.
    """
    if key not in self._places:
      raise BadRecord('missing depth', f'no row {key} in {self._name}')
    group, row = self._places[key]
    if self._group[0] != group:
      self._group = group, self._file.read_row_group(group)
    table = self._group[1].slice(row, 1)
    return {
      name.rpartition('].')[2]: _value(table.column(name).combine_chunks())
      for name in table.column_names
    }


def _value(column):
  if pyarrow.types.is_list(column.type) or pyarrow.types.is_fixed_size_list(
    column.type
  ):
    if column.null_count:
      return None
    return column.flatten().to_numpy(zero_copy_only=False)
  return column[0].as_py()


def _scenes(source: epath.Path, split: str) -> list[frames.Scene]:
  folder = SPLITS[split]
  found = (source / folder / 'camera_image').glob('*.parquet')
  return [frames.Scene(name, folder) for name in sorted(p.stem for p in found)]


def _frames(
  source: epath.Path, scene: frames.Scene, official: bool
) -> Iterator[tuple[str, frames.Read]]:
  def component(name, *keys):
    path = source / scene.data / name / f'{scene.name}.parquet'
    return _Component(path, keys)

  images = component('camera_image', _TIME, _CAMERA)
  cameras = component('camera_calibration', _CAMERA)
  sweeps = _Sweeps(component)
  for key in images.keys_in_order():
    yield (
      '{}_{}'.format(*key),
      functools.partial(_read, images, cameras, sweeps, key, official),
    )


class _Sweeps:
  """Points of the roof laser by time, in the world; the last one is kept."""

  def __init__(self, component):
    laser = _TIME, _LASER
    self._ranges = component('lidar', *laser)
    self._projections = component('lidar_camera_projection', *laser)
    self._poses = component('lidar_pose', *laser)
    self._cars = component('vehicle_pose', _TIME)
    self._mount = component('lidar_calibration', _LASER).row((ROOF,))
    self._kept = (None, None)

  def car(self, time: int) -> np.ndarray:
    """World from vehicle at the laser frame's time, [4, 4]."""
    row = self._cars.row((time,))
    return row['world_from_vehicle.transform'].reshape(4, 4)

  def at(self, time: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [N, 3] in the world and projections [N, 6] of one frame."""
    if self._kept[0] != time:
      self._kept = time, self._read((time, ROOF))
    return self._kept[1]

  def _read(self, key):
    distance = _image(self._ranges.row(key))[..., 0]
    projections = _image(self._projections.row(key))
    world = _cloud(distance, self._mount, _image(self._poses.row(key)))
    real = distance > 0
    return world[real], projections[real]


def _image(row):
  values = row['range_image_return1.values']
  if values is None:
    raise BadRecord('missing depth', 'no first return')
  return values.reshape(row['range_image_return1.shape'])


def _cloud(distance, mount, poses):
  """Range image [h, w] metres, pose per pixel [h, w, 6] -> [h, w, 3] world."""
  height, width = distance.shape
  turn = mount['extrinsic.transform'].reshape(4, 4)
  up = mount['beam_inclination.values']
  if up is None:
    low, high = mount['beam_inclination.min'], mount['beam_inclination.max']
    up = low + (np.arange(height) + 0.5) / height * (high - low)
  # The first row looks up, and columns run against the azimuth.
  up = np.asarray(up, np.float64)[::-1, None]
  around = np.pi - (np.arange(width) + 0.5) * (2 * np.pi / width)
  around = around - np.arctan2(turn[1, 0], turn[0, 0])
  rays = np.broadcast_arrays(
    np.cos(around) * np.cos(up), np.sin(around) * np.cos(up), np.sin(up)
  )
  cloud = points.move(turn, np.stack(rays, -1) * distance[..., None])
  motion = _rotations(poses[..., :3].astype(np.float64))
  return np.einsum('hwij,hwj->hwi', motion, cloud) + poses[..., 3:]


def _rotations(angles):
  """Roll, pitch, yaw [..., 3] about x, then y, then z -> [..., 3, 3]."""
  (a, b, c), (d, e, f) = (
    np.moveaxis(g(angles), -1, 0) for g in (np.cos, np.sin)
  )
  rows = [
    [c * b, c * e * d - f * a, c * e * a + f * d],
    [f * b, f * e * d + c * a, f * e * a - c * d],
    [-e, b * d, b * a],
  ]
  return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def _read(images, cameras, sweeps, key, official, draw):
  time, name = key
  shot = images.row(key)
  if (name,) not in cameras:
    raise BadRecord('bad intrinsics', f'no calibration of camera {name}')
  facts = cameras.row((name,))
  mount = facts['extrinsic.transform'].reshape(4, 4)
  world, projections = sweeps.at(time)
  pixels, mine = _pixels(projections, name, facts['width'], facts['height'])
  car = sweeps.car(time) if official else shot['pose.transform'].reshape(4, 4)
  pose = car @ mount
  distance = np.linalg.norm(world[mine] - pose[:3, 3], axis=1)
  chosen = points.nearest(pixels, distance)
  chosen = chosen[draw.among(len(chosen))]
  pixels, distance = pixels[chosen], distance[chosen]
  camera = frames.stated(
    *(facts[f'intrinsic.{k}'] for k in ('f_u', 'f_v', 'c_u', 'c_v')),
    facts['width'],
    facts['height'],
  )
  bends = [facts[f'intrinsic.{k}'] for k in ('k1', 'k2', 'p1', 'p2', 'k3')]
  frame = frames.DepthFrame(
    shot['image'],
    camera,
    pixels,
    distance,
    lens=Lens('brown_conrady', tuple(bends)),
    pose=pose @ _AXES,
    timestamp=shot['pose_timestamp'],
  )
  return _official(frame) if official else frame


def _pixels(projections, name, width, height):
  """Pixels [N, 2] of the points that camera `name` sees, and which they are."""
  first, second = projections[:, 0] == name, projections[:, 3] == name
  places = np.where(first[:, None], projections[:, 1:3], projections[:, 4:6])
  pixels = places.astype(np.int64)
  inside = ((pixels >= 0) & (pixels < (width, height))).all(1)
  mine = np.flatnonzero((first | second) & inside)
  return pixels[mine], mine


def _official(frame):
  fx, fy, cx, cy, width, height = frame.intrinsics
  bent = frames.centred(fx, fy, cx, cy, width, height)
  straight = frames.centred(fx, fy, width / 2, height / 2, width, height)
  pixels = released.bent_places(frame.pixels, straight, frame.lens, bent) - 0.5
  known = np.isfinite(pixels).all(1)
  pixels = np.where(known[:, None], pixels, -1).astype(np.int64)
  image = np.asarray(open_image(frame.image))
  image = released.straighten(image, bent, frame.lens, straight)
  scale = min(OFFICIAL_FOCAL / fx, 1)
  size = int(width * scale), int(height * scale)
  if scale < 1:
    picture = Image.fromarray(image)
    image = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    pixels = (pixels * scale).astype(np.int64)
  kept = known & ((pixels >= 0) & (pixels < size)).all(1)
  centre = width / 2 * scale, height / 2 * scale
  return frames.DepthFrame(
    image,
    frames.stated(fx * scale, fy * scale, *centre, *size),
    pixels[kept],
    frame.depth[kept],
    pose=frame.pose,
    timestamp=frame.timestamp,
  )


CORPUS = frames.Corpus(
  '{training,validation}/{camera_image,lidar,...}/SEGMENT.parquet (v2.0)',
  tuple(SPLITS),
  _scenes,
  _frames,
  max_focal=1000.0,
)
