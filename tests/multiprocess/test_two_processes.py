"""Two processes train, save and resume, and equal one process."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.multiprocess

ROOT = pathlib.Path(__file__).parents[2]
WORKER = pathlib.Path(__file__).with_name('worker.py')


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
  clean = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  return clean | {
    'PYTHONPATH': str(ROOT),
    'OMP_NUM_THREADS': '1',
    'JAX_COMPILATION_CACHE_DIR': str(tmp_path_factory.mktemp('cache')),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
  }


def free_port():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def start(workdir, steps, environment, count, *, only=None, flags=()):
  """Starts the processes of a job (or those in `only`)."""
  address = f'--coordinator_address=127.0.0.1:{free_port()}'
  processes = []
  for index in range(count) if only is None else only:
    several = [address, f'--num_processes={count}', f'--process_id={index}']
    processes.append(
      subprocess.Popen(
        [
          *(sys.executable, str(WORKER), str(workdir), str(steps)),
          *(several if count > 1 else ()),
          *flags,
        ],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  return processes


def finish(processes, expect=0):
  """Waits; returns what each said on stderr."""
  try:
    said = [process.communicate(timeout=180)[1] for process in processes]
  finally:
    for process in processes:
      process.kill()
  codes = [process.returncode for process in processes]
  assert codes == [expect] * len(codes), '\n'.join(said)
  return said


@pytest.fixture(scope='module')
def alone(environment, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('alone')
  finish(start(workdir, 20, environment, 1))
  return workdir


def losses(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return {row['step']: row['loss'] for row in map(json.loads, lines)}


def assert_same(workdir, reference):
  ours, theirs = losses(workdir), losses(reference)
  assert list(ours) == list(theirs) == [5, 10, 15, 20]
  np.testing.assert_allclose(
    list(ours.values()), list(theirs.values()), rtol=1e-5
  )
  ours = np.load(workdir / 'final.npz')
  theirs = np.load(reference / 'final.npz')
  assert set(ours) == set(theirs) and any('kernel' in name for name in ours)
  for name in theirs:
    np.testing.assert_allclose(
      ours[name], theirs[name], rtol=1e-4, atol=1e-6, err_msg=name
    )


def test_two_train_stop_resume_and_equal_one(alone, environment, tmp_path):
  """A preemption notice to one of them stops both at the same step."""
  processes = start(tmp_path, 20, environment, 2, flags=['--pace=0.3'])
  for process in processes:
    assert process.stdout.readline() == 'ready None\n'
  first = tmp_path / 'checkpoints' / '00000004'
  wait_for(lambda: len(list(first.glob('manifest_*.json'))) == 2)
  processes[1].terminate()
  finish(processes, expect=75)
  steps = sorted(int(p.name) for p in first.parent.iterdir())
  assert steps[0] == 4 and 4 < steps[-1] < 20
  newest = first.with_name(f'{steps[-1]:08d}')
  parts = sorted(path.name for path in newest.glob('manifest*'))
  assert parts == ['manifest_0-of-2.json', 'manifest_1-of-2.json']

  # one process cannot continue their position in the data, and says so
  (told,) = finish(start(tmp_path, 20, environment, 1), expect=1)
  assert '--num_processes=2, this run has 1' in told

  # damage a file: both agree to go back by one checkpoint
  damage(newest)
  for told in finish(start(tmp_path, 20, environment, 2)):
    assert f'Skipping checkpoint {newest}' in told
  assert_same(tmp_path, alone)


def wait_for(condition, seconds=60):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, 'it never happened'
    time.sleep(0.01)


def damage(folder):
  """Flips a byte of a file of arrays; only one process checks its sum."""
  path = max((folder / 'state' / 'd').iterdir(), key=lambda p: p.stat().st_size)
  whole = bytearray(path.read_bytes())
  whole[len(whole) // 2] ^= 1
  path.write_bytes(whole)


def test_a_missing_worker_is_named(environment, tmp_path):
  processes = start(
    *(tmp_path, 20, environment, 3),
    only=[0, 2],
    flags=['--startup_timeout_s=8'],
  )
  for told in finish(processes, expect=1):
    assert 'MissingWorkers: Missing after 8 s: process 1 of 3.' in told
    assert f'2 ({socket.gethostname()})' in told


def test_a_missing_first_worker_is_named(environment, tmp_path):
  processes = start(
    *(tmp_path, 20, environment, 2),
    only=[1],
    flags=['--startup_timeout_s=1'],
  )
  (told,) = finish(processes, expect=1)
  assert 'process 0 did not answer at 127.0.0.1:' in told
