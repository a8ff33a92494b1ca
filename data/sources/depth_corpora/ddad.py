"""DDAD, Dense Depth for Autonomous Driving (Guizilini et al., CVPR 2020).

  ddad_train_val/ddad.json                scene_splits: 0 train, 1 val
  ddad_train_val/000000/scene_HASH.json   samples, data: files and world poses
  ddad_train_val/000000/calibration/KEY.json
  ddad_train_val/000000/rgb/CAMERA_01/*.png
  ddad_train_val/000000/point_cloud/LIDAR/*.npz   data [N, 4], sensor frame

Laser points go through the world into each camera, both poses being those of
their own moments. The scripts released with DepthLM write z of the point that
happens to come last on a pixel, with image coordinates cut to integers;
'correct' is the range of the nearest point, counted from pixel centres.
"""

import datetime
import functools
import io
import json
from collections.abc import Iterator

import numpy as np
from etils import epath

from data.records import BadRecord
from data.sources.depth_corpora import frames, points

CAMERAS = tuple(f'CAMERA_{n:02d}' for n in (1, 5, 6, 7, 8, 9))
_SPLITS = {'val': '1', 'train': '0'}


def _scenes(source: epath.Path, split: str) -> list[frames.Scene]:
  found = [source / 'ddad.json', *source.glob('*/ddad.json')]
  roots = [p for p in found if p.exists()]
  if not roots:
    return []
  index = json.loads(roots[0].read_text())
  place = roots[0].parent.relative_to(source)
  files = index['scene_splits'][_SPLITS[split]]['filenames']
  return [
    frames.Scene(epath.Path(name).parent.as_posix(), str(place / name))
    for name in sorted(files)
  ]


def _frames(
  source: epath.Path, scene: frames.Scene, official: bool
) -> Iterator[tuple[str, frames.Read]]:
  path = source / scene.data
  content = json.loads(path.read_text())
  data = {datum['key']: datum for datum in content['data']}
  for number, sample in enumerate(content['samples']):
    present = [data[key] for key in sample['datum_keys'] if key in data]
    by_name = {datum['id']['name'].upper(): datum for datum in present}
    calibration = f'calibration/{sample["calibration_key"]}.json'
    for name in CAMERAS:
      if name in by_name:
        yield (
          f'{number:06d}_{name}',
          functools.partial(
            _read,
            path.parent,
            by_name[name],
            by_name.get('LIDAR'),
            calibration,
            official,
          ),
        )


def _read(root, camera_datum, laser, calibration, official, draw):
  if laser is None:
    raise BadRecord('missing depth', 'the sample has no LIDAR')
  picture = camera_datum['datum']['image']
  cloud = laser['datum']['point_cloud']
  image = frames.read_bytes(root / picture['filename'])
  pose = _pose(picture['pose'])
  numbers = _calibration(root / calibration, camera_datum['id']['name'])
  size = int(picture['width']), int(picture['height'])
  world = points.move(_pose(cloud['pose']), _cloud(root / cloud['filename']))
  seen = points.move(points.inverse(pose), world)
  if official:
    camera = frames.stated(*numbers, *size)
    pixels, depth = _official(seen, camera)
  else:
    camera = frames.centred(*numbers, *size)
    pixels, depth = points.visible(seen, camera)
  chosen = draw.among(len(pixels))
  return frames.DepthFrame(
    image,
    camera,
    pixels[chosen],
    depth[chosen],
    'z' if official else 'range',
    pose=pose,
    timestamp=_seconds(camera_datum['id'].get('timestamp')),
  )


def _official(seen, camera):
  places = points.image_points(seen, camera)
  front = (seen[:, 2] > 0) & np.isfinite(places).all(1)
  pixels, z = np.trunc(places[front]).astype(np.int64), seen[front, 2]
  inside = ((pixels >= 0) & (pixels < camera[4:])).all(1)
  pixels, z = pixels[inside], z[inside]
  # The last point of a pixel is the first of the reversed list.
  _, last = np.unique(pixels[::-1], axis=0, return_index=True)
  last = len(pixels) - 1 - last
  return pixels[last], z[last]


def _pose(pose):
  turn, shift = pose['rotation'], pose['translation']
  return points.rigid(
    [turn[k] for k in ('qw', 'qx', 'qy', 'qz')], [shift[k] for k in 'xyz']
  )


def _calibration(path, name):
  content = json.loads(frames.read_bytes(path, 'bad intrinsics'))
  names = [n.upper() for n in content['names']]
  if name.upper() not in names:
    raise BadRecord('bad intrinsics', f'{path} has no {name}')
  found = content['intrinsics'][names.index(name.upper())]
  return [float(found[k]) for k in ('fx', 'fy', 'cx', 'cy')]


def _cloud(path):
  encoded = frames.read_bytes(path, 'missing depth')
  try:
    with np.load(io.BytesIO(encoded)) as archive:
      cloud = archive['data'][:, :3].astype(np.float64)
  except (ValueError, KeyError, OSError) as e:
    raise BadRecord('bad depth', f'{path}: {e}') from e
  return cloud[np.isfinite(cloud).all(1)]


def _seconds(text):
  if not text:
    return None
  return datetime.datetime.fromisoformat(text).timestamp()


CORPUS = frames.Corpus(
  'ddad_train_val/ddad.json and its scenes', tuple(_SPLITS), _scenes, _frames
)
