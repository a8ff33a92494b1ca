"""MLVU (arXiv 2406.04264), multiple choice: 3 minutes to 2 hours.

As published on the hub, `dev` (MLVU/MVLU, four options, 2,174 questions):

  json/1_plotQA.json ... json/7_topic_reasoning.json
  video/1_plotQA/*.mp4 ...

and `test` (MLVU/MLVU_Test, six options, 502 questions of nine tasks), unpacked:

  test-ground-truth/test_mcq_gt.json
  MLVU_Test/video/*.mp4, or video/*.mp4

Rows: video, duration, question, candidates, answer (in the candidate's words),
question_type, and in test question_id. Also read are the tables of the hub's
sy1998/MLVU_dev and sy1998/MLVU_Test, whose rows have video_name, task_type and
a letter as the answer, and whose questions end with their options.
"""

import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from data.records import BadRecord, require
from data.sources.video_qa import (
  Question,
  Shelf,
  lettered,
  questions_of,
  read_rows,
  texts,
  unlabelled,
  worded,
)

SPLITS = ('test', 'dev')
TASKS = {
  'plotQA': '1_plotQA',
  'needle': '2_needle',
  'ego': '3_ego',
  'count': '4_count',
  'order': '5_order',
  'anomaly_reco': '6_anomaly_reco',
  'topic_reasoning': '7_topic_reasoning',
}
# A line of options inside a question: '(A) a cat'.
_OPTION = re.compile(r'^\s*\(([A-Z])\)\s*(.*)$', re.MULTILINE)


def read(folder: epath.PathLike, split: str = 'test') -> list[Question]:
  """The questions of a split, by task.

  Raises:
    FileNotFoundError: where the folder is not laid out as published.
    BadRecord: a row of another form.
  """
  folder = epath.Path(folder)
  table = {'dev': 'mlvu', 'test': 'mlvu_test'}[split]
  if list(folder.glob(f'{table}/test-*.parquet')):
    shelf = Shelf(folder, folder / 'video')
    rows = enumerate(read_rows(folder, (f'{table}/test-*.parquet',)))
    return questions_of(rows, lambda row: _tabled(*row, shelf), 'MLVU')
  if split == 'test':
    shelf = Shelf(folder / 'video', folder / 'MLVU_Test' / 'video')
    rows = enumerate(read_rows(folder, ('test-ground-truth/test_mcq_gt.json',)))
    return questions_of(rows, lambda row: _published(*row, shelf), 'MLVU test')
  inside = folder / 'MLVU'  # as the hub's snapshot has it
  folder = inside if inside.exists() else folder
  questions = []
  for task, name in TASKS.items():
    shelf = Shelf(folder / 'video' / name, folder / 'video' / task)
    rows = enumerate(read_rows(folder, (f'json/{name}.json',)))
    make = lambda row, shelf=shelf: _published(*row, shelf)
    questions += questions_of(rows, make, f'MLVU {name}')
  return questions


def _published(number: int, row: Mapping[str, Any], shelf: Shelf) -> Question:
  options, task = tuple(texts(row, 'candidates')), _text(row, 'question_type')
  video = _text(row, 'video')
  return Question(
    id=str(row.get('question_id', f'{task}/{number}')),
    video=video,
    path=shelf.find(video),
    question=_text(row, 'question'),
    options=options,
    answer=worded(require(row, 'answer', (str, int, float)), options),
    categories={'task': task},
  )


def _tabled(number: int, row: Mapping[str, Any], shelf: Shelf) -> Question:
  question, options = _divided(_text(row, 'question'))
  if not options:
    options = unlabelled(texts(row, 'candidates'))
  task, video = _text(row, 'task_type'), _text(row, 'video_name')
  answer = _text(row, 'answer')
  return Question(
    id=f'{task}/{number}',
    video=video,
    path=shelf.find(video),
    question=question,
    options=options,
    answer=lettered(answer, options),
    categories={'task': task},
  )


def _divided(question: str) -> tuple[str, tuple[str, ...]]:
  """The words of a question, and the options it ends with, if any."""
  found = list(_OPTION.finditer(question))
  if not found:
    return question, ()
  letters = ''.join(match.group(1) for match in found)
  if not 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'.startswith(letters):
    raise BadRecord('wrong type', f'options ({letters}) in the question')
  return (
    question[: found[0].start()].strip(),
    tuple(match.group(2).strip() for match in found),
  )


def _text(row: Mapping[str, Any], field: str) -> str:
  return require(row, field, str)
