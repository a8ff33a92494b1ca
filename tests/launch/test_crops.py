"""Knowledge and retrieval without a detector: crops through image towers."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

from data.embeddings import Embedder
from launch import knowledge, retrieval_benchmark
from tests import command_flags, mask_files, rali_files
from tests.mask_files import box

pytestmark = pytest.mark.parity
COLOURS = {'red': (220, 20, 20), 'dog': (20, 200, 30), 'car': (30, 30, 220)}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A tiny DINOv2, and pictures of one colour whose word is known."""
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  root = tmp_path_factory.mktemp('crops')
  torch.manual_seed(0)
  config = transformers.Dinov2Config(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28,
    patch_size=14, mlp_ratio=2,
  )  # fmt: skip
  tower = transformers.Dinov2Model(config)
  with torch.no_grad():
    for value in tower.parameters():
      value.add_(0.2 * torch.randn(value.shape))
  tower.save_pretrained(root / 'dino')
  facts = rali_files.PREPROCESSOR | dict(
    image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
  )
  (root / 'dino/preprocessor_config.json').write_text(json.dumps(facts))
  images, rows = {}, []
  for number, (word, colour) in enumerate(COLOURS.items()):
    for name in (f'{number}.jpg', f'test{number}.jpg'):
      Image.new('RGB', (100, 80), colour).save(root / name)
    images[number] = (None, [box([word], (10, 10, 60, 50))])
    rows.append((f'test{number}.jpg', 'test', None, [f'a {word}'] * 5))
  images[3] = (None, [box(['man'])])  # its picture is missing
  mask_files.write_genome(root / 'vg', images)
  mask_files.write_karpathy(root / 'dataset.json', rows)
  mask_files.write_text(root / 'v.txt', mask_files.WORDS, mask_files.vectors())
  return root


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
      retrieval_benchmark.run_from_flags()
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
      retrieval_benchmark.run_from_flags()
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
