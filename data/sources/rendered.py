"""Rendered rooms kept on disk, so that a room is rendered once.

A world is cached as plain .npy files under a folder named after everything that
determines it; they are opened memory-mapped, so workers share one copy.
"""

import concurrent.futures
import dataclasses
import hashlib
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.sources.room_rows import RoomRows, posed
from data.worlds import rooms
from data.worlds.rooms import RoomSettings
from vlm.methods.depthlm.sample import SampleSettings

CHUNK = 100
FIELDS = ('image', 'intrinsics', 'pixel_coords', 'depth')
POSED = 'world_from_camera'  # of rooms with several views


def default_folder() -> Path:
  """Where rendered worlds are kept: $VLM_CACHE, else ~/.cache/vlm-jax."""
  home = os.environ.get('VLM_CACHE', str(Path.home() / '.cache' / 'vlm-jax'))
  return Path(home) / 'rooms'


class RenderedRooms:
  """`RoomRows` from disk; renders what is missing when it is made.

  Args:
    seed, count, settings, labels, arms: as for `RoomRows`.
    folder: of the cache; `default_folder()` when empty.
    processes: that render; 0 renders in this one.
    progress: called with (rendered, count) as chunks are done.
  """

  def __init__(
    self,
    seed: int,
    count: int,
    settings: RoomSettings,
    labels: int,
    arms: Sequence[SampleSettings] = (),
    *,
    folder: str = '',
    processes: int = 0,
    progress: Callable[[int, int], None] = lambda done, count: None,
  ):
    source = RoomRows(seed, count, settings, labels, arms)
    self._seed, self._views = seed, settings.views
    facts = (
      rooms.VERSION,
      seed,
      count,
      dataclasses.astuple(settings),
      labels,
      str(arms),
    )
    name = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    self.folder = Path(folder or default_folder()) / f'{count}-{name}'
    if not self.folder.exists():
      _fill(self.folder, source, count, processes, progress)
    self._open()

  def _open(self) -> None:
    self._arrays = {
      path.stem: np.load(path, mmap_mode='r')
      for path in self.folder.glob('*.npy')
    }

  def __getstate__(self) -> dict[str, Any]:
    return {k: v for k, v in vars(self).items() if k != '_arrays'}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._open()

  def __len__(self) -> int:
    return len(self._arrays['image'])

  def __getitem__(self, index: int) -> dict[str, Any]:
    """A decoded row; see `vlm.methods.depthlm.sample`."""
    row = {field: self._arrays[field][index] for field in FIELDS}
    fx, fy, cx, cy, width, height = row['intrinsics'].tolist()
    row['intrinsics'] = (fx, fy, cx, cy, int(width), int(height))
    row['depth_kind'] = 'range'
    if POSED in self._arrays:
      row[POSED] = np.array(self._arrays[POSED][index])
      row |= posed(self._seed, index, self._views)
    return row


def _fill(folder: Path, rows, count: int, processes: int, progress) -> None:
  """Renders into a scratch folder and renames it: complete or absent."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix='.rendering-'))
  try:
    chunks = [
      range(start, min(start + CHUNK, count))
      for start in range(0, count, CHUNK)
    ]
    parts = []
    for part in _rendered(rows, chunks, processes):
      parts.append(part)
      progress(sum(len(part['image']) for part in parts), count)
    for field in parts[0]:
      whole = np.concatenate([part[field] for part in parts])
      np.save(scratch / f'{field}.npy', whole)
    try:
      scratch.rename(folder)
    except OSError:
      if not folder.exists():  # else another process was faster
        raise
  finally:
    shutil.rmtree(scratch, ignore_errors=True)


def _rendered(rows, chunks, processes: int):
  if not processes:
    yield from (_render(rows, chunk) for chunk in chunks)
    return
  # Spawned, not forked: JAX's threads do not survive a fork.
  context = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
    yield from pool.map(_render, [rows] * len(chunks), chunks)


def _render(rows: RoomRows, indices: range) -> dict[str, np.ndarray]:
  found = [rows[index] for index in indices]
  poses = {}
  if POSED in found[0]:
    poses[POSED] = np.stack([row[POSED] for row in found])
  return poses | {
    'image': np.stack([row['image'] for row in found]),
    'intrinsics': np.array([row['intrinsics'] for row in found], np.float64),
    'pixel_coords': np.stack([row['pixel_coords'] for row in found]).astype(
      np.int16
    ),
    'depth': np.stack([row['depth'] for row in found]).astype(np.float32),
  }
