"""Scores image files by RALI, batch by batch, while threads read the next ones.

A file that cannot be read keeps its row, with the reason and without a score.
"""

import dataclasses
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from etils import epath

from data.embeddings import Embedder
from data.image import SUFFIXES
from data.processors.registry import processor_from_hf
from data.processors.towers import Crop
from data.records import BadRecord, require
from vlm.convert.rali import PREPROCESSOR, Rali
from vlm.sharding import mesh as mesh_lib
from vlm.sharding.batch import to_global

AHEAD = 2  # batches that are read before they are needed


@dataclasses.dataclass(frozen=True)
class Files:
  """Images to be scored.

  Attributes:
    root: what their names are relative to.
    names: sorted.
    others: files beside them that are no images by their suffix.
  """

  root: epath.Path
  names: tuple[str, ...]
  others: int = 0

  def path(self, name: str) -> epath.Path:
    """Where an image is."""
    return self.root / name


def find_images(pattern: str) -> Files:
  """The images of a folder and all folders in it, of a glob, or one file.

  Raises:
    ValueError: there are none.
  """
  path = epath.Path(pattern)
  if path.is_dir():
    root, found = path, _below(path)
  elif path.exists():
    root, found = path.parent, [path]
  else:
    plain = _before_magic(path.parts)
    root = epath.Path(*path.parts[:plain]) if plain else epath.Path('.')
    found = root.glob('/'.join(path.parts[plain:])) if root.is_dir() else []
  files = [file for file in found if not file.is_dir()]
  images = [file for file in files if file.suffix.lower() in SUFFIXES]
  if not images:
    raise ValueError(
      f'--images={pattern}: no image there; expected a folder or a glob of '
      f'{", ".join(SUFFIXES)}'
    )
  names = sorted(str(file.relative_to(root)) for file in images)
  return Files(root, tuple(names), len(files) - len(images))


class ImageScorer:
  """A loaded RALI that reads files.

  Args:
    rali: whose tower lies on `mesh`.
    mesh: over which batches are split.
    batch_size: images at once, of all devices together.
    threads: that read images.

  Raises:
    ValueError: the preprocessor gives other images than the tower takes.
  """

  def __init__(
    self,
    rali: Rali,
    mesh: jax.sharding.Mesh,
    batch_size: int,
    threads: int = 4,
  ):
    mesh_lib.check_batch_size(mesh, batch_size)
    self.crop = crop_of(rali)
    self._mesh, self._size, self._threads = mesh, batch_size, threads
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    weights = jax.device_put(rali.scorer, everywhere)
    run = jax.jit(rali.scores)
    self._scores = lambda pixels: run(rali.params, weights, pixels)

  def score(self, files: Files, done: int = 0) -> Iterator[list[dict]]:
    """Yields the records of each batch: image and score, or problem.

    Args:
      files: what to score.
      done: images to leave out at the beginning, whole batches.
    """
    size = self._size
    chunks = [
      files.names[start : start + size]
      for start in range(done, len(files.names), size)
    ]
    read = lambda name: self._read(files.path(name))
    with ThreadPoolExecutor(self._threads) as pool:
      for names, opened in _ahead(pool, read, chunks):
        yield self._records(names, opened)

  def scores(self, images: Sequence[Any]) -> np.ndarray:
    """float32 [N] of what `open_image` takes, in batches of one shape.

    Raises:
      BadRecord: an image that cannot be read.
    """
    found = []
    for start in range(0, len(images), self._size):
      part = [self.crop(image)[0] for image in images[start:][: self._size]]
      found.append(self._run(part))
    return np.concatenate(found)

  def _read(self, path: epath.Path) -> np.ndarray | BadRecord:
    try:
      return self.crop(path)[0]
    except BadRecord as bad:
      return bad

  def _records(self, names: Sequence[str], opened: list) -> list[dict]:
    blank = np.zeros((self.crop.side, self.crop.side, 3), np.uint8)
    bad = [isinstance(image, BadRecord) for image in opened]
    pixels = [blank if b else image for b, image in zip(bad, opened)]
    scores = [0.0] * len(names) if all(bad) else self._run(pixels)
    return [
      {'image': name, 'problem': f'{image.reason}: {image.detail}'}
      if isinstance(image, BadRecord)
      else {'image': name, 'score': float(score)}
      for name, image, score in zip(names, opened, scores)
    ]

  def _run(self, pixels: list[np.ndarray]) -> np.ndarray:
    rows = _filled(pixels, self._size)
    with jax.set_mesh(self._mesh):
      scores = self._scores(to_global({'x': rows}, self._mesh)['x'])
    found = np.asarray(scores)[: len(pixels)]
    if not np.isfinite(found).all():
      raise FloatingPointError('the scorer gives NaN; are its weights whole?')
    return found


def embed_rows(
  tower: Any,
  params: Any,
  crop: Crop,
  rows: Sequence[Any],
  mesh: jax.sharding.Mesh,
  batch_size: int,
  skipped: Counter,
  progress: Callable[[int], None] = lambda count: None,
) -> tuple[np.ndarray, np.ndarray]:
  """Image embeddings of a set, and its opinions, to be cached.

  Args:
    tower: a CLIP, or its image tower.
    params: its parameters on `mesh`.
    crop: how it wants its images.
    rows: of data/sources/iqa.py.
    mesh: over which batches are split.
    batch_size: images at once, of all devices together.
    skipped: counts rows that cannot be used, by reason.
    progress: called with how many more rows are taken up.

  Returns:
    float32 [M, E], not of unit length, and float64 [M], `gt_score_norm`.

  Raises:
    ValueError: no row can be used.
  """
  mesh_lib.check_batch_size(mesh, batch_size)
  embedder, opinions = Embedder(tower, params, crop, None, mesh, batch_size), []

  def images():
    for number in range(len(rows)):
      progress(1)
      try:
        row = rows[number]
        image, opinion = row['image'], require(row, 'gt_score_norm', float)
      except BadRecord as bad:
        skipped[bad.reason] += 1
        continue
      opinions.append(opinion)
      yield image

  found = embedder.pictures(images(), skip=True)
  skipped.update(bad.reason for bad in found.bad)
  if not len(found.kept):
    raise ValueError(f'none of {len(rows)} images can be used: {dict(skipped)}')
  return found.vectors, np.array(opinions)[found.kept]


def crop_of(rali: Rali) -> Crop:
  """How the checkpoint wants its images.

  Raises:
    ValueError: another way than CLIP's, or another size than the tower's.
  """
  crop = processor_from_hf(
    {'config.json': rali.hf_config, PREPROCESSOR: rali.preprocessor}
  )
  side = rali.tower.config.vision.image_size
  if crop.side != side:
    raise ValueError(
      f'{PREPROCESSOR} crops to {crop.side} pixels, the tower of config.json '
      f'takes {side}'
    )
  return crop


def _filled(pixels: Sequence[np.ndarray], size: int) -> np.ndarray:
  """A batch of `size`: all have one shape, so that there is one compilation."""
  rows = np.zeros((size, *pixels[0].shape), np.uint8)
  rows[: len(pixels)] = pixels
  return rows


def _ahead(
  pool: ThreadPoolExecutor, read: Callable, chunks: Sequence[Sequence[Any]]
) -> Iterator[tuple[Sequence[Any], list[Any]]]:
  waiting: deque[tuple[Sequence[Any], list[Future]]] = deque()
  try:
    for chunk in chunks:
      waiting.append((chunk, [pool.submit(read, name) for name in chunk]))
      if len(waiting) > AHEAD:
        names, futures = waiting.popleft()
        yield names, [future.result() for future in futures]
    while waiting:
      names, futures = waiting.popleft()
      yield names, [future.result() for future in futures]
  finally:
    for _, futures in waiting:
      for future in futures:
        future.cancel()


def _below(folder: epath.Path) -> Iterator[epath.Path]:
  for path in folder.iterdir():
    if path.is_dir():
      yield from _below(path)
    else:
      yield path


def _before_magic(parts: Sequence[str]) -> int:
  """How many parts of a glob come before its first wildcard."""
  for number, part in enumerate(parts):
    if any(mark in part for mark in '*?['):
      return number
  return max(len(parts) - 1, 0)
