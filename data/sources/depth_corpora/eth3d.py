"""ETH3D high-resolution multi-view, training DSLR jpgs (Schöps, CVPR 2017).

  SCENE/images/dslr_images/DSC_0001.JPG
  SCENE/dslr_calibration_jpg/{cameras,images}.txt       COLMAP's text format
  SCENE/ground_truth_depth/dslr_images/DSC_0001.JPG     raw float32 metres
                                                        along the axis, or inf

in one folder, or depth and images in two folders of --source. The images are
bent by THIN_PRISM_FISHEYE lenses and COLMAP counts from the upper left corner.
The scripts released with DepthLM drop the tangential and prism terms, count
from pixel centres, shrink to 1,280 rows and pair files by sorted base names;
here every image is paired with the depth of its own scene.
"""

import functools
from collections.abc import Iterator

import numpy as np
from etils import epath
from PIL import Image

from data.image import open_image
from data.records import BadRecord
from data.sources.depth_corpora import depth_files, frames, points, released
from vlm.methods.depthlm.lens import Lens

NEAR, FAR = 1e-4, 1e6  # metres, exclusive, as released
OFFICIAL_ROWS, OFFICIAL_MARGIN = 1280, 10


def _scenes(source: epath.Path, split: str) -> list[frames.Scene]:
  del split
  depths = {
    epath.Path(p).parent.name: p
    for p in frames.find(source, 'ground_truth_depth', 2)
  }
  scenes = []
  for path in frames.find(source, 'dslr_calibration_jpg/cameras.txt', 2):
    root = epath.Path(path).parent.parent
    depth = depths.get(root.name, f'{root}/ground_truth_depth')
    scenes.append(frames.Scene(root.name, [root.as_posix(), depth]))
  return scenes


def _frames(
  source: epath.Path, scene: frames.Scene, official: bool
) -> Iterator[tuple[str, frames.Read]]:
  root, depth = (source / place for place in scene.data)
  cameras = {
    words[0]: words[1:]
    for words in _table(root / 'dslr_calibration_jpg' / 'cameras.txt')
  }
  read = _read_official if official else _read
  for words in _table(root / 'dslr_calibration_jpg' / 'images.txt'):
    # Lines of keypoints come in threes, so that ten words are an image.
    if len(words) == 10:
      *motion, camera, name = words[1:]
      yield (
        name.rpartition('.')[0],
        functools.partial(
          read,
          root / 'images' / name,
          depth / name,
          cameras.get(camera),
          [float(n) for n in motion],
        ),
      )


def _table(path):
  lines = path.read_text().splitlines()
  return [line.split() for line in lines if line and not line.startswith('#')]


def _camera(words):
  """(fx, fy, cx, cy), (W, H), distortion of a line of cameras.txt."""
  if not words or words[0] != 'THIN_PRISM_FISHEYE' or len(words) != 15:
    raise BadRecord(
      'bad intrinsics', f'camera {words}, expected a THIN_PRISM_FISHEYE'
    )
  numbers = [float(n) for n in words[3:]]
  return numbers[:4], (int(words[1]), int(words[2])), tuple(numbers[4:])


def _read(image_path, depth_path, words, motion, draw):
  numbers, size, distortion = _camera(words)
  camera = frames.stated(*numbers, *size)
  lens = Lens('thin_prism_fisheye', distortion)
  image = frames.read_bytes(image_path)
  z = depth_files.read_floats(depth_path, *size)
  pixels = draw.pixels(frames.between(z, NEAR, FAR))
  depth = frames.ranges(frames.at(z, pixels), pixels, camera, lens)
  kept = np.isfinite(depth)
  return frames.DepthFrame(
    image,
    camera,
    pixels[kept],
    depth[kept],
    lens=lens,
    pose=points.inverse(points.rigid(motion[:4], motion[4:])),
  )


def _read_official(image_path, depth_path, words, motion, draw):
  numbers, (width, height), (k1, k2, _, _, k3, k4, *_) = _camera(words)
  lens = Lens('kannala_brandt', (k1, k2, k3, k4))
  bent = frames.centred(*numbers, width, height)
  image = np.asarray(open_image(frames.read_bytes(image_path)))
  z = depth_files.read_floats(depth_path, width, height)
  inner = np.zeros((height, width), bool)
  edge = OFFICIAL_MARGIN
  inner[edge + 1 : height - edge, edge + 1 : width - edge] = True
  pixels = draw.pixels(inner)
  places = released.bent_places(pixels, bent, lens, bent)
  inside = (places >= 0).all(1) & (places < (width, height)).all(1)
  pixels, places = pixels[inside], places[inside].astype(np.int64)
  values = frames.at(z, places)
  kept = frames.between(values, NEAR, FAR)
  scale = min(OFFICIAL_ROWS / height, 1)
  size = int(width * scale), int(height * scale)
  small = Image.fromarray(released.straighten(image, bent, lens, bent))
  pixels = (pixels[kept] * scale).astype(np.int64)
  camera = frames.stated(*(n * scale for n in numbers), *size)
  return frames.DepthFrame(
    np.asarray(small.resize(size, Image.Resampling.BICUBIC)),
    camera,
    pixels,
    frames.official_ranges(values[kept], pixels, camera),
    pose=points.inverse(points.rigid(motion[:4], motion[4:])),
  )


CORPUS = frames.Corpus(
  'SCENE/{images,dslr_calibration_jpg,ground_truth_depth}/*',
  ('train',),
  _scenes,
  _frames,
  max_focal=1000.0,
)
