"""Regions without a detector: crops of an image, encoded by an image tower.

An image is seen whole, as 2 x 2 and 4 x 4 tiles, and through 5 x 3 overlapping
windows: 36 regions, as many as bottom-up attention publishes. Features of a
CLIP were shaped by images and their texts, so that what is matched with them is
no longer unpaired; DINOv2 has seen images alone.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence

import jax
import numpy as np
from etils import epath

from data.embeddings import Embedder
from data.image import SUFFIXES, open_image
from data.records import BadRecord
from data.sources.region_features import Regions
from vlm.sharding.mesh import make_mesh

TILES = (1, 2, 4)
WINDOWS = (5, 3)  # across and down, overlapping
WINDOW = (0.4, 0.5)  # of width and height
ENCODED_BY = 'encoded_by.json'
REGIONS = 36
SMALLEST = 2  # pixels a crop has at least, either way

# (width, height) in pixels -> boxes [I, 4], x1 y1 x2 y2.
Boxes = Callable[[tuple[int, int]], np.ndarray]


def grid_boxes(size: tuple[int, int]) -> np.ndarray:
  """The 36 boxes of an image.

  Args:
    size: width and height, pixels.

  Returns:
    float32 [36, 4], x1 y1 x2 y2: the whole, tiles row by row, then windows.
  """
  boxes = []
  for side in TILES:
    starts = np.arange(side) / side
    boxes += _windows(starts, starts, (1 / side, 1 / side))
  starts = (
    np.linspace(0, 1 - part, count) for part, count in zip(WINDOW, WINDOWS)
  )
  boxes += _windows(*starts, WINDOW)
  return (np.array(boxes) * [*size, *size]).astype(np.float32)


def _windows(xs, ys, part: tuple[float, float]) -> list[tuple[float, ...]]:
  return [(x, y, x + part[0], y + part[1]) for y in ys for x in xs]


class Crops:
  """Regions of images on disk, encoded when they are asked for.

  A source like those of data/sources/region_features.py.

  Args:
    embedder: encodes the crops.
    images: folders that are looked through, the first that has a file wins.
    names: of the files to be found there, with or without an ending.
    boxes: of an image by its number; the grid if None.
  """

  def __init__(
    self,
    embedder: Embedder,
    images: Sequence[epath.PathLike],
    names: Sequence[str],
    boxes: Callable[[int], np.ndarray] | None = None,
  ):
    self.name = ','.join(str(folder) for folder in images)
    self.keys = tuple(names)
    self._embedder, self._boxes, self._folders = embedder, boxes, images

  def __len__(self) -> int:
    return len(self.keys)

  @property
  def own(self) -> range:
    """Images that this process encodes where a job shares them out."""
    return range(jax.process_index(), len(self), jax.process_count())

  def path(self, index: int) -> epath.Path:
    """Where an image is.

    Raises:
      BadRecord: it is in no folder.
    """
    return _found(self._folders, self.keys[index])

  def __getitem__(self, index: int) -> Regions:
    """Encodes the regions of an image.

    Raises:
      BadRecord: for an image that is in no folder or cannot be read.
    """
    image = open_image(self.path(index))
    boxes = self._boxes(index) if self._boxes else grid_boxes(image.size)
    crops = (image.crop(_pixels(box, image.size)) for box in boxes)
    return Regions(self._embedder.pictures(crops).vectors, boxes)


def local_embedder(source: epath.PathLike) -> Embedder:
  """An image tower over this process's devices, for images of its own.

  Takes and raises what `Embedder.load` does.
  """
  mesh = make_mesh({'data': -1, 'fsdp': 1}, jax.local_devices())
  # The grid of an image, and as many as the devices can share.
  rows = -(-REGIONS // mesh.size) * mesh.size
  return Embedder.load(source, mesh=mesh, batch_size=rows, texts=False)


def write(
  crops: Crops,
  folder: epath.PathLike,
  *,
  encoded_by: str,
  progress: Callable[[int], None] = lambda count: None,
) -> None:
  """Writes the regions of this process's images, as MILVLG does.

  Goes on where it was stopped; see data/sources/region_features.py for what
  reads them.

  Args:
    crops: of all images.
    folder: gets an npz for each, by the name of its file without ending.
    encoded_by: the embedder's name, kept beside them.
    progress: called with how many more are done.

  Raises:
    BadRecord: for an image that is missing or cannot be read.
    ValueError: two files of one name, or a folder by another embedder.
  """
  folder = epath.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  _check_folder(folder, encoded_by)
  stems = [key.rpartition('/')[2] for key in crops.keys]
  stems = [stem.rpartition('.')[0] or stem for stem in stems]
  if len(set(stems)) < len(stems):
    twice = Counter(stems).most_common(1)[0][0]
    raise ValueError(f'two images of {crops.name} are called {twice}')
  for index in crops.own:
    path = folder / f'{stems[index]}.npz'
    if not path.exists():
      x, boxes = crops[index]
      partial = path.with_name(path.name + '.new')
      with partial.open('wb') as file:
        np.savez(file, x=x, bbox=boxes)
      partial.replace(path)
    progress(1)


def _check_folder(folder: epath.Path, encoded_by: str) -> None:
  path = folder / ENCODED_BY
  if path.exists():
    before = json.loads(path.read_text())
    if before != encoded_by:
      raise ValueError(
        f'{folder} holds regions encoded by {before}, not by {encoded_by}; '
        'give another --output'
      )
  elif jax.process_index() == 0:
    path.write_text(json.dumps(encoded_by))


def _found(folders: Sequence[epath.PathLike], name: str) -> epath.Path:
  names = [name] if name.lower().endswith(SUFFIXES) else []
  names = names or [name + suffix for suffix in SUFFIXES]
  # COCO's published names hold their folder, which --images may end with.
  names += [one.rpartition('/')[2] for one in names if '/' in one]
  for folder in folders:
    for one in names:
      path = epath.Path(folder) / one
      if path.exists():
        return path
  raise BadRecord(
    'missing image', f'{name} is in none of {[str(one) for one in folders]}'
  )


def _pixels(box: np.ndarray, size: tuple[int, int]) -> tuple[int, ...]:
  """Whole pixels around a box, within the image and not empty."""
  found = []
  for low, high, limit in zip(box[:2], box[2:], size):
    high = min(int(np.ceil(high)), limit)
    low = min(max(int(np.floor(low)), 0), max(high - SMALLEST, 0))
    found.append((low, min(max(high, low + SMALLEST), limit)))
  (x1, x2), (y1, y2) = found
  return x1, y1, x2, y2
