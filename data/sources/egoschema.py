"""EgoSchema (arXiv 2308.09126): three-minute clips, five options.

As published on GitHub (egoschema/EgoSchema):

  questions.json        [{q_uid, question, 'option 0', ..., 'option 4'}]: 5,031
  subset_answers.json   {q_uid: number of the right option}: 500
  videos/Q_UID.mp4

or on the hub (lmms-lab/egoschema): MC/test-*.parquet and Subset/test-*.parquet
with question_idx, video_idx, question, option ('A. ...') and answer, which is
empty in MC. The answers of the other 4,531 are known only to the server.
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
  read_json,
  read_rows,
  texts,
  unlabelled,
)

SPLITS = ('subset', 'total')


def read(folder: epath.PathLike, split: str = 'subset') -> list[Question]:
  """The questions of a split; those of 'total' have no answers.

  Raises:
    FileNotFoundError: where the folder is not laid out as published.
    BadRecord: a row of another form.
    ValueError: a subset that is not part of the questions.
  """
  folder = epath.Path(folder)
  shelf = Shelf(folder / 'videos', folder)
  if not (folder / 'questions.json').exists():
    name = {'subset': 'Subset', 'total': 'MC'}[split]
    rows = read_rows(folder, (f'{name}/test-*.parquet', 'questions.json'))
    return questions_of(rows, lambda row: _hub(row, shelf), 'EgoSchema')
  rows = read_rows(folder, ('questions.json',))
  answers: Mapping[str, int] = {}
  if split == 'subset':
    answers = read_json(folder / 'subset_answers.json')
    rows = [row for row in rows if row.get('q_uid') in answers]
    if len(rows) < len(answers):
      raise ValueError(
        f'{folder}: subset_answers.json has {len(answers)} answers, '
        f'questions.json only {len(rows)} of their questions'
      )
  make = lambda row: _published(row, answers, shelf)
  return questions_of(rows, make, 'EgoSchema')


def _published(
  row: Mapping[str, Any], answers: Mapping[str, int], shelf: Shelf
) -> Question:
  uid = require(row, 'q_uid', str)
  options = tuple(require(row, f'option {n}', str) for n in range(5))
  return Question(
    id=uid,
    video=uid,
    path=shelf.find(uid),
    question=require(row, 'question', str),
    options=options,
    answer=numbered(answers[uid], options) if answers else None,
  )


def _hub(row: Mapping[str, Any], shelf: Shelf) -> Question:
  uid, answer = require(row, 'video_idx', str), row.get('answer')
  options = unlabelled(texts(row, 'option'))
  return Question(
    id=uid,
    video=uid,
    path=shelf.find(uid),
    question=require(row, 'question', str),
    options=options,
    answer=None if answer in (None, '') else numbered(answer, options),
  )
