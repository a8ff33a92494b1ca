"""nuScenes key frames (Caesar et al., CVPR 2020).

  v1.0-trainval/{scene,sample,sample_data,calibrated_sensor,ego_pose,sensor}.json
  samples/CAM_FRONT/*.jpg
  samples/LIDAR_TOP/*.pcd.bin       float32 [N, 5], sensor frame

Split 'train' is v1.0-trainval without the scenes of v1.0-mini, on which
DepthLM evaluates; 'mini' is v1.0-mini. A laser point goes through the car at
laser time, the world and the car at camera time. The scripts released with
DepthLM skip the world, so that the car's motion between the two is lost, and
write z; coordinates are floored without the half pixel of a calibration that
counts from pixel centres.
"""

import functools
import json
from collections.abc import Iterator

import numpy as np
from etils import epath

from data.records import BadRecord
from data.sources.depth_corpora import frames, points

CAMERAS = (
  'CAM_FRONT',
  'CAM_FRONT_RIGHT',
  'CAM_BACK_RIGHT',
  'CAM_BACK',
  'CAM_BACK_LEFT',
  'CAM_FRONT_LEFT',
)
LASER = 'LIDAR_TOP'
MINI = {
  f'scene-{n:04d}' for n in (61, 103, 553, 655, 757, 796, 916, 1077, 1094, 1100)
}
_TABLES = {'train': 'v1.0-trainval', 'mini': 'v1.0-mini'}


def _scenes(source: epath.Path, split: str) -> list[frames.Scene]:
  folder = source / _TABLES[split]
  if not folder.exists():
    return []

  def table(name):
    return json.loads((folder / f'{name}.json').read_text())

  scenes = {row['token']: row['name'] for row in table('scene')}
  if split == 'train':
    scenes = {token: n for token, n in scenes.items() if n not in MINI}
  samples = {
    row['token']: row for row in table('sample') if row['scene_token'] in scenes
  }
  channels = {row['token']: row['channel'] for row in table('sensor')}
  mounts = {row['token']: row for row in table('calibrated_sensor')}
  shots = _key_shots(table('sample_data'), samples, mounts, channels)
  wanted = {
    shot['ego_pose_token'] for s in shots.values() for shot in s.values()
  }
  cars = {r['token']: r for r in table('ego_pose') if r['token'] in wanted}
  found = {name: [] for name in scenes.values()}
  for sample in sorted(samples.values(), key=lambda row: row['timestamp']):
    views = {
      channel: _view(shot, mounts, cars)
      for channel, shot in shots.get(sample['token'], {}).items()
    }
    found[scenes[sample['scene_token']]].append((sample['token'], views))
  return [frames.Scene(name, found[name]) for name in sorted(found)]


def _key_shots(rows, samples, mounts, channels):
  """sample token -> {channel: row of sample_data}."""
  shots = {}
  for row in rows:
    if row['is_key_frame'] and row['sample_token'] in samples:
      mount = mounts[row['calibrated_sensor_token']]
      channel = channels[mount['sensor_token']]
      if channel in CAMERAS or channel == LASER:
        shots.setdefault(row['sample_token'], {})[channel] = row
  return shots


def _view(shot, mounts, cars):
  mount = mounts[shot['calibrated_sensor_token']]
  car = cars[shot['ego_pose_token']]
  return {
    'file': shot['filename'],
    'timestamp': shot['timestamp'] / 1e6,
    'size': (shot.get('width'), shot.get('height')),
    'matrix': mount['camera_intrinsic'],
    'mount': (mount['rotation'], mount['translation']),
    'car': (car['rotation'], car['translation']),
  }


def _frames(
  source: epath.Path, scene: frames.Scene, official: bool
) -> Iterator[tuple[str, frames.Read]]:
  for token, views in scene.data:
    for name in CAMERAS:
      if name in views:
        yield (
          f'{token}_{name}',
          functools.partial(
            _read, source, views[name], views.get(LASER), official
          ),
        )


def _read(source, view, laser, official, draw):
  if laser is None:
    raise BadRecord('missing depth', f'the sample has no {LASER}')
  image = frames.read_bytes(source / view['file'])
  cloud = _cloud(source / laser['file'])
  mount, car = points.rigid(*view['mount']), points.rigid(*view['car'])
  cloud = points.move(points.rigid(*laser['mount']), cloud)
  if not official:
    cloud = points.move(points.rigid(*laser['car']), cloud)
    cloud = points.move(points.inverse(car), cloud)
  cloud = points.move(points.inverse(mount), cloud)
  (fx, _, cx), (_, fy, cy) = view['matrix'][:2]
  if official:
    camera = frames.stated(fx, fy, cx, cy, *view['size'])
  else:
    camera = frames.centred(fx, fy, cx, cy, *view['size'])
  pixels, depth = points.visible(cloud, camera, 'z' if official else 'range')
  chosen = draw.among(len(pixels))
  return frames.DepthFrame(
    image,
    camera,
    pixels[chosen],
    depth[chosen],
    'z' if official else 'range',
    pose=car @ mount,
    timestamp=view['timestamp'],
  )


def _cloud(path):
  encoded = frames.read_bytes(path, 'missing depth')
  if len(encoded) % 20:
    raise BadRecord('bad depth', f'{path}: {len(encoded)} bytes, not N x 20')
  cloud = np.frombuffer(encoded, '<f4').reshape(-1, 5)[:, :3]
  return cloud[np.isfinite(cloud).all(1)].astype(np.float64)


CORPUS = frames.Corpus(
  'v1.0-{trainval,mini}/*.json and samples/{CAM_*,LIDAR_TOP}/*',
  tuple(_TABLES),
  _scenes,
  _frames,
)
