"""Multiple-choice questions about videos: one form for every benchmark.

Each corpus has a reader of its published files (videomme.py, egoschema.py,
longvideobench.py, mvbench.py, mlvu.py), a function

  read(folder, split) -> list[Question]

of a local or gs:// folder. Videos are looked up by listing folders, never
opened: a missing one keeps its place and is found out when it is shown.
"""

import dataclasses
import json
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from data.records import BadRecord, require
from data.video import SUFFIXES

LETTERS = string.ascii_uppercase
# 'A. a cat', '(A) a cat' or 'A) a cat' at the beginning of an option.
_LABEL = re.compile(r'\s*(?:\(([A-Z])\)|([A-Z])[.):])\s*')


@dataclasses.dataclass(frozen=True)
class Question:
  """A question about a video, or about a part of it.

  Attributes:
    id: unique within its split.
    video: name within the benchmark; what several questions share.
    path: of the video, or of the folder that holds its frames.
    question: the words, without options.
    options: without their letters.
    answer: number of the right option; None where it is not published.
    start, end: seconds; None for the whole video.
    fps: of a folder of frames; None for a video.
    categories: what scores are broken down by: {'duration': 'short', ...}.
  """

  id: str
  video: str
  path: epath.Path
  question: str
  options: tuple[str, ...]
  answer: int | None = None
  start: float | None = None
  end: float | None = None
  fps: float | None = None
  categories: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Shelf:
  """Finds videos in folders that are listed once.

  Args:
    folders: where to look, in this order.
  """

  def __init__(self, *folders: epath.Path):
    self._folders = folders
    self._listed: dict[epath.Path, dict[str, epath.Path]] = {}

  def find(self, name: str) -> epath.Path:
    """The path of a video, or of a folder of frames.

    Args:
      name: relative to a folder; without a suffix, or when there is no such
        file, one with the same stem is found (.MP4, .mkv).

    Returns:
      Its path; where it should have been in the first folder, if it is in none.
    """
    for folder in self._folders:
      path = folder / name
      listing = self._listing(path.parent)
      found = listing.get(path.name) or listing.get(_stem(path.name))
      if found is not None:
        return found
    return self._folders[0] / name

  def _listing(self, folder: epath.Path) -> dict[str, epath.Path]:
    if folder not in self._listed:
      paths = sorted(folder.iterdir()) if folder.exists() else []
      stems = {_stem(path.name): path for path in reversed(paths)}
      self._listed[folder] = stems | {path.name: path for path in paths}
    return self._listed[folder]


def _stem(name: str) -> str:
  return name[: name.rfind('.')] if name.lower().endswith(SUFFIXES) else name


def read_rows(folder: epath.Path, patterns: Sequence[str]) -> list[Any]:
  """Rows of the first pattern that matches files, which are concatenated.

  Args:
    folder: of the benchmark.
    patterns: of .json (a list) or .parquet files, most welcome first.

  Raises:
    FileNotFoundError: naming what was looked for, and the flag.
    ValueError: a file of another form.
  """
  for pattern in patterns:
    paths = sorted(folder.glob(pattern))
    if paths:
      return [row for path in paths for row in _file_rows(path)]
  raise FileNotFoundError(
    f'--data={folder} holds none of {", ".join(patterns)}; it must be the '
    'folder of the benchmark as published'
  )


def _file_rows(path: epath.Path) -> list[Any]:
  if path.suffix == '.parquet':
    import pyarrow.parquet  # large, and only some corpora need it

    with path.open('rb') as file:
      return pyarrow.parquet.read_table(file).to_pylist()
  rows = read_json(path)
  if not isinstance(rows, list):
    raise ValueError(
      f'{path} holds a {type(rows).__name__}, expected a list of rows; is '
      '--data the folder as published?'
    )
  return rows


def read_json(path: epath.Path) -> Any:
  """What a JSON file holds.

  Raises:
    ValueError: naming the file.
  """
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path} is not JSON: {error}') from error


def questions_of(
  rows: Iterable[Any], make: Callable[[Any], Question], name: str
) -> list[Question]:
  """`make(row)` of every row.

  Raises:
    BadRecord: a row of another form, by its number. None is dropped: accuracy
      over fewer questions would be another benchmark's.
    ValueError: two rows with one id.
  """
  questions: dict[str, Question] = {}
  for number, row in enumerate(rows):
    try:
      question = make(row)
    except BadRecord as error:
      raise error.at(f'{name}, row {number}') from error
    if question.id in questions:
      raise ValueError(f'{name}, row {number}: id {question.id!r} comes twice')
    questions[question.id] = question
  return list(questions.values())


def unlabelled(options: Sequence[str]) -> tuple[str, ...]:
  """Options without the letters that stand in front of them.

  They go only where every option has its own: an option may well be 'B. King'.
  """
  found = [_LABEL.match(option) for option in options]
  labels = [m and (m.group(1) or m.group(2)) for m in found]
  if labels != list(LETTERS[: len(options)]):
    return tuple(option.strip() for option in options)
  return tuple(o[m.end() :].strip() for o, m in zip(options, found))


def numbered(answer: Any, options: Sequence[str]) -> int:
  """The right option, given by its number from 0.

  Raises:
    BadRecord: 'mismatched labels'.
  """
  text = str(answer)
  if not text.isdecimal() or int(text) >= len(options):
    raise _mismatched(answer, f'0 to {len(options) - 1}')
  return int(text)


def lettered(answer: str, options: Sequence[str]) -> int:
  """The right option, given by its letter.

  Raises:
    BadRecord: 'mismatched labels'.
  """
  letters = LETTERS[: len(options)]
  if len(answer) != 1 or answer not in letters:
    raise _mismatched(answer, f'one of {letters}')
  return letters.index(answer)


def worded(answer: Any, options: Sequence[str]) -> int:
  """The right option, given in its own words.

  Raises:
    BadRecord: 'mismatched labels'.
  """
  plain = [option.strip().casefold() for option in options]
  text = str(answer).strip().casefold()
  if text not in plain:
    raise _mismatched(answer, f'one of {list(options)}')
  return plain.index(text)


def _mismatched(answer: Any, expected: str) -> BadRecord:
  return BadRecord(
    'mismatched labels', f'answer {answer!r}, expected {expected}'
  )


def texts(row: Mapping[str, Any], field: str) -> list[str]:
  """A field that holds at least two texts; numbers become texts.

  Raises:
    BadRecord: 'wrong type'.
  """
  found = require(row, field, list)
  if len(found) < 2 or len(found) > len(LETTERS):
    raise BadRecord('wrong type', f'{len(found)} {field}, expected 2 to 26')
  return [str(text) for text in found]
