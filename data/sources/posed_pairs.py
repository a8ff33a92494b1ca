"""Pairs of posed frames, as rows of the pose task.

`find` reads the facts of every row; for files, `write` its pairs once beside
the rows and `read` them when training starts.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from vlm.methods.depthlm.pairs import USUAL, PairSettings, find_pairs


class PosedPairs:
  """Row i is {'views': (earlier, later), 'dataset': ...}, both decoded.

  Args:
    rows: a random-access source of decoded rows.
    pairs: [N, 2] indices of `rows`, from `find` or `read`.

  Raises:
    ValueError: a pair beyond the rows, so that file and rows do not belong
      together.
  """

  def __init__(self, rows: Any, pairs: Sequence[tuple[int, int]]):
    self._rows = rows
    self._pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
    if len(self._pairs) and not (
      self._pairs.min() >= 0 and self._pairs.max() < len(rows)
    ):
      raise ValueError(
        f'pairs name row {self._pairs.max()} of {len(rows)}; make the pairs '
        'again from these rows'
      )

  def __len__(self) -> int:
    return len(self._pairs)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """The pair; a frame that cannot be read is a `BadRecord` as ever."""
    first, second = (self._rows[int(k)] for k in self._pairs[index])
    row = {'views': (first, second)}
    return row | ({'dataset': first['dataset']} if 'dataset' in first else {})


def find(rows: Any, settings: PairSettings = USUAL) -> list[tuple[int, int]]:
  """Every good pair of a source; pictures of files are not opened.

  Raises:
    ValueError: when there is none, with what a row needs.
  """
  read = getattr(rows, 'facts', rows.__getitem__)
  pairs = list(find_pairs(map(read, range(len(rows))), settings))
  if not pairs:
    raise ValueError(
      f'no two of {len(rows)} rows make a pair: both need scene and '
      f'world_from_camera, a move of {settings.baseline} m and a shared view '
      f'of {settings.overlap:.0%}'
    )
  return pairs


def write(pairs: Sequence[tuple[int, int]], path: epath.PathLike) -> None:
  """Writes pairs as one JSON list."""
  epath.Path(path).write_text(json.dumps([list(pair) for pair in pairs]))


def read(path: epath.PathLike) -> list[tuple[int, int]]:
  """Reads what `write` wrote.

  Raises:
    ValueError: a file of another form.
  """
  found = json.loads(epath.Path(path).read_text())
  whole = isinstance(found, list) and all(
    isinstance(pair, list) and len(pair) == 2 for pair in found
  )
  if not whole:
    raise ValueError(f'{path}: expected a list of pairs of row numbers')
  return [tuple(pair) for pair in found]
