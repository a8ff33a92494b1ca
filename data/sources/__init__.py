"""Random-access readers of published formats: `len(source)`, `source[i]`.

Every source has a `name` for messages, can be pickled into worker processes
and is safe to read from several threads.
"""

from collections.abc import Callable, Sequence
from typing import Any
from urllib import parse

from etils import epath


def open_source(spec: str) -> Any:
  """Opens rows by the look of their address.

      rooms.jsonl  rooms.json  rooms.parquet  rooms.array_record
      gs://bucket/shards/*.parquet            all matching files, sorted
      tfds:coco/2017:1.1.0?split=train&data_dir=/data/tfds

  Args:
    spec: local or gs:// path, perhaps with a pattern, or a tfds: address.

  Raises:
    FileNotFoundError: when there is no such file.
    ValueError: when nothing reads such an address.
  """
  if spec.startswith('tfds:'):
    return _open_tfds(spec)
  if '*' not in spec:
    return _open_file(spec)
  folder, _, pattern = spec.rpartition('/')
  paths = sorted(epath.Path(folder or '.').glob(pattern))
  if not paths:
    raise FileNotFoundError(f'no file matches {spec}; set --config.data.path')
  return Concatenated([_open_file(str(path)) for path in paths], spec)


def _open_file(path: str) -> Any:
  # Imported when needed: pyarrow and array_record are large.
  if path.endswith('.jsonl'):
    from data.sources import jsonl

    return jsonl.JsonlSource(path)
  if path.endswith('.json'):
    from data.sources import jsonl

    return jsonl.JsonSource(path)
  if path.endswith('.parquet'):
    from data.sources import parquet

    return parquet.ParquetSource(path)
  if path.endswith(('.array_record', '.arrayrecord')):
    from data.sources import arrayrecord

    return arrayrecord.JsonArrayRecordSource(path)
  raise ValueError(
    f'{path}: expected a name ending in .jsonl, .json, .parquet or '
    '.array_record, or an address tfds:NAME?split=SPLIT; set '
    '--config.data.path'
  )


def _open_tfds(spec: str) -> Any:
  from data.sources import tfds

  name, _, query = spec.removeprefix('tfds:').partition('?')
  options = dict(parse.parse_qsl(query))
  unknown = set(options) - {'split', 'data_dir'}
  if unknown or 'split' not in options:
    raise ValueError(
      f'{spec}: expected tfds:NAME?split=SPLIT and optionally '
      f'&data_dir=DIR, got {sorted(options)}; set --config.data.path'
    )
  return tfds.TfdsSource(name, **options)


class Concatenated:
  """Several sources, one after another."""

  def __init__(self, sources: Sequence[Any], name: str):
    self.name, self._sources = name, list(sources)

  def __len__(self) -> int:
    return sum(len(source) for source in self._sources)

  def __getitem__(self, index: int) -> Any:
    source, index = self._find(index)
    return source[index]

  def where(self, index: int) -> str:
    """Names the file a row comes from, and its number there."""
    source, index = self._find(index)
    return f'{source.name}[{index}]'

  def _find(self, index: int) -> tuple[Any, int]:
    for source in self._sources:
      if index < len(source):
        return source, index
      index -= len(source)
    raise IndexError(index)


class Mapped:
  """A source whose rows are brought into another form when read.

  Gives corpora of different formats one form before they are mixed.
  """

  def __init__(self, source: Any, transform: Callable[[Any], Any]):
    self.name, self._source = source.name, source
    self._transform = transform

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Any:
    return self._transform(self._source[index])
