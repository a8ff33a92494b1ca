"""Image-quality rows: the Data-DeQA-Score files, degradation files, and ours.

A file is a JSON list of objects, a jsonl file, or (RALI's reader) an object
with the list under `results` or `data`. Fields of an object that is scored:

  image          relative to the data root: 'KONIQ/images/a.jpg'
  gt_score_norm  opinion on [1, 5], by the range of its whole set
  gt_score       raw opinion         \
  std, std_norm  of its annotators    |
  level_probs    soft label [5]       |  optional
  description    a teacher's words    |
  id                                 /

and of one whose degradation is known: `image`, `distortion_class`, `severity`
(vlm/methods/rali/prompts.py). Other fields are ignored. A row, whatever the
file, is

  task           'score' or 'degradation'
  image          epath of the picture, not yet opened
  dataset        name of its set
  id             of the file, else the image's path
  reference      what distorted images share; else the image
  and the fields above, as far as the file has them.

A record that lacks what it needs, or whose opinion is outside of [1, 5], is a
`BadRecord` when its row is read, so that training and evaluation count it; a
missing picture is found when it is opened. Neither is ever replaced by another
sample.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from data.records import BadRecord, require
from data.sources import iqa_meta, iqa_original, jsonl
from data.sources.iqa_corpora import CORPORA, reference_of, rises_with_level
from vlm.methods.rali.prompts import CLASSES, NONE, SEVERITIES

_LISTS = ('results', 'data')
_NUMBERS = ('gt_score', 'std', 'std_norm')


def read_records(path: epath.PathLike) -> list[Any]:
  """Objects of a file.

  Raises:
    FileNotFoundError: no such file.
    ValueError: a file of another form, by its name.
  """
  path = jsonl.require_file(path)
  if path.suffix == '.jsonl':
    source = jsonl.JsonlSource(path)
    return [source[number] for number in range(len(source))]
  try:
    found = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path} is not JSON: {error}') from error
  if isinstance(found, dict):
    lists = [found[name] for name in _LISTS if name in found]
    found = lists[0] if lists else None
  if not isinstance(found, list):
    raise ValueError(
      f'{path}: expected a list of records, or an object with one under '
      f'{" or ".join(map(repr, _LISTS))}'
    )
  return found


class IqaRows:
  """Rows of a set, checked when they are read.

  Args:
    records: objects as in the module's docstring.
    root: what their images are relative to.
    dataset: its name, maybe a key of `CORPORA`.
    name: of the file, for messages.
  """

  def __init__(
    self,
    records: Sequence[Any],
    root: epath.PathLike,
    dataset: str,
    name: str = '',
  ):
    self.name, self.dataset = name or dataset, dataset
    self._records, self._root = list(records), epath.Path(root)
    if dataset in CORPORA and CORPORA[dataset].lower_is_better:
      self._records = upright(self._records, self.name)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """The row.

    Raises:
      BadRecord: 'wrong type', 'bad score' or 'mismatched labels'.
    """
    record = self._records[index]
    try:
      return self._row(record)
    except BadRecord as bad:
      raise bad.at(f'{self.name}[{index}]') from bad

  def _row(self, record: Any) -> dict[str, Any]:
    if not isinstance(record, Mapping):
      kind = type(record).__name__
      raise BadRecord('wrong type', f'the record is {kind}, expected an object')
    image = require(record, 'image', str)
    row = {
      'image': self._root / image.lstrip('/'),
      'dataset': self.dataset,
      'id': str(record.get('id', image)),
      'reference': reference_of(image, self.dataset),
    }
    if 'distortion_class' in record:
      return row | _degradation(record)
    return row | _score(record)


def _score(record: Mapping[str, Any]) -> dict[str, Any]:
  found = {'task': 'score', 'gt_score_norm': _number(record, 'gt_score_norm')}
  if not 1 <= found['gt_score_norm'] <= 5:
    raise BadRecord(
      'bad score',
      f'gt_score_norm is {found["gt_score_norm"]}, expected 1 to 5, by the '
      'range of the whole set',
    )
  found |= {n: _number(record, n) for n in _NUMBERS if n in record}
  if 'level_probs' in record:
    found['level_probs'] = [float(p) for p in record['level_probs']]
  if 'description' in record:
    found['description'] = require(record, 'description', str)
  return found


def _number(record: Mapping[str, Any], field: str) -> float:
  value = require(record, field, (int, float))
  if isinstance(value, bool) or not math.isfinite(value):
    raise BadRecord('bad score', f'{field} is {value}, expected a number')
  return float(value)


def _degradation(record: Mapping[str, Any]) -> dict[str, Any]:
  kind = require(record, 'distortion_class', str)
  severity = require(record, 'severity', str)
  if (kind == NONE) != (severity == NONE):
    raise BadRecord(
      'mismatched labels', f'class {kind!r} with severity {severity!r}'
    )
  for value, known in ((kind, CLASSES), (severity, SEVERITIES)):
    if value not in (*known, NONE):
      raise BadRecord(
        'mismatched labels', f'{value!r}, expected one of {(*known, NONE)}'
      )
  return {
    'task': 'degradation',
    'distortion_class': kind,
    'severity': severity,
  }


def upright(records: list[Any], name: str) -> list[Any]:
  """Records whose opinions fall with the level in their images' names.

  Raises:
    ValueError: as `rises_with_level`.
  """
  scored = [r for r in records if _has_score(r)]
  pairs = [(str(r.get('image')), r['gt_score_norm']) for r in scored]
  if not rises_with_level(pairs, name):
    return records
  logging.info('%s holds differential scores, which are turned round', name)
  return [_turned(record) for record in records]


def _has_score(record: Any) -> bool:
  return isinstance(record, Mapping) and isinstance(
    record.get('gt_score_norm'), int | float
  )


def _turned(record: Any) -> Any:
  if not _has_score(record):
    return record
  turned = dict(record) | {'gt_score_norm': 6 - record['gt_score_norm']}
  if 'level_probs' in record:
    turned['level_probs'] = list(record['level_probs'])[::-1]
  return turned


def open_file(path: epath.PathLike, root: epath.PathLike = '') -> IqaRows:
  """Rows of a file of your own, named by it.

  Args:
    path: .json or .jsonl.
    root: of the images; the file's folder if empty.
  """
  path = epath.Path(path)
  return IqaRows(
    read_records(path), root or path.parent, path.stem, name=str(path)
  )


def open_corpus(
  root: epath.PathLike, name: str, split: str = 'test'
) -> IqaRows:
  """Rows of a published set.

  Of FOLDER/metas/SPLIT_NAME*.json if there is one; else made of FOLDER/mos.json
  and split.json; else of the set's own files (iqa_original.py).

  Args:
    root: holds the sets' folders: KONIQ, SPAQ, ....
    name: a key of `CORPORA`.
    split: 'train' or 'test'.

  Raises:
    ValueError: an unknown set, several files, or opinions that are wrong.
    FileNotFoundError: none of these files.
  """
  if name not in CORPORA or split not in ('train', 'test'):
    raise ValueError(
      f'set {name!r}, split {split!r}; expected train or test of '
      f'{sorted(CORPORA)}'
    )
  root = epath.Path(root)
  folder = root / CORPORA[name].folder
  found = sorted((folder / 'metas').glob(f'{split}_{name}*.json'))
  if len(found) > 1:
    raise ValueError(
      f'{folder}/metas holds several files for {split} of {name}: '
      f'{[path.name for path in found]}; keep one'
    )
  if found:
    return IqaRows(read_records(found[0]), root, name, name=str(found[0]))
  if (folder / 'mos.json').exists():
    opinions, splits = iqa_meta.read(folder)
  else:
    opinions, splits = iqa_original.read(folder, name)
  metas = iqa_meta.metas(opinions, splits, name)
  if not metas[split]:
    raise FileNotFoundError(
      f'{folder} has no {split} part of {name}; expected metas/'
      f'{split}_{name}*.json or a split.json that names one'
    )
  return IqaRows(metas[split], root, name, name=f'{folder} ({split})')
