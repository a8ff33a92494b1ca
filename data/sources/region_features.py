"""Published features of image regions: `source[i]`, an image's regions.

  *_ims.npy  SCAN, MACK: float32 [n, I, M], images in the order of the captions,
             or [5 n, I, M] with every image five times
  *.h5       MACK: the same under `ctx`
  *.tsv      bottom-up attention: image_id, image_w, image_h, num_boxes, boxes,
             features, the last two base64 of float32
  folder     MILVLG: an npz for each image with `x` [I, M] and `bbox` [I, 4]

Nothing here opens a pickle: MILVLG's `info` is left unread.
"""

import base64
import binascii
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from etils import epath

REPEATS = 5  # of an image in SCAN's arrays: once for each caption
H5_FIELD = 'ctx'
TSV_FIELDS = (
  'image_id',
  'image_w',
  'image_h',
  'num_boxes',
  'boxes',
  'features',
)


class Regions(NamedTuple):
  """Regions of one image.

  Attributes:
    features: float32 [I, M].
    boxes: float32 [I, 4], x1 y1 x2 y2 in pixels; None where not published.
  """

  features: np.ndarray
  boxes: np.ndarray | None = None


class FeatureSource(Protocol):
  """Regions of images, read when they are asked for.

  Attributes:
    name: for messages.
    keys: name of each image; None where rows are in the order of the captions.
  """

  name: str
  keys: Sequence[str] | None

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Regions: ...


class Rows:
  """An array of all images (SCAN, MACK), each once or five times in turn.

  Args:
    path: of the npy or h5 file; local, for it is not read whole.
    images: there are; tells how often each stands in the array.

  Raises:
    ValueError: for an array of another shape or number of images.
  """

  keys = None

  def __init__(self, path: epath.PathLike, images: int):
    self.name = str(path)
    self._rows = _array(epath.Path(path))
    shape = tuple(self._rows.shape)
    if len(shape) != 3 or shape[0] not in (images, REPEATS * images):
      raise ValueError(
        f'--features={path}: shape {shape}, expected ({images}, I, M) or '
        f'({REPEATS * images}, I, M) for the {images} images of --data; of '
        'COCO, testall has 5,000 images and test the first 1,000'
      )
    self._stride = shape[0] // images

  def __len__(self) -> int:
    return self._rows.shape[0] // self._stride

  def __getitem__(self, index: int) -> Regions:
    row = self._rows[index * self._stride]
    return Regions(np.asarray(row, np.float32))


def _array(path: epath.Path) -> Any:
  if path.suffix == '.npy':
    try:
      return np.load(str(path), mmap_mode='r', allow_pickle=False)
    except ValueError as error:
      raise ValueError(f'--features={path}: {error}') from error
  # Imported when needed: an extra.
  import h5py

  try:
    return h5py.File(str(path), 'r')[H5_FIELD]
  except (KeyError, OSError) as error:
    raise ValueError(
      f'--features={path}: no data set {H5_FIELD!r} in it: {error}'
    ) from error


class NpzFolder:
  """An npz for each image (MILVLG's bottom-up-attention.pytorch).

  Raises:
    FileNotFoundError: there is none.
  """

  def __init__(self, folder: epath.PathLike):
    self.name, self._folder = str(folder), epath.Path(folder)
    self.keys = tuple(sorted(path.stem for path in self._folder.glob('*.npz')))
    if not self.keys:
      raise FileNotFoundError(f'--features={folder} has no npz file')

  def __len__(self) -> int:
    return len(self.keys)

  def __getitem__(self, index: int) -> Regions:
    path = self._folder / f'{self.keys[index]}.npz'
    try:
      with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
        features = np.asarray(arrays['x'], np.float32)
        boxes = np.asarray(arrays['bbox'], np.float32)
    except (KeyError, ValueError, zipfile.BadZipFile, EOFError) as error:
      raise ValueError(
        f'{path}: no npz with x and bbox in it: {error}'
      ) from error
    return _checked(str(path), features, boxes)


class ButdTsv:
  """Bottom-up attention's table; only the offsets of its lines are kept.

  Raises:
    ValueError: for a line without six fields, or an image that is there twice.
  """

  def __init__(self, path: epath.PathLike):
    self.name, self._path = str(path), epath.Path(path)
    keys, self._offsets, position = [], [], 0
    with self._path.open('rb') as file:
      for number, line in enumerate(file, 1):
        fields = line.split(b'\t')
        if len(fields) != len(TSV_FIELDS):
          raise ValueError(
            f'--features={path}: line {number} has {len(fields)} fields, '
            f'expected {TSV_FIELDS}; is the file complete?'
          )
        keys.append(fields[0].decode())
        self._offsets.append(position)
        position += len(line)
    if len(set(keys)) < len(keys):
      twice = Counter(keys).most_common(1)[0][0]
      raise ValueError(f'--features={path}: image {twice} is there twice')
    self.keys = tuple(keys)

  def __len__(self) -> int:
    return len(self.keys)

  def __getitem__(self, index: int) -> Regions:
    with self._path.open('rb') as file:
      file.seek(self._offsets[index])
      fields = file.readline().rstrip(b'\r\n').split(b'\t')
    where = f'{self.name}: image {self.keys[index]}'
    try:
      count = int(fields[3])
      boxes, features = (
        np.frombuffer(base64.b64decode(field, validate=True), '<f4')
        for field in fields[4:]
      )
      return _checked(
        where, features.reshape(count, -1), boxes.reshape(count, 4)
      )
    except (binascii.Error, ValueError) as error:
      raise ValueError(f'{where}: {error}') from error


def _checked(where: str, features: np.ndarray, boxes: np.ndarray) -> Regions:
  if features.ndim != 2 or boxes.shape != (len(features), 4):
    raise ValueError(
      f'{where}: features {features.shape} and boxes {boxes.shape}, expected '
      '(I, M) and (I, 4)'
    )
  return Regions(features, boxes)


def open_features(path: epath.PathLike, images: int = 0) -> FeatureSource:
  """Opens a layout by the look of its address; see the module.

  Args:
    path: local, or gs:// for a folder or a table.
    images: how many an array is of; others do not ask.

  Raises:
    FileNotFoundError: no such file.
    ValueError: for another layout, or an array that does not fit.
  """
  path = epath.Path(path)
  if not path.exists():
    raise FileNotFoundError(f'--features={path} does not exist')
  if path.is_dir():
    return NpzFolder(path)
  if path.suffix in ('.npy', '.h5', '.hdf5'):
    return Rows(path, images)
  if path.suffix == '.tsv':
    return ButdTsv(path)
  raise ValueError(
    f'--features={path}: expected a .npy, .h5 or .tsv file or a folder of npz '
    'files'
  )


def places(
  source: FeatureSource, images: Sequence[str], files: Sequence[str]
) -> list[int]:
  """Where each image is in a source.

  A key may be an image's id, or the name of its file with or without ending;
  of COCO's names the number at the end is the id.

  Args:
    source: of the features.
    images: ids.
    files: names of their files, or empty.

  Raises:
    ValueError: naming the first image that is not there.
  """
  if source.keys is None:
    return list(range(len(images)))
  there = {key: place for place, key in enumerate(source.keys)}
  for key, place in list(there.items()):
    number = key.rpartition('_')[2]
    if number.isdigit():
      there.setdefault(str(int(number)), place)
  found, missing = [], []
  for image, file in zip(images, files, strict=True):
    base = file.rpartition('/')[2]
    names = (image, base, base.rpartition('.')[0])
    place = next((there[name] for name in names if name in there), None)
    if place is None:
      missing.append(image)
    else:
      found.append(place)
  if missing:
    raise ValueError(
      f'{source.name} has no features of image {missing[0]} ({len(missing)} of '
      f'{len(images)} are missing)'
    )
  return found


class Batch(NamedTuple):
  """Regions of some images, padded.

  Attributes:
    features: float32 [B, I, M], 0 where not valid.
    valid: bool [B, I].
  """

  features: np.ndarray
  valid: np.ndarray


def batches(
  source: FeatureSource,
  order: Sequence[int],
  size: int,
  left_out: Counter[str],
) -> Iterator[Batch]:
  """Images of a source in order, with regions of no feature left out.

  Args:
    source: of the features.
    order: places in it.
    size: images of a batch, but of the last.
    left_out: counts regions that are zero, and images without any region.

  Raises:
    ValueError: for NaN or infinity, naming the image; or features of another
      width than the first image's.
  """
  width = None
  for first in range(0, len(order), size):
    rows = []
    for place in order[first : first + size]:
      features = usable(source, place, left_out)
      width = features.shape[1] if width is None else width
      if features.shape[1] != width:
        raise ValueError(
          f'{_named(source, place)} has features of {features.shape[1]} '
          f'numbers, others of {width}'
        )
      rows.append(features)
    yield padded(rows)


def usable(
  source: FeatureSource, place: int, left_out: Counter[str]
) -> np.ndarray:
  """Features [I, M] of an image without those that are zero; see `batches`."""
  features = source[place].features
  if not np.isfinite(features).all():
    raise ValueError(
      f'{_named(source, place)} has features that are NaN or infinite; extract '
      'them anew'
    )
  there = features.any(axis=1)
  left_out['region of zeros'] += int(np.count_nonzero(~there))
  left_out['image without a region'] += int(not there.any())
  return features[there]


def _named(source: FeatureSource, place: int) -> str:
  key = place if source.keys is None else source.keys[place]
  return f'{source.name}: image {key}'


def padded(rows: Sequence[np.ndarray], width: int = 0) -> Batch:
  """Rows [I_b, M] side by side, at least `width` regions wide."""
  widest = max([1, width, *map(len, rows)])
  features = np.zeros((len(rows), widest, rows[0].shape[1]), np.float32)
  valid = np.zeros((len(rows), widest), bool)
  for number, row in enumerate(rows):
    features[number, : len(row)], valid[number, : len(row)] = row, True
  return Batch(features, valid)
