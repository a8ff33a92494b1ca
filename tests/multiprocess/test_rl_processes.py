"""Two processes draw, score and learn together, and go on after a stop."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.multiprocess.test_two_processes import finish, free_port

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path):
  clean = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  return clean | {
    'PYTHONPATH': str(ROOT),
    'JAX_PLATFORMS': 'cpu',
    'OMP_NUM_THREADS': '1',
    'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'cache'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
  }


def train(workdir, steps, environment):
  address = f'--coordinator_address=127.0.0.1:{free_port()}'
  flags = (
    '--config=tests/word_config.py', f'--config.workdir={workdir}',
    f'--config.steps={steps}', '--config.rl.ahead=True',
    '--config.rl.updates=2', '--config.rl.beta=0.1',
  )  # fmt: skip
  finish([
    subprocess.Popen(
      [
        *(sys.executable, '-m', 'launch.train', *flags),
        *(address, '--num_processes=2', f'--process_id={process}'),
      ],
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for process in (0, 1)
  ])  # fmt: skip


def test_all_prompts_are_scored_once_and_logged_together(tmp_path, environment):
  train(tmp_path, 3, environment)
  train(tmp_path, 6, environment)  # from between two updates with one batch
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [row['step'] for row in rows] == [2, 3, 4, 6]
  assert rows[-1]['rollout/staleness'] == 2 and rows[0]['kl'] >= 0
  assert all(row['drift/max'] < 1e-3 for row in rows)
  table = (tmp_path / 'samples' / '00000000.jsonl').read_text().splitlines()
  groups = [json.loads(line) for line in table]
  assert len(groups) == 8
  for group in groups:
    texts = group['completions']
    # The reward that compares completions saw the right ones.
    most = max(text.count('a') for text in texts)
    assert group['rewards']['best'] == [t.count('a') >= most for t in texts]
    shares = pytest.approx([text.count('a') / 3 for text in texts])
    assert group['rewards']['share'] == shares
