"""Video-MME (arXiv 2405.21075): 900 videos, 2,700 questions, three lengths.

As published on the hub (lmms-lab/Video-MME), the zip files unpacked:

  videomme/test-00000-of-00001.parquet
  data/VIDEOID.mp4                              a few are .MP4 or .mkv

Rows: video_id, duration (short, medium, long), domain, sub_category, url,
videoID, question_id, task_type, question, options ('A. ...'), answer ('A').
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from data.records import require
from data.sources.video_qa import (
  Question,
  Shelf,
  lettered,
  questions_of,
  read_rows,
  texts,
  unlabelled,
)

SPLITS = ('test',)


def read(folder: epath.PathLike, split: str = 'test') -> list[Question]:
  """The questions of a split.

  Raises:
    FileNotFoundError: where the folder is not laid out as published.
    BadRecord: a row of another form.
  """
  folder = epath.Path(folder)
  shelf = Shelf(folder / 'data', folder / 'videos', folder / 'video')
  files = (f'videomme/{split}-*.parquet', f'{split}-*.parquet')
  make = lambda row: _question(row, shelf)
  return questions_of(read_rows(folder, files), make, 'Video-MME')


def _question(row: Mapping[str, Any], shelf: Shelf) -> Question:
  options, video = (
    unlabelled(texts(row, 'options')),
    require(row, 'videoID', str),
  )
  return Question(
    id=require(row, 'question_id', str),
    video=video,
    path=shelf.find(video),
    question=require(row, 'question', str),
    options=options,
    answer=lettered(require(row, 'answer', str), options),
    categories={
      'duration': require(row, 'duration', str),
      'domain': require(row, 'domain', str),
      'task': require(row, 'task_type', str),
    },
  )
