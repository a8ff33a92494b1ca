"""DepthLM as an experiment: six tasks as one model, mixtures, full configs."""

import dataclasses
import json

import numpy as np
import pytest
from etils import epath

from data.processors import limits
from data.processors.qwen_vl import Budget
from data.processors.registry import processor_of
from data.sources import depth, posed_pairs, room_rows
from data.worlds import rooms
from experiments.depthlm import depthlm, full, grpo, rows, score
from experiments.depthlm.task import Task
from launch import evaluate, job, train
from launch.pods import topologies
from vlm.convert import folder as folders
from vlm.methods.depthlm import facts, sample, tasks
from vlm.models import registry
from vlm.sharding.mesh import make_mesh


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """The smoke config of the six tasks: trained, evaluated."""
  folder = tmp_path_factory.mktemp('six')
  config = depthlm.get_config('smoke,arm=multitask')
  config.rooms.cache = str(folder / 'rooms')
  config.rooms.train_images = 32
  config.rooms.eval_images = 8
  config.workdir = str(folder / 'run')
  config.steps = 30
  config.log_every = 10
  config.data.log_draws = True
  history = []
  made, state = train.run(config, report_row=history.append)
  mesh = make_mesh(config.mesh)
  sets = made.task.eval_sets()
  made.task.eval_sets = lambda: {
    name: sets[name] for name in ('unseen rooms', 'unseen walks')
  }
  return config, made, history, evaluate.evaluate(made, state['params'], mesh)


class TestSixTasks:
  def test_one_model_learns_and_answers_all(self, trained):
    config, made, history, results = trained
    losses = [row['loss'] for row in history if row.get('loss') is not None]
    assert losses[-1] < 0.8 * losses[0]
    single = results['unseen rooms']['scores']
    for task in tasks.SINGLE_IMAGE:
      assert single[f'{task}/count'] > 20
      mean, low, high = single[f'{task}/delta1']
      assert 0 <= low <= mean <= high <= 1
    assert 0 <= single['mean_delta1'] <= 1 and 'distance/z_rmse' in single
    walks = results['unseen walks']
    assert {r['task'] for r in walks['records']} == {'pose'}
    for record in walks['records']:
      assert 0.3 <= record['value'] <= 3.0

  def test_every_task_was_drawn_and_logged_and_can_be_replayed(self, trained):
    config, made, _, _ = trained
    text = (epath.Path(config.workdir) / 'draws-0.jsonl').read_text()
    logged = [json.loads(line) for line in text.splitlines()]
    assert [line['batch'] for line in logged[:30]] == list(range(30))
    replays = [r for line in logged for r in line['replay']]
    shares = {
      task: sum(r['task'] == task for r in replays) / len(replays)
      for task in tasks.TASKS
    }
    assert all(0.08 < share < 0.27 for share in shares.values()), shares
    # The first batch once more, from the rows and the log alone.
    batches = job.training_batches(made)
    batch = next(batches)
    batches.close()
    (single, pairs), _ = made.task.train_rows()
    for place, where in enumerate(logged[0]['where']):
      source = pairs if 'PosedPairs' in where else single
      row = source[int(where.split('[')[1][:-1])]
      again = sample.replay(row, logged[0]['replay'][place], made.task.settings)
      tiles = batch['pixels'][place]
      for shown, picture in zip(tiles, again['images'], strict=False):
        np.testing.assert_array_equal(shown, picture)

  def test_the_focal_length_lies_beside_the_checkpoint(self, trained):
    config, made, _, _ = trained
    stored = facts.read(config.workdir)
    assert stored.focal == 48.0 and stored.tasks == made.task.settings.tasks
    other = config.copy_and_resolve_references()
    other.unlock()
    other.depth.focal = 96.0
    task = Task(other)
    assert task.settings.focal == 96.0
    task.adopt(config.workdir)
    assert task.settings.focal == 48.0 and task.settings.mirror


def test_an_export_keeps_the_focal_length(tmp_path):
  run, export = epath.Path(tmp_path / 'run'), epath.Path(tmp_path / 'export')
  run.mkdir()
  export.mkdir()
  settings = sample.SampleSettings(focal=750.0)
  (run / facts.NAME).write_text(facts.to_json(settings))
  (run / 'tokenizer.json').write_text('{}')
  folders.copy_companions(run, export, folders.METHOD_FILES)
  assert facts.read(export).focal == 750.0
  assert [path.name for path in export.iterdir()] == [facts.NAME]


class TestUnshrinking:
  def test_a_training_crop_keeps_its_size(self):
    picture = np.zeros((1204, 1400, 3), np.uint8)
    stock = processor_of(registry.preset('pixtral-12b'))
    qwen = processor_of(registry.preset('qwen2.5-vl-3b'))
    facts = dataclasses.replace(qwen.facts, pixels=Budget(56**2, 1280 * 28**2))
    narrow = dataclasses.replace(qwen, facts=facts)
    for processor, tokens in ((stock, 88 * 76), (narrow, 50 * 43)):
      wide = limits.unshrinking(processor, 4096)
      few, all_of_it = (
        sum(p.prepare([picture]).expansions[0].counts)
        for p in (processor, wide)
      )
      assert few < 0.7 * tokens and all_of_it == tokens
    tiles = processor_of(registry.preset('llava-onevision-7b'))
    assert limits.unshrinking(tiles, 4096) is tiles

  def test_a_more_generous_checkpoint_stays_as_it_is(self):
    processor = processor_of(registry.preset('pixtral-12b'))
    wide = limits.unshrinking(processor, 4096)
    assert limits.unshrinking(wide, 2048) == wide


def _records(outputs, task='distance'):
  return [
    {
      'prediction': output,
      'task': task,
      'value': 4.0,
      'depth': 4.0,
      'z': 3.0,
      'image': number % 3,
    }
    for number, output in enumerate(outputs)
  ]


class TestScore:
  def test_failures_by_kind_and_both_depths(self):
    got = score.score(_records(['4.0', '-4.0', '', 'far', '5.0', '4.8']))
    assert got['delta1'][0] == pytest.approx(2 / 6)
    assert got['parse_failures'] == 3
    assert (got['empty'], got['no_number'], got['not_positive']) == (1, 1, 1)
    errors = np.array([0.0, 1.0, 0.8])
    assert got['rmse'] == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert got['z_rmse'] == pytest.approx(0.75 * got['rmse'])

  def test_a_negative_answer_is_wrong_under_the_official_parser_too(self):
    for mode in ('strict', 'official'):
      got = score.score(_records(['-4.0', '-4.0']), mode)
      assert got['delta1'][0] == 0.0 and got['not_positive'] == 2

  def test_several_tasks_have_a_mean(self):
    got = score.score(_records(['4.0'] * 3) + _records(['9'] * 6, 'axis'))
    assert got['distance/delta1'][0] == 1 and got['axis/delta1'][0] == 0
    assert got['mean_delta1'] == 0.5 and 'axis/z_rmse' not in got


LOOK = rooms.RoomSettings(width=48, height=40, focals=(40.0, 60.0), views=3)


@pytest.fixture(scope='module')
def posed(tmp_path_factory):
  """Rooms with three views each, as files."""
  folder = tmp_path_factory.mktemp('posed')
  world = room_rows.RoomRows(0, 9, LOOK, labels=30)
  return world, depth.write_rows(folder, (world[i] for i in range(9)))


class TestPosedPairs:
  def test_files_and_rooms_give_the_same_pairs(self, posed, tmp_path):
    world, path = posed
    files = depth.DepthRows(path)
    found = posed_pairs.find(files)
    assert found == posed_pairs.find(world)
    assert all(a // 3 == b // 3 and a < b for a, b in found)
    posed_pairs.write(found, tmp_path / 'pairs.json')
    assert posed_pairs.read(tmp_path / 'pairs.json') == found
    source = posed_pairs.PosedPairs(files, found)
    query = sample.make_query(source[0], 0, sample.SampleSettings(focal=50.0))
    first, second = (world[k]['world_from_camera'][:3, 3] for k in found[0])
    assert query['value'] == pytest.approx(np.linalg.norm(first - second))

  def test_pairs_of_other_rows_are_refused(self, posed, tmp_path):
    with pytest.raises(ValueError, match='row 9 of 9'):
      posed_pairs.PosedPairs(posed[0], [(0, 9)])
    (tmp_path / 'pairs.json').write_text('[[1, 2, 3]]')
    with pytest.raises(ValueError, match='pairs of row numbers'):
      posed_pairs.read(tmp_path / 'pairs.json')
    alone = room_rows.RoomRows(0, 2, rooms.RoomSettings(48, 40), labels=5)
    with pytest.raises(ValueError, match='no two of 2 rows make a pair'):
      posed_pairs.find(alone)


class TestMixture:
  def test_sets_come_by_weight_and_say_who_they_are(self, posed, caplog):
    config = depthlm.get_config('full,model=qwen2.5-vl-3b')
    path = str(posed[1])
    keep = {'argoverse2': 3, 'nuscenes': 1}
    for name, entry in config.sets.items():
      entry.path, entry.images = path, ''
      entry.weight = keep.get(name, 0)
    caplog.set_level('INFO')
    sources, weights = rows.training_rows(config, ())
    assert weights == [3.0, 1.0]
    assert [s[0]['dataset'] for s in sources] == ['argoverse2', 'nuscenes']
    assert rows.nominal_epoch(sources) == 1800
    assert 'argoverse2 9 images x 75.0%' in caplog.text

  def test_no_weight_and_one_file(self, posed):
    config = depthlm.get_config('full')
    for entry in config.sets.values():
      entry.weight = 0
    with pytest.raises(ValueError, match='config.sets.NAME.weight'):
      rows.training_rows(config, ())
    config.data.path, config.data.images = str(posed[1]), ''
    (source,), weights = rows.training_rows(config, ())
    assert len(source) == 9 and weights is None


class TestFull:
  @pytest.mark.parametrize('model', sorted(full.BACKBONES))
  def test_the_largest_training_picture_fills_the_row(self, model):
    config = depthlm.get_config(f'full,model={model}')
    task = Task(config)
    processor = task.processor(processor_of(registry.preset(model)))
    height, width = config.depth.size or (1200, 1400)
    side = task.settings.multiple
    picture = np.zeros((height + -height % side, width + -width % side, 3))
    shown = processor.prepare([picture.astype(np.uint8)])
    assert len(shown.pixels) == config.data.units
    assert sum(shown.expansions[0].counts) == config.data.visual_tokens
    backbone = full.BACKBONES[model]
    room = config.data.seq_len - config.data.visual_tokens - backbone.ends
    assert full.TEXT <= room < full.TEXT + 128

  @pytest.mark.parametrize('model', sorted(full.BACKBONES))
  @pytest.mark.parametrize('asked', ['distance', 'all'])
  def test_every_slice_divides_the_batch(self, model, asked):
    config = depthlm.get_config(f'full,model={model},tasks={asked}')
    chips = {'v5e:16x16': 256, 'v6e:16x16': 256, 'v5p:4x4x8': 128}
    found = dict(config.slices)
    assert set(chips) <= set(found)
    for name, count in chips.items():
      assert config.batch_size % (count * found[name]['accumulate']) == 0
    assert config.optimizer.lr == 1e-5 and config.optimizer.clip == 0.1
    settings = rows.settings_of(config)
    assert len(settings.tasks) == (1 if asked == 'distance' else 5)
    assert ('pose' in config.sets) == (asked == 'all')

  def test_the_stretched_set_is_named_in_the_mixture(self):
    config = depthlm.get_config('full')
    assert set(config.depth.stretched) <= set(config.sets)

  @pytest.mark.parametrize('arg', ['full,model=gpt', 'full,tasks=some'])
  def test_unknown_choices_are_errors(self, arg):
    with pytest.raises(ValueError, match='expected'):
      depthlm.get_config(arg)


class TestGRPO:
  def test_the_config_stands(self):
    config = grpo.get_config('smoke,reward=delta1')
    assert config.reward == 'delta1'
    with pytest.raises(ValueError, match='reward='):
      grpo.get_config('full,reward=l2')
    whole = grpo.get_config('full')
    sft = depthlm.get_config('full,model=qwen2.5-vl-3b')
    assert whole.batch_size * whole.rl.group == sft.batch_size
    for name, changes in whole.slices:
      ways = topologies.parse(name).chips // whole.mesh.tensor
      assert whole.batch_size % (ways * changes['accumulate']) == 0

  def test_it_goes_on_from_a_short_sft(self, tmp_path):
    sft = depthlm.get_config('smoke')
    sft.rooms.cache = str(tmp_path / 'rooms')
    sft.rooms.train_images = 16
    sft.workdir, sft.steps = str(tmp_path / 'sft'), 30
    train.run(sft)
    config = grpo.get_config('smoke')
    config.rooms = sft.rooms
    config.batch_size = 8  # of eight devices
    config.workdir, config.init_from = str(tmp_path / 'rl'), sft.workdir
    rows = []
    train.run(config, report_row=rows.append)
    assert [row['step'] for row in rows] == [2, 4]
    for row in rows:
      assert row['rollout/reward/format'] > 0.9  # so it did start from the SFT
      assert -10 <= row['rollout/reward'] < 0
      assert row['drift/max'] < 1e-3 and row['rollout/identical'] < 0.5
      assert row['rollout/failed/negative_l1'] == 0
    table = tmp_path / 'rl' / 'samples' / '00000002.jsonl'
    samples = [json.loads(line) for line in table.read_text().splitlines()]
    assert len(samples) == 8
    for sample_ in samples:
      assert len(sample_['completions']) == 8
      assert sample_['record']['value'] > 0
