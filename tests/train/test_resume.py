"""Killed and started again equals never interrupted, bit for bit."""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = pathlib.Path(__file__).with_name('resume_run.py')
TIMING = {
  'step_time',
  'data_wait',
  'eta',
}


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
  return os.environ | {
    'PYTHONPATH': str(ROOT),
    'JAX_COMPILATION_CACHE_DIR': str(tmp_path_factory.mktemp('cache')),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    'OMP_NUM_THREADS': '1',
  }


@contextlib.contextmanager
def job(workdir, environment, *flags):
  process = subprocess.Popen(
    [sys.executable, str(SCRIPT), str(workdir), *flags],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    yield process
  finally:
    process.kill()
    process.communicate()


def finish(workdir, environment, *flags):
  with job(workdir, environment, *flags) as process:
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.fixture(scope='module')
def uninterrupted(environment, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted')
  code, errors = finish(workdir, environment, '--pace=0')
  assert code == 0, errors
  return workdir


def unfinished(workdir):
  """Traces of saves that have begun and are not complete."""
  traces = set()
  with contextlib.suppress(FileNotFoundError):
    for path in (workdir / 'checkpoints').iterdir():
      if 'tmp' in path.name or not list(path.glob('manifest_*.json')):
        traces.add((path.name, path.stat().st_ino))
  return traces


def drawn(workdir):
  with contextlib.suppress(FileNotFoundError):
    return (workdir / 'order.txt').read_text().count('\n')
  return 0


def kill_once(workdir, environment, rng, *, inside_save):
  """Starts the job and kills it; returns (finished, died inside a save)."""
  old, target = unfinished(workdir), drawn(workdir) + rng.randint(1, 14)
  with job(workdir, environment) as process:
    while process.poll() is None and drawn(workdir) < target:
      time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.05))
    while inside_save and process.poll() is None:
      if unfinished(workdir) - old:
        break
    process.send_signal(signal.SIGKILL)
    code = process.wait(60)
    if code not in (0, -signal.SIGKILL):
      raise AssertionError(process.stderr.read())
    return code == 0, bool(unfinished(workdir) - old)


def rows(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [
    {k: v for k, v in json.loads(line).items() if k not in TIMING}
    for line in lines
  ]


def order(workdir):
  """step -> ids; a step drawn again after a kill must get the same ids."""
  seen = {}
  for line in (workdir / 'order.txt').read_text().splitlines(keepends=True):
    if match := re.fullmatch(r'(\d+) (\[.*\])\n', line):
      step, ids = int(match[1]), json.loads(match[2])
      assert seen.setdefault(step, ids) == ids, f'step {step} changed'
  return seen


def assert_same_run(workdir, reference):
  assert rows(workdir) == rows(reference)
  assert order(workdir) == order(reference)
  ours = np.load(workdir / 'final.npz')
  theirs = np.load(reference / 'final.npz')
  assert set(ours) == set(theirs) and len(theirs) > 5
  for name in theirs:
    assert ours[name].tobytes() == theirs[name].tobytes(), name


def soak(workdir, environment, reference, kills, seed):
  rng = random.Random(seed)
  inside = 0
  done = 0
  for kill in range(kills):
    finished, died_saving = kill_once(
      workdir, environment, rng, inside_save=kill % 2 == 1
    )
    inside += died_saving
    if finished:  # compare, and begin anew
      done += 1
      assert_same_run(workdir, reference)
      workdir = workdir.with_name(f'again{done}')
  assert inside > 0, 'no kill hit a save'
  code, errors = finish(workdir, environment, '--pace=0')
  assert code == 0, errors
  assert_same_run(workdir, reference)


def test_the_reference_run_is_what_we_think(uninterrupted):
  logged = [row['step'] for row in rows(uninterrupted) if 'loss' in row]
  assert logged == [*range(3, 40, 3), 40]
  assert list(order(uninterrupted)) == list(range(1, 41))
  ids = [i for batch in order(uninterrupted).values() for i in batch]
  assert len(set(ids)) == 160 and ids != sorted(ids)


def test_killed_five_times(uninterrupted, environment, tmp_path):
  soak(tmp_path / 'run', environment, uninterrupted, kills=5, seed=0)


@pytest.mark.soak
def test_killed_fifty_times(uninterrupted, environment, tmp_path):
  soak(tmp_path / 'run', environment, uninterrupted, kills=50, seed=1)


def test_sigterm_saves_exits_with_its_code_and_resumes(
  uninterrupted, environment, tmp_path
):
  with job(tmp_path, environment, '--pace=0.05') as process:
    assert process.stdout.readline() == 'ready 0\n'
    while len((tmp_path / 'order.txt').read_text().splitlines()) < 6:
      time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
  steps = [int(p.name) for p in (tmp_path / 'checkpoints').iterdir()]
  assert (
    max(steps) == max(order(tmp_path)) < 40
  )  # the step that was running, no later
  code, errors = finish(tmp_path, environment, '--pace=0')
  assert code == 0, errors
  assert_same_run(tmp_path, uninterrupted)
