"""Two processes train for knowledge, make it and find images as one does."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from data import region_encoder
from data.collect_parts import PARTS
from data.knowledge import Knowledge
from tests import crop_files, mask_files
from tests.multiprocess.test_two_processes import finish, free_port
from vlm.methods.mask.encoder import EncoderConfig, RegionEncoder

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  pytest.importorskip('torch')
  root = crop_files.write(tmp_path_factory.mktemp('crops'))
  config = EncoderConfig(32, 8, 6, depth=1, heads=2, word_heads=2)
  params = mask_files.params_of(RegionEncoder(config))
  region_encoder.save(root / 'encoder', config, params)
  return root


def run(command, count, **given):
  """Starts `count` processes of two devices each; returns what each said."""
  address = f'--coordinator_address=127.0.0.1:{free_port()}'
  flags = [f'--{name}={value}' for name, value in given.items()]
  devices = '--xla_force_host_platform_device_count=2'
  return finish([
    subprocess.Popen(
      [
        *(sys.executable, '-m', command, *flags),
        *([address, f'--num_processes={count}'] if count > 1 else []),
        *([f'--process_id={process}'] if count > 1 else []),
      ],
      cwd=ROOT,
      env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': devices},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for process in range(count)
  ])  # fmt: skip


def knowledge(root, output, count):
  run(
    'launch.knowledge',
    count,
    genome=root / 'vg',
    vectors=root / 'v.txt',
    embedder=root / 'dino',
    images=root,
    encoder=root / 'encoder',
    minimum=1,
    batch_size=1,
    output=output,
  )
  assert not list(output.glob(PARTS))
  return Knowledge.load(output)


def found(root, output, count):
  run(
    'launch.evaluate',
    count,
    benchmark='retrieval',
    data=root / 'dataset.json',
    knowledge=root / 'one',
    vectors=root / 'v.txt',
    embedder=root / 'dino',
    images=root,
    output=output,
  )
  lines = (output / 'predictions.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_two_processes_work_as_one(root):
  one, two = (
    knowledge(root, root / name, count)
    for count, name in enumerate(('one', 'two'), 1)
  )
  assert one.words == two.words and one.meta['images'] == 4
  np.testing.assert_array_equal(one.counts, two.counts)
  np.testing.assert_allclose(one.prototypes, two.prototypes, atol=1e-5)
  np.testing.assert_allclose(one.variance, two.variance, atol=1e-5)
  same = ('images', 'regions_left_out', 'first_images_left_out', 'method')
  assert all(one.meta[name] == two.meta[name] for name in same)
  alone, shared = (found(root, root / f'found{n}', n) for n in (1, 2))
  for left, right in zip(alone, shared, strict=True):
    scores = left.pop('scores'), right.pop('scores')
    np.testing.assert_allclose(*scores, atol=1e-5)
    assert left == right


def test_two_processes_train_as_one(tmp_path):
  """The bank is read anew from the regions of both."""
  config = str(ROOT / 'experiments/mask/mask.py:smoke')
  losses = []
  for count in (1, 2):
    workdir = tmp_path / str(count)
    given = {'config.workdir': workdir, 'config.scenes.cache': tmp_path / 'w'}
    run('launch.train', count, config=config, **given)
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    losses.append([row['loss'] for row in rows if 'loss' in row])
  assert len(losses[0]) == 3 and losses[0][-1] < 0.9 * losses[0][0]
  # Each process draws words of its own: the same rows, not the same pairs.
  np.testing.assert_allclose(*losses, rtol=0.01)
