"""Argoverse 2 Sensor Dataset (Wilson et al., NeurIPS D&B 2021).

  train/LOG/sensors/cameras/ring_front_center/TIMESTAMP_NS.jpg
  train/LOG/sensors/lidar/TIMESTAMP_NS.feather           x, y, z in the car
  train/LOG/calibration/{intrinsics,egovehicle_SE3_sensor}.feather
  train/LOG/city_SE3_egovehicle.feather

All seven ring cameras, every image, the nearest sweep in time, points moved
with the car between the two moments. The camera counts from pixel centres. The
scripts released with DepthLM write the same range at the rounded pixel, but
shrink images to fx = 1000, say fy = 1000 whatever it became, and cut scaled
coordinates to integers. Feather is read by pyarrow.
"""

import bisect
import functools
from collections.abc import Iterator

import numpy as np
import pyarrow
from etils import epath
from PIL import Image
from pyarrow import feather

from data.image import open_image
from data.records import BadRecord
from data.sources.depth_corpora import frames, points

CAMERAS = tuple(
  f'ring_{place}'
  for place in (
    'front_center',
    'front_left',
    'front_right',
    'rear_left',
    'rear_right',
    'side_left',
    'side_right',
  )
)
# Sweeps come at 10 Hz; 2 ms for jitter.
MAX_GAP_NS = 51_000_000
OFFICIAL_FOCAL = 1000.0


def _scenes(source: epath.Path, split: str) -> list[frames.Scene]:
  found = (source / split).glob('*/city_SE3_egovehicle.feather')
  return [
    frames.Scene(name, split) for name in sorted(p.parent.name for p in found)
  ]


def _table(path):
  return feather.read_table(str(path)).to_pylist()


def _motion(row):
  return points.rigid(
    [row[k] for k in ('qw', 'qx', 'qy', 'qz')],
    [row[k] for k in ('tx_m', 'ty_m', 'tz_m')],
  )


class _Log:
  """Calibration, poses and sweep times of one log."""

  def __init__(self, folder: epath.Path):
    self.folder = folder
    sensors = _table(folder / 'calibration' / 'egovehicle_SE3_sensor.feather')
    self.mounts = {row['sensor_name']: _motion(row) for row in sensors}
    cameras = _table(folder / 'calibration' / 'intrinsics.feather')
    self.cameras = {row['sensor_name']: row for row in cameras}
    cars = _table(folder / 'city_SE3_egovehicle.feather')
    self._cars = {row['timestamp_ns']: row for row in cars}
    sweeps = (folder / 'sensors' / 'lidar').glob('*.feather')
    self._sweeps = sorted(int(p.stem) for p in sweeps)

  def car(self, time: int) -> np.ndarray:
    if time not in self._cars:
      raise BadRecord('missing depth', f'no pose of the car at {time} ns')
    return _motion(self._cars[time])

  def sweep(self, time: int) -> tuple[int, np.ndarray]:
    """The nearest sweep: its time and points in the car, [N, 3]."""
    place = bisect.bisect_left(self._sweeps, time)
    near = self._sweeps[max(place - 1, 0) : place + 1]
    best = min(near, key=lambda t: abs(t - time), default=None)
    if best is None or abs(best - time) > MAX_GAP_NS:
      raise BadRecord('missing depth', f'no sweep within 51 ms of {time} ns')
    path = self.folder / 'sensors' / 'lidar' / f'{best}.feather'
    try:
      table = feather.read_table(str(path), columns=['x', 'y', 'z'])
    except (pyarrow.ArrowInvalid, OSError) as e:
      raise BadRecord('bad depth', f'{path}: {e}') from e
    cloud = np.stack([c.to_numpy() for c in table.columns], 1)
    return best, cloud[np.isfinite(cloud).all(1)].astype(np.float64)


def _frames(
  source: epath.Path, scene: frames.Scene, official: bool
) -> Iterator[tuple[str, frames.Read]]:
  folder = source / scene.data / scene.name
  log = _Log(folder)
  for name in CAMERAS:
    found = (folder / 'sensors' / 'cameras' / name).glob('*.jpg')
    for path in sorted(found, key=lambda p: int(p.stem)):
      yield (
        f'{name}/{path.stem}',
        functools.partial(_read, log, name, path, official),
      )


def _read(log, name, path, official, draw):
  if name not in log.cameras or name not in log.mounts:
    raise BadRecord('bad intrinsics', f'no calibration of {name}')
  facts = log.cameras[name]
  numbers = [facts[k] for k in ('fx_px', 'fy_px', 'cx_px', 'cy_px')]
  size = int(facts['width_px']), int(facts['height_px'])
  camera = frames.centred(*numbers, *size)
  time = int(path.stem)
  image = frames.read_bytes(path)
  car, mount = log.car(time), log.mounts[name]
  sweep_time, cloud = log.sweep(time)
  world = points.move(log.car(sweep_time), cloud)
  pose = car @ mount
  seen = points.move(points.inverse(pose), world)
  extra = {'pose': pose, 'timestamp': time / 1e9}
  if official:
    raw = frames.stated(*numbers, *size)
    return _official(image, raw, seen, draw, extra)
  pixels, depth = points.visible(seen, camera)
  chosen = draw.among(len(pixels))
  return frames.DepthFrame(
    image, camera, pixels[chosen], depth[chosen], **extra
  )


def _official(image, camera, seen, draw, extra):
  places = points.image_points(seen, camera)
  smaller = camera._replace(width=camera.width - 1, height=camera.height - 1)
  kept = np.flatnonzero(points.seen(places, seen, smaller))
  chosen = kept[draw.among(len(kept))]
  pixels = np.rint(places[chosen]).astype(np.int64)
  depth = np.linalg.norm(seen[chosen], axis=1)
  if camera.fx > OFFICIAL_FOCAL:
    scale = OFFICIAL_FOCAL / camera.fx
    picture = open_image(image)
    size = int(picture.width * scale), int(picture.height * scale)
    image = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    pixels = (pixels * scale).astype(np.int64)
    focal = OFFICIAL_FOCAL
    centre = camera.cx * scale, camera.cy * scale
    camera = frames.stated(focal, focal, *centre, *size)
  return frames.DepthFrame(image, camera, pixels, depth, **extra)


CORPUS = frames.Corpus(
  '{train,val}/LOG/{sensors,calibration,city_SE3_egovehicle.feather}',
  ('train', 'val', 'test'),
  _scenes,
  _frames,
  max_focal=1000.0,
)
