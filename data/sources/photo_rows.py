"""Procedural photographs as image-quality rows, and as generic captions.

Rows have the fields of data/sources/iqa.py, with pixels where files have a
path, and beside them `quality`, `severities` and `caption` of the world.
"""

import functools
from typing import Any

import numpy as np

from data.worlds import photos
from data.worlds.degradations import KINDS
from vlm.methods.rali.prompts import NONE

_keep = functools.lru_cache(1 << 15)
GUESS = 0.5  # deviation of a generic opinion, on [1, 5]


@_keep
def _photo(seed: int, family: str, index: int, size: int) -> photos.Photo:
  return photos.make_photo(seed, family, index, size)


@functools.lru_cache(64)
def scale_of(seed: int, family: str, total: int) -> tuple[float, float]:
  """Lowest and highest opinion of a whole set, training and test together."""
  mos = [photos.make_label(seed, family, n).mos for n in range(total)]
  return min(mos), max(mos)


class PhotoRows:
  """A part of one family's set, with opinions normalised by the whole set.

  Args:
    seed: of the world.
    family: 'A' to 'E', the set's name.
    start, count: photographs of this part.
    total: of the set; at least 2, whose range opinions are normalised by.
    size: side in pixels.
    task: 'score', or 'degradation' for what is strongest in the picture.
  """

  def __init__(
    self,
    seed: int,
    family: str,
    start: int,
    count: int,
    total: int,
    size: int = photos.SIZE,
    task: str = 'score',
  ):
    if total < max(start + count, 2):
      raise ValueError(
        f'photographs {start} to {start + count - 1} of a set of {total}; '
        'expected a set that holds them, of at least 2'
      )
    self.name = f'photos {family}'
    self._key = (seed, family, size)
    self._start, self._count, self._task = start, count, task
    self.low, self.high = scale_of(seed, family, total)

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < self._count:
      raise IndexError(index)
    seed, family, size = self._key
    photo = _photo(seed, family, self._start + index, size)
    row = _row(photo) | {'dataset': family, 'task': self._task}
    if self._task == 'degradation':
      return row | _strongest(photo)
    norm = 1 + 4 * (photo.mos - self.low) / (self.high - self.low)
    return row | {'gt_score': photo.mos, 'gt_score_norm': norm}


class GenericRows:
  """Photographs of all families in turn, without opinions on any scale.

  They stand for pre-training: `caption` has mistakes, and `gt_score_norm` is a
  guess at the quality that belongs to no crowd, so that a model learns to speak
  and not to be calibrated.

  Args:
    seed: of the world; other photographs than its sets of the same seed, as
      long as those have fewer than `OFFSET`.
    count: photographs.
    size: side in pixels.
    task: 'score', or 'degradation' for the first that the caption names.
  """

  OFFSET = 1_000_000

  def __init__(
    self,
    seed: int,
    count: int,
    size: int = photos.SIZE,
    task: str = 'score',
  ):
    self.name = 'generic photos'
    self._seed, self._count, self._size = seed, count, size
    self._task = task

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < self._count:
      raise IndexError(index)
    families = list(photos.FAMILIES)
    number, place = divmod(index, len(families))
    number += self.OFFSET
    photo = _photo(self._seed, families[place], number, self._size)
    row = _row(photo) | {'dataset': 'generic', 'task': self._task}
    if self._task == 'degradation':
      kind, word = photo.caption[0] if photo.caption else (NONE, NONE)
      return row | {'distortion_class': kind, 'severity': word}
    drawn = np.random.default_rng((self._seed, index))
    guess = 1 + 4 * photos.quality_of(photo.severities, 1.0)
    guess = float(np.clip(guess + GUESS * drawn.standard_normal(), 1, 5))
    return row | {'gt_score_norm': guess}


def _row(photo: photos.Photo) -> dict[str, Any]:
  name = f'{photo.family}/{photo.index}'
  return {
    'image': photo.rgb,
    'id': name,
    'reference': name,
    'quality': photo.quality,
    'severities': photo.severities,
    'caption': photo.caption,
  }


def _strongest(photo: photos.Photo) -> dict[str, str]:
  """Class and severity, as the degradation task asks for them."""
  if not photo.severities.any():
    return {'distortion_class': NONE, 'severity': NONE}
  number = int(photo.severities.argmax())
  word = photos.severity_word(photo.severities[number])
  return {'distortion_class': KINDS[number], 'severity': word}
