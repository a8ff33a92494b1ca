"""Two processes embed pictures and texts as one does."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests import tiny_checkpoint
from tests.multiprocess.test_two_processes import finish, free_port

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]
ROOT = pathlib.Path(__file__).parents[2]
WORKER = pathlib.Path(__file__).with_name('embed_worker.py')


def embed(pictures, output, count):
  address = f'--coordinator_address=127.0.0.1:{free_port()}'
  clean = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  finish([
    subprocess.Popen(
      [
        *(sys.executable, str(WORKER), str(pictures), str(output)),
        *([address, f'--num_processes={count}'] if count > 1 else []),
        *([f'--process_id={process}'] if count > 1 else []),
      ],
      env=clean | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for process in range(count)
  ])  # fmt: skip
  paths = [output.with_name(f'{output.stem}-{n}.npz') for n in range(count)]
  return [dict(np.load(path)) for path in paths]


def test_two_processes_embed_as_one(tmp_path):
  """Rows are dealt to processes and come back in order, broken ones named."""
  folder = tmp_path / 'pictures'
  folder.mkdir()
  for number in range(6):
    picture = tiny_checkpoint.picture(40 + number, 36, seed=number)
    picture.save(folder / f'{number}.png')
  (folder / '2b.png').write_bytes(b'\x89PNG')
  (alone,) = embed(folder, tmp_path / 'one.npz', 1)
  both = embed(folder, tmp_path / 'two.npz', 2)
  assert alone['kept'].tolist() == [0, 1, 2, 4, 5, 6]
  assert len(alone['bad']) == 1 and '2b.png' in alone['bad'][0]
  assert len({tuple(vector) for vector in alone['pictures']}) == 6
  for found in both:
    for name in ('pictures', 'texts'):
      np.testing.assert_allclose(found[name], alone[name], atol=1e-5)
    for name in ('kept', 'bad'):
      np.testing.assert_array_equal(found[name], alone[name])
  np.testing.assert_array_equal(alone['texts'][0], alone['texts'][2])
