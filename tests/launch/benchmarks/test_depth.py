"""A whole evaluation on labelled pixels with a tiny checkpoint, from flags."""

import json
import pathlib

import pytest
from absl import app
from absl.testing import flagsaver

from experiments.depthlm.ask import Pictures
from launch.benchmarks import depth
from tests import command_flags, depth_files, tiny_checkpoint
from vlm.methods.depthlm import facts
from vlm.methods.depthlm.sample import SampleSettings

pytestmark = pytest.mark.parity


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A checkpoint that says at which focal length it was trained."""
  pytest.importorskip('torch')
  folder = tiny_checkpoint.write(tmp_path_factory.mktemp('qwen'))
  settings = SampleSettings(focal=60.0, prompt=('how far?', '{d:.2f}'))
  (folder / facts.NAME).write_text(facts.to_json(settings))
  return folder


@pytest.fixture(scope='module', autouse=True)
def defined():
  with command_flags.of_benchmarks():
    yield


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return depth_files.write_bad(tmp_path_factory.mktemp('data'))


def run(folder, output, data, **given):
  usual = dict(batch_size=4, max_new_tokens=4)
  paths = dict(model=str(folder), data=str(data), output=str(output))
  with flagsaver.flagsaver(benchmark='depthlm', **(usual | paths | given)):
    depth.run_from_flags()
  return pathlib.Path(output)


def lines_of(output):
  text = (output / 'predictions.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope='module')
def whole(folder, data, tmp_path_factory):
  return run(folder, tmp_path_factory.mktemp('whole'), data)


def test_every_query_is_asked_and_scored(whole, capsys):
  records = lines_of(whole)
  assert [r['id'] for r in records] == [
    f'rows/{row}/{label}' for row in range(4) for label in (0, 1, 3)
  ]
  # The last picture is damaged; its queries keep their places.
  assert [bool(r['problem']) for r in records] == [False] * 9 + [True] * 3
  assert all(isinstance(r['prediction'], str) for r in records[:9])
  # 96 x 72 pixels are 3 x 3 blocks of 28.
  assert [r['grid'] for r in records] == [[1, 9]] * 9 + [None] * 3
  report = json.loads((whole / 'scores.json').read_text())
  counts = report['scores']['counts']
  assert counts['problems'] == {'corrupt image': 3} and counts['queries'] == 12
  # A random model says nothing that is a distance.
  assert sum(counts['failures'].values()) == 9
  assert report['scores']['all']['delta1'] == 0
  assert set(report['scores']['by_dataset']) == {'hall', 'street'}
  assert report['skipped']['hall'] == {'the arrow does not fit': 3}
  (bad,) = report['bad_rows']
  assert bad['id'] == 'rows/4' and 'bad depth' in bad['problem']
  low, high = report['focal_scale']
  assert low == high == pytest.approx(84 / (96 * 72) ** 0.5)
  assert report['settings']['settings']['focal'] == 60
  depth.show(report)
  said = capsys.readouterr().out
  assert 'not shown: rows/4' in said and 'not asked, hall' in said
  assert 'not shown: rows/3/0: corrupt image' in said


def test_answers_that_state_metres_are_read(
  folder, data, tmp_path, monkeypatch
):
  """What the model would say, put in its mouth: its own label."""
  monkeypatch.setattr(
    Pictures,
    'record',
    lambda self, question, said, problem, grid, record=Pictures.record: record(
      self, question, said and f'{question.depth:.2f}', problem, grid
    ),
  )
  report = json.loads((run(folder, tmp_path, data) / 'scores.json').read_text())
  assert report['scores']['all']['delta1'] == 9 / 12
  assert report['scores']['all']['abs_rel'] < 0.003  # two decimals


def test_a_run_continues_or_refuses(folder, data, whole, tmp_path):
  first = (whole / 'predictions.jsonl').read_text()
  kept = ''.join(first.splitlines(keepends=True)[:6])  # a batch and a half
  (tmp_path / 'predictions.jsonl').write_text(kept)
  (tmp_path / 'settings.json').write_text((whole / 'settings.json').read_text())
  run(folder, tmp_path, data)
  assert (tmp_path / 'predictions.jsonl').read_text() == first
  with pytest.raises(SystemExit, match='parser: .strict. there, .official.'):
    run(folder, tmp_path, data, parser='official')
  with pytest.raises(SystemExit, match='queries:'):
    run(folder, tmp_path, data, protocol='sampled', samples=5)


def test_wrong_flags_are_named(folder, data, tmp_path):
  with pytest.raises(SystemExit, match='trained at 60 pixels'):
    run(folder, tmp_path, data, focal=750.0)
  with pytest.raises(SystemExit, match='nowhere.jsonl does not exist'):
    run(folder, tmp_path, tmp_path / 'nowhere.jsonl')
  with pytest.raises(SystemExit, match='names a file twice'):
    run(folder, tmp_path, f'{data},{data}')
  with pytest.raises(app.UsageError, match='--split is for video'):
    run(folder, tmp_path, data, split='test')
  with pytest.raises(app.UsageError, match='protocol=5k is of retrieval'):
    run(folder, tmp_path, data, protocol='5k')
