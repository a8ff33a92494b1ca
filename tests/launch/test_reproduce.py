"""The main job on the smoke config: train, evaluate, report, continue."""

import json

import pytest
from etils import epath

from experiments.depthlm import comparisons, depthlm, miniature
from experiments.miniature import Arm
from launch import console, evaluate, job, report, reproduce
from launch import train as training
from launch.arms import run_arms
from vlm.sharding.mesh import make_mesh


@pytest.fixture(scope='module')
def summary(tmp_path_factory):
  """All arms of the smoke config through `launch.reproduce`."""
  root = epath.Path(tmp_path_factory.mktemp('reproduce'))
  (root / 'debian').mkdir()
  arms = []
  for name, options in comparisons.QUICK.items():
    config = depthlm.get_config(f'smoke,{options}')
    config.rooms.cache = str(root / 'rooms')
    arms.append(Arm(name, 0, config))
  arms[0].config.rooms.scanned = 1
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('VLM_DEBIAN', str(root / 'debian'))  # no sets of the machine's
    patch.setattr(miniature, 'arms', lambda seeds, thorough: arms)
    # Two arms here, the last in a process of its own.
    run_arms(arms[:2], root / 'depthlm', workers=1)
    made = reproduce.run_system('depthlm', 1, False, root, workers=2)
    # Again: everything is read back, nothing is trained.
    patch.setattr(training, 'run', None)
    again = reproduce.run_system('depthlm', 1, False, root, workers=1)
  assert [t.rows for t in made.tables] == [t.rows for t in again.tables]
  return made, arms[0].config, root


def test_every_set_and_arm_is_in_the_tables(summary):
  tables = summary[0].tables
  assert [t.title for t in tables] == [
    'unseen rooms',
    'wider lenses',
    'longer lenses',
    'motorcycle (real)',
  ]
  for table in tables:
    arms = [row[0] for row in table.rows]
    assert arms == [
      *comparisons.QUICK,
      'constant (median)',
      'location only',
    ]
    for row in table.rows:
      mean = float(row[1].split()[0])
      low, high = (float(v) for v in row[1].split('[')[1][:-1].split(','))
      assert 0 <= low <= mean <= high <= 1


def test_the_loss_falls(summary):
  _, config, root = summary
  folder = epath.Path(config.workdir)
  rows = (folder / 'metrics.jsonl').read_text().splitlines()
  losses = [json.loads(row)['loss'] for row in rows]
  assert losses[-1] < 0.8 * losses[0]


def test_the_report_is_one_self_contained_file(summary, tmp_path):
  path = epath.Path(tmp_path) / 'report.html'
  report.write(path, [summary[0]], 'smoke')
  page = path.read_text()
  assert page.count('data:image/png;base64,') == len(summary[0].pictures) == 10
  assert 'src="http' not in page and 'motorcycle' in page


def test_a_checkpoint_scores_the_same_from_disk(summary):
  _, config, root = summary
  mesh = make_mesh(config.mesh)
  made = job.prepare(config)
  params, source = evaluate.load_checkpoint(made, config.workdir, mesh)
  assert source.endswith(f'{config.steps:08d}')
  results = evaluate.evaluate(made, params, mesh)
  kept = json.loads((epath.Path(config.workdir) / 'outcome.json').read_text())
  for name, result in results.items():
    assert result['records'] == kept['sets'][name]['records']
  evaluate.write(root / 'scores', results, config, source)
  scores = json.loads((root / 'scores' / 'scores.json').read_text())
  assert scores['config']['depth']['focal'] == 48.0
  lines = (root / 'scores' / 'unseen rooms.jsonl').read_text().splitlines()
  assert len(lines) == config.rooms.eval_images


def test_a_wrong_checkpoint_is_named(summary, tmp_path):
  _, config, _ = summary
  made = job.prepare(config)
  with pytest.raises(ValueError, match='neither a workdir'):
    evaluate.load_checkpoint(made, str(tmp_path), make_mesh(config.mesh))


def test_numbers_for_people():
  assert console.number([0.5, 0.25, 0.75]) == '0.500 [0.250, 0.750]'
  assert console.number(0.12345) == '0.123'
  assert console.number(7) == '7'
