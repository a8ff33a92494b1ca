"""Tiny benchmarks on disk, each in the layout in which it is published."""

import json
import pathlib

import av
import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from data.sources import mlvu, mvbench

FPS = 8
HEIGHT, WIDTH = 64, 96


def write_video(path: pathlib.Path, frames: int = 16, seed: int = 0) -> None:
  """Frames of one grey each: 8 times its number, and `seed`."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with av.open(str(path), 'w', format='mp4') as container:
    stream = container.add_stream('mpeg4', rate=FPS)
    stream.width, stream.height = WIDTH, HEIGHT
    stream.pix_fmt = 'yuv420p'
    for number in range(frames):
      grey = np.full((HEIGHT, WIDTH, 3), (8 * number + seed) % 256, np.uint8)
      frame = av.VideoFrame.from_ndarray(grey, format='rgb24')
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


def write_table(path: pathlib.Path, rows: list[dict]) -> None:
  """A parquet file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_json(path: pathlib.Path, content) -> None:
  """A JSON file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content))


def videomme(folder: pathlib.Path) -> pathlib.Path:
  """Three videos with two questions each; the last video is missing."""
  rows = []
  for number, duration in enumerate(('short', 'medium', 'long')):
    for question in range(2):
      rows.append(
        {
          'video_id': f'{number + 1:03d}',
          'duration': duration,
          'domain': 'Knowledge',
          'sub_category': 'Astronomy',
          'url': f'https://example.org/watch?v=id{number}',
          'videoID': f'id{number}',
          'question_id': f'{number + 1:03d}-{question + 1}',
          'task_type': ('Counting Problem', 'Object Reasoning')[question],
          'question': 'What is it?',
          'options': ['A. a cat', 'B. a dog', 'C. B. King', 'D. none'],
          'answer': 'ABCD'[(number + question) % 4],
        }
      )
  write_table(folder / 'videomme' / 'test-00000-of-00001.parquet', rows)
  write_video(folder / 'data' / 'id0.mp4')
  write_video(folder / 'data' / 'id1.MP4', seed=100)
  return folder


def egoschema(folder: pathlib.Path) -> pathlib.Path:
  """Three clips, two of them with known answers; one of these is damaged."""
  options = {f'option {n}': f'C does thing {n}.' for n in range(5)}
  rows = [
    {
      'q_uid': f'uid-{n}',
      'google_drive_id': f'drive-{n}',
      'question': 'What does C do?',
      **options,
    }
    for n in range(3)
  ]
  write_json(folder / 'questions.json', rows)
  write_json(folder / 'subset_answers.json', {'uid-0': 4, 'uid-2': 0})
  for number in range(2):
    write_video(folder / 'videos' / f'uid-{number}.mp4', seed=number)
  (folder / 'videos' / 'uid-2.mp4').write_bytes(b'no video at all')
  return folder


def egoschema_hub(folder: pathlib.Path) -> pathlib.Path:
  """The same questions as tables."""
  rows = [
    {
      'question_idx': str(n),
      'question': 'What does C do?',
      'video_idx': f'uid-{n}',
      'option': [f'{"ABCDE"[k]}. C does thing {k}.' for k in range(5)],
      'answer': {0: '4', 2: '0'}.get(n),
    }
    for n in range(3)
  ]
  name = 'test-00000-of-00001.parquet'
  total = [{**row, 'answer': None} for row in rows]
  write_table(folder / 'MC' / name, total)
  write_table(folder / 'Subset' / name, [rows[0], rows[2]])
  return folder


def _longvideobench_rows() -> list[dict]:
  return [
    {
      'id': f'vid{n}_0',
      'video_id': f'vid{n}',
      'video_path': f'vid{n}.mp4',
      'subtitle_path': f'vid{n}_en.json',
      'question': 'How many cats?',
      'candidates': ['2', '0', '1', '3'][: 4 - n],
      'correct_choice': n + 1,
      'position': [1, 2],
      'topic_category': 'NP-News',
      'question_category': ('S2E', 'TOS')[n],
      'level': 'L1-Perception',
      'duration_group': (15, 600)[n],
      'duration': 2.0,
      'starting_timestamp_for_subtitles': 0,
      'view_count': 7,
    }
    for n in range(2)
  ]


def longvideobench(folder: pathlib.Path) -> pathlib.Path:
  """Two videos, four and three options."""
  write_json(folder / 'lvb_val.json', _longvideobench_rows())
  for number in range(2):
    write_video(folder / 'videos' / f'vid{number}.mp4', seed=number)
  return folder


def longvideobench_table(folder: pathlib.Path) -> pathlib.Path:
  """The same questions as a table."""
  rows = []
  for row in _longvideobench_rows():
    given = row.pop('candidates')
    filled = given + ['N/A'] * (5 - len(given))
    rows.append(row | {f'option{n}': text for n, text in enumerate(filled)})
  write_table(folder / 'validation-00000-of-00001.parquet', rows)
  return folder


def mvbench_files(folder: pathlib.Path) -> pathlib.Path:
  """One question of each of the twenty tasks; one folder of frames."""
  for number, task in enumerate(sorted(mvbench.FOLDERS)):
    row = {
      'video': f'{task}.mp4',
      'question': f'What of {task}?',
      'candidates': ['3', '1', 'two'],
      'answer': ('3', '1', 'two')[number % 3],
    }
    home = folder / 'video' / mvbench.FOLDERS[task]
    if task in mvbench.CUT:
      row |= {'start': 0.5, 'end': 1.25}
    if task == 'episodic_reasoning':
      row |= {'video': 'castle_clip', 'start': 1.0, 'end': 99.0}
      for frame in range(1, 7):
        path = home / 'castle_clip' / f'{frame:05d}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (WIDTH, HEIGHT), (40 * frame,) * 3).save(path)
    elif task.startswith('moving'):
      write_video(
        folder / 'video/data0613' / mvbench.FOLDERS[task] / row['video']
      )
    else:
      write_video(home / row['video'], seed=number)
    write_json(folder / 'json' / f'{task}.json', [row])
  return folder


def mlvu_dev(folder: pathlib.Path) -> pathlib.Path:
  """Two questions of each task about one video."""
  for task, name in mlvu.TASKS.items():
    rows = [
      {
        'video': f'{task}.mp4',
        'duration': 2.0,
        'question': f'What of {task}?',
        'candidates': ['Red', 'Green', 'Blue', 'Grey'],
        'answer': ('Green', 'Grey')[n],
        'question_type': task,
      }
      for n in range(2)
    ]
    write_json(folder / 'json' / f'{name}.json', rows)
    write_video(folder / 'video' / name / f'{task}.mp4')
  return folder


def mlvu_test(folder: pathlib.Path) -> pathlib.Path:
  """Three questions of two tasks, six options."""
  rows = [
    {
      'video': f'test_{n}.mp4',
      'duration': 2.0,
      'question': 'Which sport?',
      'candidates': ['run', 'swim', 'row', 'ski', 'box', 'dive'],
      'answer': ('dive', 'run', 'ski')[n],
      'question_type': ('sportsQA', 'sportsQA', 'count')[n],
      'question_id': f'SQA_{n}',
    }
    for n in range(3)
  ]
  write_json(folder / 'test-ground-truth' / 'test_mcq_gt.json', rows)
  for number in range(3):
    write_video(folder / 'MLVU_Test' / 'video' / f'test_{number}.mp4')
  return folder


def mlvu_table(folder: pathlib.Path) -> pathlib.Path:
  """A table whose questions end with their options."""
  options = '\n'.join(f'({"ABCDEF"[n]}) thing {n}' for n in range(6))
  row = {
    'video_name': 'test_0.mp4',
    'duration': 2.0,
    'question': f'Which thing?\n{options}',
    'answer': 'F',
    'task_type': 'sportsQA',
  }
  write_table(folder / 'mlvu_test' / 'test-00000-of-00001.parquet', [row])
  return folder
