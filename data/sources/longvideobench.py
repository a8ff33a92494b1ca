"""LongVideoBench (arXiv 2407.15754), validation: 1,337 questions.

As published on the hub (longvideobench/LongVideoBench), the tar files unpacked:

  lvb_val.json                 or validation-*.parquet
  videos/VIDEO_ID.mp4

Rows: id, video_id, video_path, question, candidates (in parquet: option0 to
option4, 'N/A' where there are fewer), correct_choice, duration_group (15, 60,
600, 3600 seconds), question_category, and more. Some videos begin before what
is asked about; the published loader shows them whole, and so do we.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from data.records import require
from data.sources.video_qa import (
  Question,
  Shelf,
  numbered,
  questions_of,
  read_rows,
  texts,
)

SPLITS = ('val',)


def read(folder: epath.PathLike, split: str = 'val') -> list[Question]:
  """The questions of a split.

  Raises:
    FileNotFoundError: where the folder is not laid out as published.
    BadRecord: a row of another form.
  """
  folder = epath.Path(folder)
  shelf = Shelf(folder / 'videos')
  files = (f'lvb_{split}.json', 'validation-*.parquet')
  make = lambda row: _question(row, shelf)
  return questions_of(read_rows(folder, files), make, 'LongVideoBench')


def _question(row: Mapping[str, Any], shelf: Shelf) -> Question:
  if 'candidates' not in row:
    given = [row.get(f'option{n}') for n in range(5)]
    row = {**row, 'candidates': [o for o in given if o not in (None, 'N/A')]}
  options, video = (
    tuple(texts(row, 'candidates')),
    require(row, 'video_path', str),
  )
  return Question(
    id=require(row, 'id', str),
    video=video,
    path=shelf.find(video),
    question=require(row, 'question', str),
    options=options,
    answer=numbered(require(row, 'correct_choice', int), options),
    categories={
      'duration': str(require(row, 'duration_group', int)),
      'task': require(row, 'question_category', str),
    },
  )
