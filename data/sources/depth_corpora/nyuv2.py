"""NYU Depth v2, 1,449 labelled frames (Silberman et al., ECCV 2012).

Either the NYU folders of SUN RGB-D (561 x 427, as DepthLM evaluates), or the
original

  nyu_depth_v2_labeled.mat   HDF5: images [N, 3, W, H], rawDepths [N, W, H]
  splits.mat                 trainNdxs, testNdxs from 1; for --split only

whose 'official' labels do not exist. In the original, z is in metres, 0 in the
holes; its toolbox lays the camera over pixels counted from 1, so that the
principal point moves by -0.5 for us.
"""

import functools
from collections.abc import Iterator

import numpy as np
from etils import epath

from data.sources.depth_corpora import frames, sunrgbd

MAT = 'nyu_depth_v2_labeled.mat'
FOCAL = 518.85790117450188, 519.46961112127485
CENTRE = 325.58244941119034, 253.73616633400465  # from 1
_CHUNK = 50


def _open(path):
  try:
    import h5py
  except ImportError as e:
    raise ValueError(
      f'{path} is an HDF5 file; pip install h5py, or this package with [data]'
    ) from e
  return h5py.File(path, 'r')


def _scenes(source: epath.Path, split: str) -> list[frames.Scene]:
  if not (source / MAT).exists():
    if split != 'full':
      raise ValueError(
        f'--split={split} needs {MAT} and splits.mat in --source={source}; '
        'the folders of SUN RGB-D have --split=full only'
      )
    names = [name for name in sunrgbd.folders(source) if 'NYU' in name]
    return frames.chunks(names, 2 * _CHUNK)
  with _open(source / MAT) as file:
    indices = range(len(file['images']))
  if split != 'full':
    indices = _split_indices(source, split)
  return frames.chunks([f'{index:04d}' for index in indices], _CHUNK)


def _split_indices(source, split):
  from scipy import io

  path = source / 'splits.mat'
  if not path.exists():
    raise ValueError(f'--split={split} needs {path}')
  with path.open('rb') as file:
    return np.sort(io.loadmat(file)[f'{split}Ndxs'].ravel()).astype(int) - 1


def _frames(
  source: epath.Path, scene: frames.Scene, official: bool
) -> Iterator[tuple[str, frames.Read]]:
  if not (source / MAT).exists():
    for name in scene.data:
      yield (
        name,
        functools.partial(sunrgbd.read, source, name, 'depth', official),
      )
    return
  if official:
    raise ValueError(
      f'--labels=official of nyuv2 were made from SUN RGB-D, but --source='
      f'{source} holds {MAT}'
    )
  with _open(source / MAT) as file:
    for name in scene.data:
      yield name, functools.partial(_read, file, int(name))


def _read(file, index, draw):
  image = np.ascontiguousarray(file['images'][index].transpose(2, 1, 0))
  z = file['rawDepths'][index].T
  size = z.shape[1], z.shape[0]
  camera = frames.stated(*FOCAL, CENTRE[0] - 0.5, CENTRE[1] - 0.5, *size)
  pixels = draw.pixels(frames.between(z, sunrgbd.NEAR, sunrgbd.FAR))
  depth = frames.ranges(frames.at(z, pixels), pixels, camera)
  return frames.DepthFrame(image, camera, pixels, depth)


CORPUS = frames.Corpus(
  f'SUNRGBD/kv1/NYUdata/*/{{image,depth,intrinsics.txt}}, or {MAT}',
  ('full', 'train', 'test'),
  _scenes,
  _frames,
)
