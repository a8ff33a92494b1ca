"""Knowledge and retrieval without a detector: crops through image towers."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

from data.embeddings import Embedder
from launch import knowledge
from launch.benchmarks import retrieval
from tests import command_flags, crop_files
from tests.crop_files import COLOURS

pytestmark = pytest.mark.parity


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  pytest.importorskip('torch')
  pytest.importorskip('transformers')
  return crop_files.write(tmp_path_factory.mktemp('crops'))


@pytest.fixture(scope='module')
def known(root):
  names = ('genome', 'vectors', 'output')
  with (
    command_flags.defined(knowledge.define_flags, names),
    flagsaver.flagsaver(
      genome=str(root / 'vg'), vectors=str(root / 'v.txt'), minimum=1,
      output=str(root / 'k'), embedder=str(root / 'dino'), images=[str(root)],
    ),
  ):  # fmt: skip
    return knowledge.run_from_flags()


def test_crops_are_the_regions_of_knowledge(known):
  assert set(known.words) == set(COLOURS) and known.width == 32
  assert known.counts.tolist() == [1, 1, 1]
  assert known.meta['first_images_left_out'] == {'missing image': ['3']}


def test_images_are_found_by_their_crops(root, known, monkeypatch):
  del known  # It was written.
  with command_flags.of_benchmarks():
    given = dict(
      benchmark='retrieval', data=str(root / 'dataset.json'),
      knowledge=str(root / 'k'), vectors=str(root / 'v.txt'),
      output=str(root / 'out'), embedder=str(root / 'dino'), images=str(root),
    )  # fmt: skip
    with flagsaver.flagsaver(**given):
      retrieval.run_from_flags()
    report = json.loads((root / 'out' / 'scores.json').read_text())
    for found in report['scores'].values():
      assert found['t2i_r1'] == 100 and found['i2t_r1'] == 100
    # A CLIP in front, of which only the towers are stood in for.
    load = Embedder.load
    monkeypatch.setattr(
      Embedder,
      'load',
      lambda source, **more: (
        Colours() if source == 'clip' else load(source, **more)
      ),
    )
    given |= dict(model='clip', output=str(root / 'new'))
    with flagsaver.flagsaver(**given):
      retrieval.run_from_flags()
  report = json.loads((root / 'new' / 'scores.json').read_text())
  assert report['scores']['base']['t2i_r1'] == 100
  assert set(report['scores']) >= {'t2i', 'base', 'base + t2i'}


class Colours:
  """Embeds a picture as its colour, and a text as that of its word."""

  def pictures(self, paths):
    means = [np.asarray(Image.open(path)).mean((0, 1)) for path in paths]
    return SimpleNamespace(vectors=np.array(means, np.float32))

  def texts(self, texts):
    rows = [COLOURS[text.split()[-1]] for text in texts]
    return SimpleNamespace(vectors=np.array(rows, np.float32))
