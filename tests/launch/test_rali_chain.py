"""From descriptions to scored photographs: every command that RALI takes."""

import csv
import json

import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

from data.worlds import shapes
from experiments.rali import align
from launch import convert, fit_scorer, score, train
from tests import command_flags, tiny_clip

pytestmark = [pytest.mark.parity, pytest.mark.slow]
COUNT = 48


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """A published CLIP, and photographs described by brightness."""
  pytest.importorskip('torch')
  root = tmp_path_factory.mktemp('chain')
  tiny_clip.write(root / 'clip')
  (root / 'KONIQ').mkdir()
  rng, records = np.random.default_rng(0), []
  for number in range(COUNT):
    noise = rng.normal(0, 10, (40, 48, 3))
    pixels = np.clip(20 + 200 * number / COUNT + noise, 0, 255)
    name = f'KONIQ/{number:02}.png'
    Image.fromarray(pixels.astype(np.uint8)).save(root / name)
    first, second = (shapes.WORDS[number // 8 + n] for n in (0, 1))
    records.append(
      {
        'image': name,
        'id': name,
        'gt_score_norm': 1 + 4 * number / (COUNT - 1),
        'description': first,
        'descriptions': [first, f'{first} {second}'],
      }
    )
  (root / 'koniq.json').write_text(json.dumps(records))
  rows = [f'{r["image"]},{r["gt_score_norm"]}' for r in records]
  (root / 'mos.csv').write_text('\n'.join(['image,mos', *rows]))
  return root


def run(module, **given):
  required = [name for name in given if name in ('model', 'data', 'images')]
  defined = command_flags.defined(module.define_flags, (*required, 'output'))
  with defined, flagsaver.flagsaver(**given):
    module.main([])


def test_align_convert_fit_and_score(files, capsys):
  config = align.get_config()
  config.model.preset, config.model.init_from = '', str(files / 'clip')
  config.data.path, config.data.images = str(files / 'koniq.json'), str(files)
  config.data.workers, config.runtime.dtype = 0, 'float32'
  config.workdir = str(files / 'align')
  config.batch_size, config.steps, config.optimizer.lr = 8, 6, 1e-3
  config.optimizer.warmup, config.log_every = 1, 3
  config.eval.every, config.eval.batch_size = 3, 8
  config.checkpoint.every = 3
  train.run(config)
  convert.from_orbax(files / 'align', files / 'best')
  run(
    fit_scorer, model=str(files / 'best'), data=str(files / 'koniq.json'),
    images=str(files), output=str(files / 'scorer'), batch_size=1,
    prototypes=12, bins=10, components=6, epochs=5,
  )  # fmt: skip
  run(
    score, model=str(files / 'scorer'), images=str(files / 'KONIQ'),
    references=str(files / 'mos.csv'), output=str(files / 'scores'),
    batch_size=1,
  )  # fmt: skip
  with (files / 'scores' / 'scores.csv').open() as file:
    found = list(csv.DictReader(file))
  assert len(found) == COUNT
  summary = json.loads((files / 'scores' / 'summary.json').read_text())
  assert summary['agreement']['scores']['srcc'] > 0.7
  assert 'ready for launch.score' in ' '.join(capsys.readouterr().out.split())
