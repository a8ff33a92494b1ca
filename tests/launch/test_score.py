"""A folder of images scored from the command's flags."""

import csv
import json
import os
import shutil

import jax
import numpy as np
import pytest
from absl import app
from absl.testing import flagsaver
from PIL import Image

from data.processors.towers import Crop
from experiments.rali import scoring
from launch import score
from tests import command_flags, rali_files, tiny_checkpoint
from vlm.convert import rali

pytestmark = pytest.mark.parity
COUNT = 19


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """A released model, a folder of images, a csv of opinions."""
  pytest.importorskip('torch')
  folder = tmp_path_factory.mktemp('score')
  (folder / 'model').mkdir()
  rali_files.write(folder / 'model')
  (folder / 'photos/more').mkdir(parents=True)
  for number in range(COUNT):
    place = 'more/' if number % 2 else ''
    picture = tiny_checkpoint.picture(30 + number, 60 - number, number)
    picture.save(folder / f'photos/{place}{number:02}.png')
  (folder / 'photos/broken.jpg').write_bytes(b'\xff\xd8\xff')
  (folder / 'photos/empty.png').write_bytes(b'')
  (folder / 'photos/notes.txt').write_text('no image')
  return folder


@pytest.fixture(scope='module', autouse=True)
def defined():
  with command_flags.defined(score.define_flags, ('model', 'images', 'output')):
    yield


def run(files, output, **given):
  usual = dict(
    model=str(files / 'model'), images=str(files / 'photos'), batch_size=1,
    output=str(output),
  )  # fmt: skip
  with flagsaver.flagsaver(**(usual | given)):
    score.main([])


def lines(output):
  text = (output / 'predictions.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope='module')
def scored(files, tmp_path_factory):
  """A whole run over 8 devices."""
  output = tmp_path_factory.mktemp('scored')
  run(files, output)
  return output


def test_a_folder_is_scored_as_one_image_at_a_time_is(files, scored):
  loaded = rali.load(files / 'model')
  crop = Crop(rali_files.SIDE, rali_files.SIDE)
  one = jax.jit(loaded.scores)
  records = lines(scored)
  assert [r['image'] for r in records] == sorted(r['image'] for r in records)
  good = {r['image']: r['score'] for r in records if 'score' in r}
  assert len(good) == COUNT and 'more/07.png' in good
  for name, found in list(good.items())[::6]:
    pixels = crop(files / 'photos' / name)
    want = one(loaded.params, loaded.scorer, pixels)[0]
    np.testing.assert_allclose(found, want, rtol=1e-5)
  bad = {r['image']: r['problem'] for r in records if 'problem' in r}
  assert bad.keys() == {'broken.jpg', 'empty.png'}
  with (scored / 'scores.csv').open() as file:
    table = list(csv.DictReader(file))
  values = [float(row['score']) for row in table]
  assert values == sorted(values, reverse=True) and len(values) == COUNT
  summary = json.loads((scored / 'summary.json').read_text())
  assert summary['skipped'] == {'corrupt image': 2}
  assert summary['images_per_second'] > 0
  assert Image.open(scored / 'histogram.png').width > 500
  assert Image.open(scored / 'extremes.png').height > 300


def test_a_run_that_was_killed_continues(files, scored, tmp_path, monkeypatch):
  shutil.copytree(scored, tmp_path / 'out')
  whole = (scored / 'predictions.jsonl').read_text()
  torn = ''.join(whole.splitlines(True)[:11]) + '{"ima'
  (tmp_path / 'out/predictions.jsonl').write_text(torn)
  read = []
  usual = scoring.ImageScorer._read

  def counted(self, path):
    read.append(path.name)
    return usual(self, path)

  monkeypatch.setattr(scoring.ImageScorer, '_read', counted)
  run(files, tmp_path / 'out')
  assert (tmp_path / 'out/predictions.jsonl').read_text() == whole
  assert len(read) == COUNT + 2 - 8  # one batch of eight was whole
  with pytest.raises(SystemExit, match='under other settings'):
    run(files, tmp_path / 'out', batch_size=2)


def test_references_say_how_scores_agree(files, tmp_path, capsys, scored):
  good = [r for r in lines(scored) if 'score' in r]
  rows = [
    f'{os.path.basename(r["image"])},{100 - r["score"]}' for r in good[:-3]
  ]
  path = tmp_path / 'mos.csv'
  path.write_text('\n'.join(['name,opinion', *rows, 'gone.png,3']))
  columns = ['name', 'opinion']
  run(files, tmp_path / 'out', references=str(path), reference_columns=columns)
  said = capsys.readouterr().out
  assert '16 images have a score and an opinion, 1 only' in ' '.join(
    said.split()
  )
  summary = json.loads((tmp_path / 'out/summary.json').read_text())
  found = summary['agreement']
  assert found['scores']['srcc'] == pytest.approx(-1)
  assert (found['without_score'], found['without_opinion']) == (1, 3)


@pytest.mark.parametrize(
  'text,message',
  [
    ('a,mos\nx,1', r"no column \['image'\]"),
    ('image,mos\nx,high', r"line 2: mos is 'high', no number"),
    ('image,mos\nx,nan', "mos is 'nan'"),
    ('image,mos\nx,1\nx,2', r"line 3: 'x' for the second time"),
    ('image,mos\nx,1', 'none of its 1 images is among'),
  ],
)
def test_wrong_references_are_named(files, tmp_path, text, message, scored):
  path = tmp_path / 'mos.csv'
  path.write_text(text)
  shutil.copytree(scored, tmp_path / 'out')
  with pytest.raises(SystemExit, match=message):
    run(files, tmp_path / 'out', references=str(path))


def test_globs_single_files_and_nothing(files):
  photos = files / 'photos'
  assert scoring.find_images(f'{photos}/*.png').names[0] == '00.png'
  deep = scoring.find_images(f'{files}/pho*/more/*3.png')
  assert deep.names == ('photos/more/03.png', 'photos/more/13.png')
  one = scoring.find_images(f'{photos}/more/03.png')
  assert one.names == ('03.png',)
  assert scoring.find_images(str(photos)).others == 1
  for pattern in (f'{photos}/*.tif', f'{files}/nowhere', f'{files}/model'):
    with pytest.raises(ValueError, match='no image there'):
      scoring.find_images(pattern)


def test_a_folder_of_nothing_readable_and_wrong_models_stop(files, tmp_path):
  with pytest.raises(SystemExit, match='none of 1 images could be read'):
    run(files, tmp_path / 'a', images=str(files / 'photos/broken.jpg'))
  with pytest.raises(SystemExit, match='no RALI: rali.json'):
    run(files, tmp_path / 'b', model=str(files / 'photos'))
  with pytest.raises(SystemExit, match='no such folder'):
    run(files, tmp_path / 'c', model=str(files / 'nowhere'))
  with pytest.raises(app.UsageError, match='IMAGE,MOS'):
    run(files, tmp_path / 'd', reference_columns=['image'])
  shutil.copytree(files / 'model', tmp_path / 'model')
  wider = rali_files.PREPROCESSOR | {'crop_size': 14}
  path = tmp_path / 'model/best/preprocessor_config.json'
  path.write_text(json.dumps(wider))
  with pytest.raises(SystemExit, match='crops to 14 pixels, the tower .* 28'):
    run(files, tmp_path / 'e', model=str(tmp_path / 'model'))
