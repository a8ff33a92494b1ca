"""MVBench (arXiv 2311.17005): 20 tasks of 200 questions about short videos.

As published on the hub (OpenGVLab/MVBench), the zip files unpacked:

  json/TASK.json                [{video, question, candidates, answer}]
  video/FOLDER/...              one folder for several tasks, `FOLDERS`
  video/data0613/FOLDER/...     videos that were added later

Five tasks ask about a part of a video, from `start` to `end` seconds. The
videos of episodic_reasoning are folders of frames, three a second, numbered
from 00001.jpg. The answer is given in the words of a candidate.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath

from data.records import require
from data.sources.video_qa import (
  Question,
  Shelf,
  questions_of,
  read_rows,
  texts,
  worded,
)

SPLITS = ('test',)
FOLDERS = {
  'action_antonym': 'ssv2_video',
  'action_count': 'perception/videos',
  'action_localization': 'sta/sta_video',
  'action_prediction': 'star/Charades_v1_480',
  'action_sequence': 'star/Charades_v1_480',
  'character_order': 'perception/videos',
  'counterfactual_inference': 'clevrer/video_validation',
  'egocentric_navigation': 'vlnqa',
  'episodic_reasoning': 'tvqa/frames_fps3_hq',
  'fine_grained_action': 'Moments_in_Time_Raw/videos',
  'fine_grained_pose': 'nturgbd',
  'moving_attribute': 'clevrer/video_validation',
  'moving_count': 'clevrer/video_validation',
  'moving_direction': 'clevrer/video_validation',
  'object_existence': 'clevrer/video_validation',
  'object_interaction': 'star/Charades_v1_480',
  'object_shuffle': 'perception/videos',
  'scene_transition': 'scene_qa/video',
  'state_change': 'perception/videos',
  'unexpected_action': 'FunQA_test/test',
}
CUT = (
  'action_localization',
  'action_prediction',
  'action_sequence',
  'episodic_reasoning',
  'object_interaction',
)
FRAMES_PER_SECOND = {'episodic_reasoning': 3.0}


def read(folder: epath.PathLike, split: str = 'test') -> list[Question]:
  """The questions of all tasks, by task.

  Raises:
    FileNotFoundError: where the folder is not laid out as published.
    BadRecord: a row of another form.
  """
  del split  # There is one.
  folder = epath.Path(folder)
  questions = []
  for task in FOLDERS:
    videos = folder / 'video'
    shelf = Shelf(videos / FOLDERS[task], videos / 'data0613' / FOLDERS[task])
    rows = enumerate(read_rows(folder, (f'json/{task}.json',)))
    make = lambda row, task=task, shelf=shelf: _question(task, *row, shelf)
    questions += questions_of(rows, make, f'MVBench {task}')
  return questions


def _question(
  task: str, number: int, row: Mapping[str, Any], shelf: Shelf
) -> Question:
  options, video = tuple(texts(row, 'candidates')), require(row, 'video', str)
  start = end = None
  if task in CUT:
    start, end = (
      float(require(row, name, (int, float))) for name in ('start', 'end')
    )
  return Question(
    id=f'{task}/{number}',
    video=f'{FOLDERS[task]}/{video}',
    path=shelf.find(video),
    question=require(row, 'question', str),
    options=options,
    answer=worded(require(row, 'answer', (str, int)), options),
    start=start,
    end=end,
    fps=FRAMES_PER_SECOND.get(task),
    categories={'task': task},
  )
