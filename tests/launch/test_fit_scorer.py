"""From a CLIP folder and opinions to a folder that launch.score takes."""

import json

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

from launch import fit_scorer
from tests import command_flags, rali_files
from vlm.convert import rali
from vlm.methods.rali import scorer

pytestmark = pytest.mark.parity
COUNT = 60


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """A CLIP folder, and pictures whose opinion is their brightness."""
  pytest.importorskip('torch')
  folder = tmp_path_factory.mktemp('fit')
  rali_files.write(folder).save_pretrained(folder / 'clip')
  (folder / 'clip/preprocessor_config.json').write_text(
    json.dumps(rali_files.PREPROCESSOR)
  )
  rng, records = np.random.default_rng(0), []
  for number in range(COUNT):
    level = 20 + 200 * number / COUNT
    noise = rng.normal(0, 15, (40, 30, 3))
    pixels = np.clip(level + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f'{number}.png')
    opinion = 1 + 4 * number / (COUNT - 1)
    records.append({'image': f'{number}.png', 'gt_score_norm': opinion})
  (folder / 'broken.png').write_bytes(b'\x89PNG')
  records += [
    {'image': 'broken.png', 'gt_score_norm': 3.0},
    {'image': 'gone.png', 'gt_score_norm': 3.0},
    {'image': '3.png', 'gt_score_norm': 7.0},
  ]
  (folder / 'mos.json').write_text(json.dumps(records))
  flat = [record | {'gt_score_norm': 3.0} for record in records]
  (folder / 'flat.json').write_text(json.dumps(flat))
  return folder


@pytest.fixture(scope='module', autouse=True)
def defined():
  with command_flags.defined(
    fit_scorer.define_flags, ('model', 'data', 'output')
  ):
    yield


def run(files, output, **given):
  usual = dict(
    model=str(files / 'clip'), data=str(files / 'mos.json'),
    images=str(files), output=str(output), batch_size=1, prototypes=12,
    bins=10, components=6, epochs=5,
  )  # fmt: skip
  with flagsaver.flagsaver(**(usual | given)):
    fit_scorer.main([])


def test_a_scorer_is_made_and_can_be_loaded(files, tmp_path, capsys):
  output = tmp_path / 'out'
  run(files, output, ablations=True)
  facts = json.loads((output / 'fit.json').read_text())
  assert facts['images'] == COUNT
  assert facts['skipped'] == {
    'corrupt image': 1, 'missing image': 1, 'bad score': 1,
  }  # fmt: skip
  assert list(facts['scores']) == [
    'unfitted', 'full', 'no PCA', 'no bins', 'no fit',
  ]  # fmt: skip
  # The same basis as it came, whatever the fit made of it.
  assert facts['scores']['no fit'] == facts['scores']['unfitted']
  assert facts['scores']['full']['train_srcc'] > 0.8
  loaded = rali.load(output)
  assert loaded.scorer['prototypes'].shape == (12, 6)
  pixels = np.stack(
    [np.full((28, 28, 3), level, np.uint8) for level in (30, 120, 210)]
  )
  found = jax.jit(loaded.scores)(loaded.params, loaded.scorer, pixels)
  low, middle, high = np.asarray(found)
  assert low < middle < high
  start = dict(loaded.scorer, prototypes=loaded.basis['vectors'])
  scorer.check(start | {'proto_scores': loaded.basis['scores']}, 24)
  said = ' '.join(capsys.readouterr().out.split())
  assert 'images left out: 1: bad score' in said and 'no bins' in said


def test_what_cannot_be_fitted_is_named(files, tmp_path):
  with pytest.raises(SystemExit, match='opinions are 3: nothing tells'):
    run(files, tmp_path / 'a', data=str(files / 'flat.json'))
  with pytest.raises(SystemExit, match=r'basis.prototypes=250, but there are'):
    run(files, tmp_path / 'b', prototypes=250)
  with pytest.raises(SystemExit, match=r'basis.components=512, expected 1 to'):
    run(files, tmp_path / 'c', components=512)
  with pytest.raises(SystemExit, match='nowhere.json does not exist'):
    run(files, tmp_path / 'd', data='nowhere.json')
