"""Benchmarks as published become one form of question."""

import json

import numpy as np
import pytest
from etils import epath

from data.excerpt import open_excerpt
from data.records import BadRecord
from data.sources import (
  egoschema,
  longvideobench,
  mlvu,
  mvbench,
  video_qa,
  videomme,
)
from tests import benchmark_files as files


def test_videomme(tmp_path):
  questions = videomme.read(files.videomme(tmp_path))
  assert [q.id for q in questions[:3]] == ['001-1', '001-2', '002-1']
  first = questions[0]
  assert first.options == ('a cat', 'a dog', 'B. King', 'none')
  assert [q.answer for q in questions] == [0, 1, 1, 2, 2, 3]
  assert first.categories == {
    'duration': 'short',
    'domain': 'Knowledge',
    'task': 'Counting Problem',
  }
  assert [q.path.name for q in questions[::2]] == ['id0.mp4', 'id1.MP4', 'id2']
  assert len({q.video for q in questions}) == 3


@pytest.mark.parametrize('write', [files.egoschema, files.egoschema_hub])
def test_egoschema(tmp_path, write):
  folder = write(tmp_path)
  subset = egoschema.read(folder, 'subset')
  assert [(q.id, q.answer) for q in subset] == [('uid-0', 4), ('uid-2', 0)]
  total = egoschema.read(folder, 'total')
  assert [q.answer for q in total] == [None] * 3
  assert total[1].options == tuple(f'C does thing {n}.' for n in range(5))
  assert total[1].path.parent.name == 'videos'


def test_answers_of_unknown_questions_stop_egoschema(tmp_path):
  folder = files.egoschema(tmp_path)
  files.write_json(folder / 'subset_answers.json', {'uid-0': 1, 'other': 1})
  with pytest.raises(ValueError, match='2 answers.*only 1'):
    egoschema.read(folder, 'subset')


@pytest.mark.parametrize(
  'write', [files.longvideobench, files.longvideobench_table]
)
def test_longvideobench(tmp_path, write):
  """The answer is a place, also where options are numbers."""
  questions = longvideobench.read(write(tmp_path))
  assert [q.options for q in questions] == [
    ('2', '0', '1', '3'),
    ('2', '0', '1'),
  ]
  assert [q.answer for q in questions] == [1, 2]
  assert questions[1].categories == {'duration': '600', 'task': 'TOS'}
  assert questions[1].path == epath.Path(tmp_path) / 'videos/vid1.mp4'


def test_mvbench(tmp_path):
  questions = mvbench.read(files.mvbench_files(tmp_path))
  by_task = {q.categories['task']: q for q in questions}
  assert len(by_task) == len(questions) == 20
  assert all(q.path.exists() for q in questions)
  cut = by_task['action_sequence']
  assert (cut.start, cut.end, cut.fps) == (0.5, 1.25, None)
  # Words, though one of them is also a number of an option.
  assert [by_task[t].answer for t in sorted(by_task)[:3]] == [0, 1, 2]
  assert 'data0613' in str(by_task['moving_count'].path)
  frames = by_task['episodic_reasoning']
  assert frames.path.is_dir() and (frames.fps, frames.start) == (3.0, 1.0)


def test_mlvu(tmp_path):
  dev = mlvu.read(files.mlvu_dev(tmp_path / 'dev'), 'dev')
  assert len(dev) == 14 and all(q.path.exists() for q in dev)
  assert [q.answer for q in dev[:2]] == [1, 3]
  assert dev[2].id == 'needle/0' and dev[2].categories == {'task': 'needle'}
  test = mlvu.read(files.mlvu_test(tmp_path / 'test'), 'test')
  assert [q.answer for q in test] == [5, 0, 3]
  assert all(q.path.exists() for q in test)
  (one,) = mlvu.read(files.mlvu_table(tmp_path / 'table'), 'test')
  assert one.question == 'Which thing?' and one.answer == 5
  assert one.options == tuple(f'thing {n}' for n in range(6))


@pytest.mark.parametrize(
  'read', [m.read for m in (videomme, egoschema, longvideobench, mvbench, mlvu)]
)
def test_another_folder_is_refused_by_the_flag(tmp_path, read):
  with pytest.raises(FileNotFoundError, match=f'--data={tmp_path}'):
    read(tmp_path)


def test_a_row_of_another_form_is_named(tmp_path):
  folder = files.longvideobench(tmp_path)
  rows = json.loads((folder / 'lvb_val.json').read_text())
  rows[1]['correct_choice'] = 7
  files.write_json(folder / 'lvb_val.json', rows)
  with pytest.raises(BadRecord, match='LongVideoBench, row 1.*answer 7'):
    longvideobench.read(folder)
  rows[1] = rows[0]
  files.write_json(folder / 'lvb_val.json', rows)
  with pytest.raises(ValueError, match="row 1: id 'vid0_0' comes twice"):
    longvideobench.read(folder)


def test_letters_go_only_where_every_option_has_its_own():
  assert video_qa.unlabelled(['(A) x', '(B) y']) == ('x', 'y')
  assert video_qa.unlabelled(['A) x', 'B: y']) == ('x', 'y')
  assert video_qa.unlabelled(['A. x', 'C. y ']) == ('A. x', 'C. y')
  assert video_qa.unlabelled(['cat', 'dog']) == ('cat', 'dog')


class _Processor:
  """Wants whole frames of 28 pixels; takes every other frame by itself."""

  def frame_size(self, frames, height, width):
    return 28, 28

  def sample(self, total, fps):
    return np.arange(0, total, 2)


def _numbers(frames):
  return [round(np.asarray(picture).mean() / 8) for picture in frames]


def test_an_excerpt_is_a_video_of_its_own(tmp_path):
  path = tmp_path / 'clip.mp4'
  files.write_video(path, frames=24)
  found = open_excerpt(path, _Processor(), 3, start=0.5, end=1.5)
  assert _numbers(found) == [4, 8, 12]
  assert found.seconds == (0, 0.5, 1.0)
  assert found.fps == pytest.approx(3 / 9 * files.FPS)
  assert found.images[0].size == (28, 28) and found.whole == (64, 96)
  whole = open_excerpt(path, _Processor(), 2)
  assert _numbers(whole) == [0, 23] and whole.fps == pytest.approx(2 / 3)
  by_rule = open_excerpt(path, _Processor(), start=2.5)
  assert _numbers(by_rule) == [20, 22]


@pytest.mark.parametrize(
  ('start', 'end', 'numbers'),
  [
    (2.0, 99.0, [16, 23]),
    (50.0, 60.0, [23]),
    (1.0, 1.0, [8]),
    (2.0, 1.0, [16]),
  ],
)
def test_times_beyond_the_video_are_its_own(tmp_path, start, end, numbers):
  path = tmp_path / 'clip.mp4'
  files.write_video(path, frames=24)
  found = open_excerpt(path, _Processor(), 2, start=start, end=end)
  assert _numbers(found) == numbers


def test_a_folder_of_frames_is_a_video(tmp_path):
  folder = files.mvbench_files(tmp_path)
  path = folder / 'video/tvqa/frames_fps3_hq/castle_clip'
  found = open_excerpt(path, _Processor(), 2, start=1.0, end=99.0, fps=3.0)
  assert [round(np.asarray(f).mean() / 40) for f in found] == [4, 6]
  assert found.seconds == pytest.approx((0, 2 / 3)) and found.whole == (64, 96)
  with pytest.raises(BadRecord, match='no such folder of frames'):
    open_excerpt(folder / 'nowhere', None, fps=3.0)
  (folder / 'empty').mkdir()
  with pytest.raises(BadRecord, match='holds no picture'):
    open_excerpt(folder / 'empty', None, fps=3.0)
