"""ScanNet++, iPhone recordings (Yeshwanth et al., ICCV 2023).

  data/SCENE/iphone/pose_intrinsic_imu.json   intrinsic, aligned_pose per frame
  data/SCENE/iphone/rgb/frame_000000.jpg      or rgb.mkv
  data/SCENE/iphone/depth/frame_000000.png    or depth.bin; mm along the axis
  data/SCENE/iphone/rgb_masks/frame_000000.png  or rgb_mask.mkv; 0 = anonymised

The depth map has 256 x 192 cells for 1920 x 1440 pixels; a label is the pixel
under the centre of a cell, and the camera, that of its own frame, counts from
pixel centres. The scripts released with DepthLM shrink to 1280 x 960, use one
camera for all phones and write sqrt(xn^2 + yn^2 + z^2), xn and yn not times z.
Poses are as published: their centre is certain, their axes are ARKit's.
"""

import functools
import io
import json
import zlib
from collections.abc import Iterator

import numpy as np
import pyarrow
from etils import epath
from PIL import Image

from data.image import open_image
from data.records import BadRecord
from data.sources.depth_corpora import depth_files, frames
from vlm.methods.depthlm.camera import Intrinsics

CELLS = 192, 256
METRES = 1 / 1000
OFFICIAL_CAMERA = Intrinsics(
  1427.4375 * 2 / 3, 1427.4375 * 2 / 3, 959.5 * 2 / 3, 719.5 * 2 / 3, 1280, 960
)


def _scenes(source: epath.Path, split: str) -> list[frames.Scene]:
  del split
  found = frames.find(source, 'iphone/pose_intrinsic_imu.json', 2)
  places = [epath.Path(p).parent for p in found]
  return [frames.Scene(p.parent.name, p.as_posix()) for p in places]


def _frames(
  source: epath.Path, scene: frames.Scene, official: bool
) -> Iterator[tuple[str, frames.Read]]:
  folder = source / scene.data
  facts = json.loads((folder / 'pose_intrinsic_imu.json').read_text())
  pictures = _Pictures(folder / 'rgb', folder / 'rgb.mkv', '.jpg')
  masks = _Pictures(folder / 'rgb_masks', folder / 'rgb_mask.mkv', '.png')
  cells = _Depths(folder)
  read = _read_official if official else _read
  for name in sorted(facts):
    yield (
      name,
      functools.partial(read, name, facts[name], pictures, masks, cells),
    )


class _Pictures:
  """Images of a folder, or of a video that is decoded in order."""

  def __init__(self, folder: epath.Path, video: epath.Path, suffix: str):
    self._folder, self._video, self._suffix = folder, video, suffix
    self._decoder, self._next = None, 0

  @property
  def exist(self) -> bool:
    return self._folder.exists() or self._video.exists()

  def get(self, name: str) -> bytes | np.ndarray:
    """File bytes, or uint8 [H, W, 3] of a video.

    Raises:
      BadRecord: 'missing image'.
    """
    if self._folder.exists():
      return frames.read_bytes(self._folder / f'{name}{self._suffix}')
    index = _index(name)
    if self._decoder is None or index < self._next:
      self._decoder, self._next = _decode_video(self._video), 0
    for picture in self._decoder:
      self._next += 1
      if self._next > index:
        return picture.to_ndarray(format='rgb24')
    raise BadRecord('missing image', f'{self._video} ends before {name}')


def _decode_video(path):
  try:
    import av
  except ImportError as e:
    raise ValueError(
      f'{path} is a video; pip install av, or this package with [video]'
    ) from e
  if not path.exists():
    raise BadRecord('missing image', f'{path} does not exist')
  with av.open(str(path)) as container:
    yield from container.decode(video=0)


class _Depths:
  """Depth cells in mm of a folder of pngs, or of depth.bin.

  depth.bin is either one deflated block of float32 metres, or per frame a
  4-byte length and lz4 of uint16 mm or deflated float32 metres.
  """

  def __init__(self, folder: epath.Path):
    self._folder, self._path = folder / 'depth', folder / 'depth.bin'
    self._blocks = None

  def get(self, name: str) -> np.ndarray:
    """uint16 [192, 256].

    Raises:
      BadRecord: 'missing depth' or 'bad depth'.
    """
    if self._folder.exists():
      return depth_files.read_grey(self._folder / f'{name}.png')
    if self._blocks is None:
      self._blocks = _blocks(frames.read_bytes(self._path, 'missing depth'))
    index = _index(name)
    if index >= len(self._blocks):
      raise BadRecord('missing depth', f'{self._path} ends before {name}')
    return _cells(self._blocks[index])


def _index(name):
  return int(name.rpartition('_')[2])


def _blocks(encoded):
  try:
    whole = zlib.decompress(encoded, wbits=-zlib.MAX_WBITS)
    return list(np.frombuffer(whole, '<f4').reshape(-1, *CELLS))
  except (zlib.error, ValueError):
    pass  # The other of the two published forms.
  blocks, stream = [], io.BytesIO(encoded)
  while size := stream.read(4):
    blocks.append(stream.read(int.from_bytes(size, 'little')))
  return blocks


def _cells(block):
  if isinstance(block, np.ndarray):
    return _millimetres(block)
  count = CELLS[0] * CELLS[1]
  try:
    raw = pyarrow.decompress(block, 2 * count, codec='lz4_raw')
    return np.frombuffer(raw, '<u2').reshape(CELLS)
  except (OSError, ValueError):
    pass  # The other of the two published forms.
  try:
    raw = zlib.decompress(block, wbits=-zlib.MAX_WBITS)
    return _millimetres(np.frombuffer(raw, '<f4').reshape(CELLS))
  except (zlib.error, ValueError) as e:
    raise BadRecord('bad depth', f'a frame of depth.bin: {e}') from e


def _millimetres(metres):
  known = frames.between(metres, 0, 65.535)
  return np.where(known, metres * 1000, 0).astype(np.uint16)


def _mask(masks, name, size):
  """Where a mask picture, brought to `size`, is not 0; None without masks."""
  if not masks.exist:
    return None
  picture = open_image(masks.get(name)).convert('L')
  if picture.size != size:
    picture = picture.resize(size, Image.Resampling.NEAREST)
  return np.asarray(picture) > 0


def _read(name, facts, pictures, masks, cells, draw):
  z = cells.get(name)
  image = pictures.get(name)
  width, height = open_image(image).size
  try:
    (fx, _, cx), (_, fy, cy), _ = facts['intrinsic']
  except (KeyError, TypeError, ValueError) as e:
    raise BadRecord('bad intrinsics', f'no 3 x 3 intrinsic: {e}') from e
  camera = frames.centred(fx, fy, cx, cy, width, height)
  places = draw.pixels(z > 0)
  stretch = width / z.shape[1], height / z.shape[0]
  pixels = ((places + 0.5) * stretch).astype(np.int64)
  mask = _mask(masks, name, (width, height))
  if mask is not None:
    kept = frames.at(mask, pixels) > 0
    places, pixels = places[kept], pixels[kept]
  depth = frames.ranges(frames.at(z, places) * METRES, pixels, camera)
  return frames.DepthFrame(image, camera, pixels, depth, **_moment(facts))


def _read_official(name, facts, pictures, masks, cells, draw):
  z = cells.get(name)
  camera = OFFICIAL_CAMERA
  size = camera.width, camera.height
  picture = open_image(pictures.get(name))
  image = picture.resize(size, Image.Resampling.BICUBIC)
  mask = _mask(masks, name, size)
  if mask is None:
    mask = np.ones(size[::-1], bool)
  pixels = draw.pixels(mask)
  shrink = z.shape[1] / size[0], z.shape[0] / size[1]
  z = frames.at(z, (pixels * shrink).astype(np.int64)) * METRES
  pixels, z = pixels[z > 0], z[z > 0]
  x, y = ((pixels - camera[2:4]) / camera[:2]).T
  depth = np.sqrt(x**2 + y**2 + z**2)
  return frames.DepthFrame(
    np.asarray(image), camera, pixels, depth, **_moment(facts)
  )


def _moment(facts):
  pose, time = facts.get('aligned_pose'), facts.get('timestamp')
  if pose is not None:
    pose = np.array(pose, np.float64).reshape(4, 4)
  return {'pose': pose, 'timestamp': None if time is None else float(time)}


CORPUS = frames.Corpus(
  'data/SCENE/iphone/{pose_intrinsic_imu.json,rgb,depth or rgb.mkv,depth.bin}',
  ('full',),
  _scenes,
  _frames,
  every=10,
)
