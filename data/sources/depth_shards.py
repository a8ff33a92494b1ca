"""Depth rows in the shards that `launch.prepare --format=tfds` writes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from data.image import open_image
from data.records import BadRecord
from data.sources import open_source
from data.sources.depth import DepthRows
from data.sources.depth_fields import check_row
from data.sources.jsonl import parse_row


class DepthShards:
  """The same rows as `DepthRows`, images inside; random access.

  Args:
    spec: tfds:CORPUS:1.0.0?split=SPLIT&data_dir=DIR, as launch.prepare says.

  Raises:
    ValueError: when no such data set is prepared.
  """

  def __init__(self, spec: str):
    self.name, self._rows = spec, open_source(spec)

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """The decoded, checked row.

    Raises:
      BadRecord: as `DepthRows`.
    """
    return self._checked(index, lambda image: np.asarray(open_image(image)))

  def facts(self, index: int) -> dict[str, Any]:
    """The checked row without its picture, which is not decoded."""
    return self._checked(index, lambda image: '')

  def _checked(self, index: int, decode: Callable[[bytes], Any]):
    example = self._rows[index]
    try:
      row = parse_row(example['record'])
      return check_row({**row, 'image': decode(example['image'])})
    except BadRecord as e:
      place = f'{self.name}, row {index} ({example["frame"]})'
      raise e.at(place) from e


def open_depth_rows(
  address: str, images: str | None = None, depth_kind: str = ''
) -> DepthRows | DepthShards:
  """`DepthShards` of a tfds: address, `DepthRows` of any other.

  Args:
    address: as `launch.prepare` says, or a published file.
    images: of a file; see `DepthRows`.
    depth_kind: of a file; see `DepthRows`.
  """
  if str(address).startswith('tfds:'):
    return DepthShards(str(address))
  return DepthRows(address, images, depth_kind)
