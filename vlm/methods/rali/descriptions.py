"""From a teacher's completions to texts: what RALI and RACT are trained on.

A description is what a completion says between its think tags. RALI draws one
of several of an image at each step (seed augmentation); RACT trains a tower on
one row for each. Scores are left to the data set's own opinions: a teacher's
number is never kept.
"""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_THOUGHT = re.compile(r'<think>(.*?)</think>', re.DOTALL)
_TAGS = re.compile(r'</?(?:think|answer)>')
# Of a row of an image-quality set (data/sources/iqa.py), what is kept.
KEPT = ('id', 'dataset', 'gt_score_norm', 'gt_score', 'std', 'std_norm')


@dataclasses.dataclass(frozen=True)
class Described:
  """Records with descriptions, and what was left out.

  Attributes:
    records: one for each image that has any: `image`, `description` (the
      first), `descriptions` (all, no two alike), and `KEPT` as far as the row
      has them.
    dropped: completions without a description, by reason.
    silent: images that are left with none.
  """

  records: list[dict[str, Any]]
  dropped: Counter
  silent: int


def thought_of(completion: str) -> tuple[str, str]:
  """The description in a completion, white space made single.

  Returns:
    (description, ''), or ('', reason): 'no think span', 'several think spans',
    'a tag inside', 'empty'.
  """
  spans = _THOUGHT.findall(completion)
  if not spans:
    return '', 'no think span'
  if len(spans) > 1:
    return '', 'several think spans'
  if _TAGS.search(spans[0]):
    return '', 'a tag inside'
  text = ' '.join(spans[0].split())
  return (text, '') if text else ('', 'empty')


def describe(
  rows: Sequence[Mapping[str, Any]],
  completions: Sequence[Sequence[str]],
  root: str = '',
  readable: Callable[[str], bool] = lambda text: True,
) -> Described:
  """Joins images with what their teacher said.

  Args:
    rows: of an image-quality set; where `image` is no path, its `id` stands
      for it.
    completions: [rows][samples], of the model trained on that set.
    root: folder that paths shall be relative to.
    readable: whether the students can read a text; others are dropped as
      'unreadable'.

  Raises:
    ValueError: not one list of completions for each row.
  """
  if len(rows) != len(completions):
    raise ValueError(f'{len(rows)} rows, but completions of {len(completions)}')
  records, dropped, silent = [], Counter(), 0
  for row, said in zip(rows, completions):
    read = [thought_of(completion) for completion in said]
    read = [
      ('', 'unreadable') if text and not readable(text) else (text, reason)
      for text, reason in read
    ]
    dropped.update(reason for _, reason in read if reason)
    texts = list(dict.fromkeys(text for text, _ in read if text))
    if not texts:
      silent += 1
      continue
    kept = {name: row[name] for name in KEPT if name in row}
    records.append(
      {'image': _image(row, root)}
      | kept
      | {'description': texts[0], 'descriptions': texts}
    )
  return Described(records, dropped, silent)


def _image(row: Mapping[str, Any], root: str) -> str:
  if not isinstance(row['image'], str | os.PathLike):
    return str(row['id'])
  path = os.fspath(row['image'])
  return path.removeprefix(root.rstrip('/') + '/') if root else path


def one_by_one(
  records: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
  """A record for each description, for supervised training (RACT)."""
  found = []
  for record in records:
    for number, text in enumerate(record['descriptions']):
      one = {k: v for k, v in record.items() if k != 'descriptions'}
      name = f'{record.get("id", record["image"])}#{number}'
      found.append(one | {'id': name, 'description': text})
  return found
