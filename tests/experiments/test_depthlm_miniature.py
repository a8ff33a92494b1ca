"""The thorough miniature of DepthLM: its arms, tables, pictures, sentences."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.depthlm import comparisons, depthlm, miniature, scan
from experiments.depthlm.task import Task
from experiments.miniature import Arm, Outcome
from launch import job
from vlm.methods.depthlm import text

EVERY = comparisons.options(True)


def config_of(options, folder):
  config = depthlm.get_config(f'smoke,{options}')
  config.rooms.cache = str(folder / 'rooms')
  config.rooms.train_images = 8
  config.rooms.eval_images = 6
  return config


def asked(config):
  """{set: records} of a task, without answers."""
  task = Task(config)
  return {
    name: [query['record'] for query in task.queries(rows)]
    for name, rows in task.eval_sets().items()
  }


def outcome_of(name, config, seed, records, spread):
  """Answers near the truth, without a model."""
  rng = np.random.default_rng(seed)
  sets = {
    key: {
      'records': [
        record | {'prediction': f'{record["value"] * np.exp(e):04.1f}'}
        for record, e in zip(rows, spread * rng.normal(size=len(rows)))
      ]
    }
    for key, rows in records.items()
  }
  history = [{'step': 10, 'loss': 1.0}, {'step': 20, 'loss': 0.5}]
  return Outcome(Arm(name, seed, config), sets, history, 1.0)


@pytest.fixture(scope='module')
def summary(tmp_path_factory):
  folder = tmp_path_factory.mktemp('thorough')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('VLM_DEBIAN', str(folder))  # no sets of the machine's own
    configs = {
      name: config_of(options, folder) for name, options in EVERY.items()
    }
    first = configs[comparisons.LONGER]
    first.rooms.scanned = 2
    scanned, six, alone = map(
      asked, (first, *(configs[name] for name in comparisons.WALKED))
    )
    rooms = {k: v for k, v in scanned.items() if k != scan.SCANNED}
    records = {comparisons.SIX: six, comparisons.ALONE: alone}
    outcomes = [
      outcome_of(
        name,
        config,
        seed,
        scanned
        if (name, seed) == (comparisons.LONGER, 0)
        else records.get(name, rooms),
        0.02 if name == comparisons.METHOD else 0.4,
      )
      for seed in range(2)
      for name, config in configs.items()
    ]
    made = miniature.summarise(outcomes)
  plt.close('all')
  return made


def test_tables_have_every_arm_and_difference(summary):
  tables = {table.title: table for table in summary.tables}
  compared = [name for name in EVERY if name not in comparisons.WALKED]
  rooms = tables['unseen rooms, 2 seeds']
  assert [row[0] for row in rooms.rows][: len(compared)] == compared
  (differences,) = (t for t in summary.tables if 'differences' in t.title)
  pairs = sum(len(rivals) for *_, rivals in comparisons.DIFFERENCES)
  assert len(differences.rows) == pairs
  low = float(differences.rows[0][2].split('[')[1].split(',')[0])
  assert low > 0  # a method of little noise against one of much
  (tasks,) = (t for t in summary.tables if t.title.startswith('Six tasks'))
  assert {row[0] for row in tasks.rows} >= {'distance', 'speed', 'pose'}
  assert not any(scan.SCANNED in title for title in tables)


def test_sentences_say_what_was_reached(summary):
  text_ = ' '.join(summary.findings)
  assert 'the goal of 0.85 was' in text_ and 'Unseen lenses cost it' in text_
  assert 'the model of six tasks' in text_
  assert len(summary.pictures) == 12


@pytest.mark.parametrize('options', EVERY.values(), ids=EVERY)
def test_a_batch_of_every_arm_fits_its_rows(options, tmp_path):
  config = config_of(options, tmp_path)
  made = job.prepare(config)
  batches = job.training_batches(made)
  batch = next(batches)
  batches.close()
  assert batch['tokens'].shape == (config.batch_size, config.data.seq_len)
  assert (batch['loss_mask'].sum(1) >= 4).all()  # every row has its answer
  answer = made.task.settings.wording.reply(7.25, rx=-0.5, ry=0.25)
  assert text.parse_metres(answer) == pytest.approx(7.25, abs=0.06)
  assert len(answer) < config.eval.max_new_tokens


def test_options_of_the_config_count(tmp_path):
  config = depthlm.get_config('tiny,arm=marker,images=80,labels=100,steps=9')
  assert config.rooms.train_images == 80 and config.rooms.labels == 100
  assert config.steps == 9
  longer = depthlm.get_config('tiny,arm=marker,long=1')
  usual = depthlm.get_config('tiny')
  assert longer.steps > usual.steps
  assert longer.rooms.train_images > usual.rooms.train_images
  again = depthlm.get_config('tiny,arm=marker,long=2')
  assert again.optimizer.lr < longer.optimizer.lr
  assert again.rooms.train_images > longer.rooms.train_images


def test_the_longer_method_goes_on_where_its_first_cycle_ended():
  arms = {(arm.name, arm.seed): arm for arm in miniature.arms(2, thorough=True)}
  for (name, seed), arm in arms.items():
    goes_on = name == comparisons.LONGER
    assert arm.start == (comparisons.FIRST if goes_on else '')
    assert not arm.start or (arm.start, seed) in arms
