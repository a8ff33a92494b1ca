"""ArrayRecord files whose records are JSON objects."""

from collections.abc import Iterable
from typing import Any

import grain
from array_record.python import array_record_module
from etils import epath

from data.sources import jsonl


class JsonArrayRecordSource:
  """Rows of an ArrayRecord file, one JSON object per record.

  The reader opens local files only: copy shards from gs:// to the host first.

  Raises:
    ValueError: for a remote path or a file that is no ArrayRecord.
  """

  def __init__(self, path: epath.PathLike):
    self.name = str(path)
    if '://' in self.name:
      raise ValueError(
        f'{path}: ArrayRecord is read from local disks only; copy the file to '
        'each host and set --config.data.path to the copy'
      )
    jsonl.require_file(path)
    try:
      self._records = grain.sources.ArrayRecordDataSource(self.name)
    except (RuntimeError, ValueError) as error:
      raise ValueError(
        f'{path} is not an ArrayRecord file: {error}; set --config.data.path'
      ) from error

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return jsonl.parse_row(self._records[index])


def write_records(path: epath.PathLike, records: Iterable[bytes]) -> None:
  """Writes an ArrayRecord file in which every record can be read at random."""
  writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
  for record in records:
    writer.write(record)
  writer.close()
