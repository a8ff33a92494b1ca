"""A depth map from a photograph, from the command's flags."""

import json

import jax
import numpy as np
import pytest
from absl import app
from absl.testing import flagsaver
from PIL import ExifTags, Image

from experiments.depthlm.ask import Pictures
from launch import depthmap
from tests import command_flags, tiny_checkpoint
from vlm.methods.depthlm import facts
from vlm.methods.depthlm.sample import SampleSettings

pytestmark = pytest.mark.parity


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  pytest.importorskip('torch')
  folder = tiny_checkpoint.write(tmp_path_factory.mktemp('qwen'))
  settings = SampleSettings(focal=70.0, prompt=('how far?', '{d:.2f}'))
  (folder / facts.NAME).write_text(facts.to_json(settings))
  return folder


@pytest.fixture(scope='module', autouse=True)
def defined():
  required = ('image', 'output')
  with command_flags.defined(depthmap.define_flags, required) as patch:
    make = depthmap.mesh_lib.make_mesh
    one = lambda axes: make({}, jax.devices()[:1])
    patch.setattr(depthmap.mesh_lib, 'make_mesh', one)
    yield


def run(**given):
  usual = dict(grid=6, batch_size=8, max_new_tokens=4)
  with flagsaver.flagsaver(**(usual | given)):
    depthmap.main([])


@pytest.fixture
def photo(tmp_path):
  """A photograph that was taken with the camera turned."""
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = 6
  film = {ExifTags.Base.FocalLengthIn35mmFilm: 30}
  exif.get_ifd(ExifTags.IFD.Exif).update(film)
  path = tmp_path / 'photo.jpg'
  tiny_checkpoint.picture(60, 80).save(path, exif=exif)
  return path


@pytest.fixture
def spoken(monkeypatch):
  """What is said in the model's place: 4 m, and once nothing."""
  kept = Pictures.record

  def record(self, question, said, problem, grid):
    words = '' if question.label == 3 else '<answer> 4.00 </answer>'
    return kept(self, question, words, problem, grid)

  monkeypatch.setattr(Pictures, 'record', record)


def test_a_turned_photograph_becomes_a_map(
  folder, photo, spoken, tmp_path, capsys
):
  output = tmp_path / 'out'
  run(model=str(folder), image=str(photo), output=str(output))
  said = ' '.join(capsys.readouterr().out.split())
  assert "EXIF's 30 mm" in said and 'assumed: square pixels and' in said
  assert 'common focal length of 70 pixels' in said
  assert 'without an answer: 1: empty' in said
  distance = np.load(output / 'distance.npy')
  assert distance.shape == (6, 4)  # upright
  assert np.isnan(distance[0, 3]) and np.isnan(distance).sum() == 1
  assert np.nanmin(distance) == np.nanmax(distance) == 4
  assert (np.load(output / 'depth.npy')[~np.isnan(distance)] < 4).all()
  facts = json.loads((output / 'depth.json').read_text())
  fx, fy, cx, cy, width, height = facts['intrinsics']
  assert fx == fy == pytest.approx(30 * 100 / 43.26661531)
  assert (cx, cy, width, height) == (30, 40, 60, 80)
  answers = (output / 'answers.jsonl').read_text().splitlines()
  assert len(answers) == 24
  assert Image.open(output / 'depth_colours.png').width > 800


def test_the_camera_is_stated_or_asked_for(folder, photo, spoken, tmp_path):
  bare = tmp_path / 'bare.png'
  Image.open(photo).save(bare, exif=Image.Exif())
  paths = dict(model=str(folder), image=str(bare), output=str(tmp_path / 'o'))
  with pytest.raises(SystemExit, match='set --fx .pixels. or --fov'):
    run(**paths)
  with pytest.raises(SystemExit, match='give one of them'):
    run(**paths, fx=70.0, fov=60.0)
  with pytest.raises(SystemExit, match='must be positive, got fx -3'):
    run(**paths, fx=-3.0)
  run(**paths, fx=70.0, fy=71.0, cx=39.0, cy=31.0, answers='z')
  said = json.loads((tmp_path / 'o/depth.json').read_text())
  assert said['intrinsics'] == [70, 71, 39, 31, 80, 60]
  assert 'assumed' not in said['focal_length']
  z = np.load(tmp_path / 'o/depth.npy')
  np.testing.assert_allclose(z[np.isfinite(z)], 4, rtol=1e-6)


def test_a_model_that_says_no_metres_is_named(folder, photo, tmp_path):
  with pytest.raises(SystemExit, match='no answer states metres'):
    run(model=str(folder), image=str(photo), output=str(tmp_path / 'o'), grid=2)


def test_wrong_flags_are_named(folder, photo):
  with (
    flagsaver.flagsaver(model='', image=str(photo)),
    pytest.raises(app.UsageError, match='either --model or --config'),
  ):
    depthmap.main([])
  with pytest.raises(SystemExit, match='missing image: .*nowhere.jpg'):
    run(model=str(folder), image='nowhere.jpg', output='unused')
