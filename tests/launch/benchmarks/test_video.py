"""Whole runs of benchmarks with a tiny checkpoint, from the command's flags."""

import json
import pathlib

import jax
import pytest
from absl import app
from absl.testing import flagsaver

from data.assistant import Assistant
from experiments.asking.clock import Clock
from experiments.asking.predictions import Predictions
from experiments.video_qa import ask as asking
from experiments.video_qa import benchmarks, prompts
from launch import evaluate
from launch.benchmarks import summary, video
from tests import benchmark_files, command_flags, tiny_checkpoint
from vlm.methods.flashvid import FlashVID
from vlm.sharding.mesh import make_mesh

pytestmark = pytest.mark.parity


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  pytest.importorskip('torch')
  return tiny_checkpoint.write(tmp_path_factory.mktemp('qwen'))


@pytest.fixture(scope='module', autouse=True)
def defined():
  with command_flags.of_benchmarks():
    yield


def run(folder, output, data, name='videomme', **given):
  usual = dict(
    batch_size=2, frames=4, max_new_tokens=3, prompt=str(data / 'prompt.json')
  )
  (data / 'prompt.json').write_text('{"after": "Say:"}')
  paths = dict(model=str(folder), data=str(data), output=str(output))
  with flagsaver.flagsaver(benchmark=name, **(usual | paths | given)):
    video.run_from_flags()
  return pathlib.Path(output)


@pytest.fixture(scope='module')
def videomme(tmp_path_factory):
  return benchmark_files.videomme(tmp_path_factory.mktemp('videomme'))


@pytest.fixture(scope='module')
def whole(folder, videomme, tmp_path_factory):
  return run(folder, tmp_path_factory.mktemp('whole'), videomme)


def test_a_benchmark_is_asked_and_scored(whole, capsys):
  records = [
    json.loads(line)
    for line in (whole / 'predictions.jsonl').read_text().splitlines()
  ]
  assert [r['id'] for r in records] == [
    f'00{video}-{question}' for video in (1, 2, 3) for question in (1, 2)
  ]
  assert all(isinstance(r['prediction'], str) for r in records[:4])
  # Four frames are two pairs, of 2 x 3 visual tokens each.
  assert [r['grid'] for r in records] == [[2, 6]] * 4 + [None] * 2
  assert [bool(r['problem']) for r in records] == [False] * 4 + [True] * 2
  assert all(r['choice'] is None for r in records[4:])
  report = json.loads((whole / 'scores.json').read_text())
  scores = report['scores']
  assert scores['counts']['problems'] == {'missing image': 2}
  assert scores['by']['duration']['long'] == {'accuracy': 0, 'questions': 2}
  right = sum(r['choice'] == r['answer'] for r in records)
  assert scores['accuracy'][0] == pytest.approx(right / 6)
  assert [p['id'] for p in report['problems']] == ['003-1', '003-2']
  assert 'id2' in report['problems'][0]['problem']
  settings = report['settings']
  assert settings['frames'] == 4 and settings['prompt']['after'] == 'Say:'
  assert settings['visual_transform'] is None
  measured = report['measured']
  assert measured['warm_batches'] == 1 and measured['shapes_compiled'] == 1
  parts = measured['vision_seconds'] + measured['prefill_seconds']
  assert measured['first_token_seconds'] == pytest.approx(parts)
  assert measured['vision_seconds'] > 0 and measured['decode_seconds'] > 0
  assert measured['peak_memory']['bytes'] > 1e6
  assert report['efficiency']['compression'] == 1
  assert report['efficiency']['tokens_per_layer'] == [12, 12]
  summary.show('videomme', report)
  assert 'not shown: 003-1' in capsys.readouterr().out


def test_a_killed_run_continues_to_the_same_file(
  folder, videomme, whole, tmp_path, monkeypatch
):
  class Killed(Exception):
    pass

  append, count = Predictions.append, 0

  def killed(self, records):
    nonlocal count
    append(self, records)
    count += 1
    if count == 2:
      raise Killed

  with monkeypatch.context() as patch:
    patch.setattr(Predictions, 'append', killed)
    with pytest.raises(Killed):
      run(folder, tmp_path, videomme)
  left = (tmp_path / 'predictions.jsonl').read_text()
  assert left.count('\n') == 4
  # The fourth line is torn: its batch is asked again.
  (tmp_path / 'predictions.jsonl').write_text(left[:-30])
  asked, open_excerpt = [], asking.open_excerpt

  def opened(path, *args, **kwargs):
    asked.append(path.name)
    return open_excerpt(path, *args, **kwargs)

  monkeypatch.setattr(asking, 'open_excerpt', opened)
  run(folder, tmp_path, videomme)
  # Each video once for its two questions, and none of the batch that was there.
  assert sorted(asked) == ['id1.MP4', 'id2']
  for name in ('predictions.jsonl', 'settings.json'):
    assert (tmp_path / name).read_text() == (whole / name).read_text()
  with pytest.raises(SystemExit, match='frames: 4 there, 2 now'):
    run(folder, tmp_path, videomme, frames=2)
  # All is there: nothing is asked, the scores are written again.
  asked.clear()
  run(folder, tmp_path, videomme)
  assert not asked
  both = [
    json.loads((p / 'scores.json').read_text()) for p in (tmp_path, whole)
  ]
  assert both[0]['scores'] == both[1]['scores']
  assert both[0]['efficiency'] == both[1]['efficiency']


def test_parts_of_videos_and_a_submission(folder, tmp_path):
  """EgoSchema's export, with a damaged clip in a batch that is filled up."""
  data = benchmark_files.egoschema(tmp_path / 'data')
  output = run(folder, tmp_path / 'out', data, 'egoschema', split='total')
  answers = json.loads((output / 'submission.json').read_text())
  assert set(answers) == {'uid-0', 'uid-1', 'uid-2'} and answers['uid-2'] == -1
  assert all(type(n) is int and -1 <= n < 5 for n in answers.values())
  report = json.loads((output / 'scores.json').read_text())
  assert 'accuracy' not in report['scores']
  assert report['scores']['counts']['problems'] == {'corrupt image': 1}


def test_a_reduction_is_passed_on(folder, videomme):
  """Fewer tokens, also where the batch holds a row without its video."""
  transform = FlashVID(retention=0.4)
  mesh = make_mesh({}, jax.devices()[:1])
  assistant = Assistant.load(folder, mesh=mesh, visual_transform=transform)
  questions = benchmarks.questions('videomme', videomme)[3:5]
  clock = Clock()
  how = asking.Asking(prompts.Prompt(), 4, 2, batch_size=2)
  (records,) = asking.ask(assistant, questions, how, mesh, clock)
  assert [r['grid'] for r in records] == [[2, 6], None]
  assert isinstance(records[0]['prediction'], str)
  report = summary.report_of('videomme', records, assistant, clock, transform)
  # ceil(6 x 0.4 x 1.25) = 4 in doubles, of two units; then 3 / 5 of 8 tokens.
  assert report['efficiency']['tokens_per_layer'] == [8, 5]
  described = video.described(transform)
  assert described['name'] == 'FlashVID' and described['retention'] == 0.4
  json.dumps(described)


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    (dict(), 'either --config or --benchmark'),
    (dict(benchmark='mlvu', checkpoint='x'), '--checkpoint goes with --config'),
    (dict(benchmark='mlvu', model='x', output='x'), 'needs --data'),
  ],
)
def test_flags_that_do_not_go_together_are_named(given, message):
  with (
    flagsaver.flagsaver(**given),
    pytest.raises(app.UsageError, match=message),
  ):
    evaluate._check_flags()
    video.run_from_flags()


def test_a_folder_that_is_no_benchmark_is_named(folder, tmp_path):
  with pytest.raises(SystemExit, match=f'--data={tmp_path} holds none of'):
    run(folder, tmp_path / 'out', tmp_path, 'longvideobench')
