"""Taskonomy and Habitat-Matterport 3D as Omnidata publishes them.

Eftekhar et al., ICCV 2021; Zamir et al., CVPR 2018.

  rgb/hm3d/BUILDING/point_P_view_V_domain_rgb.png
  depth_euclidean/hm3d/BUILDING/..._domain_depth_euclidean.png   512 = 1 m
  mask_valid/hm3d/BUILDING/..._domain_mask_valid.png             0 = no mesh
  point_info/hm3d/BUILDING/..._domain_*.json      field of view, camera

and for Taskonomy the same under 'taskonomy', or BUILDING/rgb/..., the layout
of its own archives, where depth_zbuffer stands in when depth_euclidean is not
there. Cameras are square pinholes: f = W / 2 / tan(fov / 2), centred. The
poses are Blender's, turned to +z forward. DepthLM released no script for
either, so there are no 'official' labels.
"""

import functools
import json
import math
from collections.abc import Iterator

import numpy as np
from etils import epath

from data.records import BadRecord
from data.sources.depth_corpora import depth_files, frames, points

METRES = 1 / 512
EMPTY = 65535
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def _scenes(component, source: epath.Path, split: str) -> list[frames.Scene]:
  del split
  by_task = source / 'rgb' / component
  if by_task.exists():
    folders = [p.name for p in by_task.glob('*') if p.is_dir()]
  else:
    folders = [p.parent.name for p in source.glob('*/rgb')]
  return [frames.Scene(name) for name in sorted(folders)]


def _frames(
  component, source: epath.Path, scene: frames.Scene, official: bool
) -> Iterator[tuple[str, frames.Read]]:
  del official

  def folder(task):
    inner = source / task / component / scene.name
    return inner if inner.exists() else source / scene.name / task

  end = '_domain_rgb.png'
  for path in sorted(folder('rgb').glob(f'point_*{end}')):
    name = path.name.removesuffix(end)
    yield name, functools.partial(_read, folder, name)


def _read(folder, name, draw):
  info = _point_info(folder('point_info'), name)
  kind, raw = _depth(folder, name)
  height, width = raw.shape
  allowed = (raw > 0) & (raw < EMPTY)
  mask = folder('mask_valid') / f'{name}_domain_mask_valid.png'
  if mask.exists():
    allowed &= (
      frames.require_size(depth_files.read_grey(mask), width, height) > 0
    )
  try:
    fov = float(info['field_of_view_rads'])
  except (KeyError, TypeError, ValueError) as e:
    raise BadRecord('bad intrinsics', f'no field_of_view_rads: {e}') from e
  if not 0 < fov < math.pi:
    raise BadRecord('bad intrinsics', f'field_of_view_rads {fov}')
  focal = width / 2 / math.tan(fov / 2)
  camera = frames.stated(focal, focal, width / 2, height / 2, width, height)
  pixels = draw.pixels(allowed)
  depth = frames.at(raw, pixels) * METRES
  if kind == 'depth_zbuffer':
    depth = frames.ranges(depth, pixels, camera)
  image = frames.read_bytes(folder('rgb') / f'{name}_domain_rgb.png')
  return frames.DepthFrame(image, camera, pixels, depth, pose=_pose(info))


def _depth(folder, name):
  for kind in ('depth_euclidean', 'depth_zbuffer'):
    path = folder(kind) / f'{name}_domain_{kind}.png'
    if path.exists():
      return kind, depth_files.read_grey(path)
  raise BadRecord('missing depth', f'{path} does not exist')


def _point_info(folder, name):
  found = sorted(folder.glob(f'{name}_domain_*.json'))
  if not found:
    raise BadRecord('bad intrinsics', f'{folder} has no json of {name}')
  return json.loads(found[0].read_text())


def _pose(info):
  if 'camera_location' not in info:
    return None
  if 'camera_rotation_final_quaternion' in info:
    turn = points.rigid(info['camera_rotation_final_quaternion'], (0, 0, 0))
  elif 'camera_rotation_final' in info:
    turn = _euler(*info['camera_rotation_final'])
  else:
    return None
  turn = turn @ _FLIP
  turn[:3, 3] = info['camera_location']
  return turn


def _euler(x, y, z):
  """Blender's XYZ angles: about x first, then y, then z."""
  halves = [
    points.rigid((math.cos(a / 2), *(math.sin(a / 2) * np.eye(3)[k])), (0,) * 3)
    for k, a in enumerate((x, y, z))
  ]
  return halves[2] @ halves[1] @ halves[0]


TASKONOMY, HM3D = (
  frames.Corpus(
    f'{{rgb,depth_euclidean,point_info}}/{component}/BUILDING/point_*',
    ('full',),
    functools.partial(_scenes, component),
    functools.partial(_frames, component),
    official=False,
  )
  for component in ('taskonomy', 'hm3d')
)
