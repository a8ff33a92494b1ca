"""Two processes answer a benchmark as one does."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import benchmark_files, depth_files, iqa_files, tiny_checkpoint
from tests.multiprocess.test_two_processes import free_port

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  pytest.importorskip('torch')
  root = tmp_path_factory.mktemp('benchmark')
  tiny_checkpoint.write(root / 'model')
  return benchmark_files.videomme(root)


VIDEO = dict(benchmark='videomme', frames=4, max_new_tokens=3, batch_size=2)


def start(files, output, flags=(), usual=VIDEO):
  command = [sys.executable, '-m', 'launch.evaluate']
  given = dict(model=files / 'model', data=files, output=output) | usual
  command += [f'--{name}={value}' for name, value in given.items()]
  clean = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  return subprocess.Popen(
    [*command, *flags],
    cwd=ROOT,
    env=clean | {'JAX_PLATFORMS': 'cpu'},
    stderr=subprocess.PIPE,
    text=True,
  )


def start_two(files, output, flags=(), usual=VIDEO):
  address = f'--coordinator_address=127.0.0.1:{free_port()}'
  two = (address, '--num_processes=2')
  return [
    start(files, output, (*two, f'--process_id={n}', *flags), usual)
    for n in (0, 1)
  ]


def finish(processes, code=0):
  said = [process.communicate(timeout=240)[1] for process in processes]
  codes = [process.returncode for process in processes]
  assert codes == [code] * len(codes), '\n'.join(said)
  return said


def test_two_processes_answer_as_one(files, tmp_path):
  finish([start(files, tmp_path / 'one')])
  finish(start_two(files, tmp_path / 'two'))
  one, two = (
    (tmp_path / name / 'predictions.jsonl').read_text()
    for name in ('one', 'two')
  )
  assert one == two and one.count('missing image') == 2
  # Both stop where process 0 may not continue.
  said = finish(start_two(files, tmp_path / 'two', ['--frames=2']), code=1)
  assert 'frames: 4 there, 2 now' in said[0]
  assert 'process 0 refused it' in said[1]


def test_two_processes_ask_about_pixels_as_one(files, tmp_path):
  """With a damaged picture among those of one process."""
  depth = dict(
    benchmark='depthlm',
    data=depth_files.write_bad(files),
    focal=60,
    max_new_tokens=3,
    batch_size=4,
  )
  finish([start(files, tmp_path / 'one', usual=depth)])
  finish(start_two(files, tmp_path / 'two', usual=depth))
  one, two = (
    (tmp_path / name / 'predictions.jsonl').read_text()
    for name in ('one', 'two')
  )
  assert one == two and one.count('corrupt image') == 3


def test_two_processes_draw_as_one(files, tmp_path):
  """A question's draws depend on its place, not on who prepared it."""
  data = iqa_files.write_koniq(tmp_path / 'data')
  (data / 'KONIQ/images/8.png').unlink()
  wording = iqa_files.write_json(
    tmp_path / 'wording.json', {'system': '', 'score': 'how good?'}
  )
  usual = dict(
    benchmark='iqa', data=data, sets='koniq', draws=3, think=False,
    wording=wording, max_new_tokens=3, batch_size=4,
  )  # fmt: skip
  finish([start(files, tmp_path / 'one', usual=usual)])
  finish(start_two(files, tmp_path / 'two', usual=usual))
  one, two = (
    (tmp_path / name / 'predictions.jsonl').read_text()
    for name in ('one', 'two')
  )
  assert one == two
  records = [json.loads(line) for line in one.splitlines()]
  problems = [r['problem'].split(':')[0] for r in records if r['problem']]
  assert problems == ['missing image']
  drawn = [r['drawn'] for r in records if not r['problem']]
  assert len(drawn) == 5 and all(len(texts) == 3 for texts in drawn)
  assert len({tuple(texts) for texts in drawn}) == 5
