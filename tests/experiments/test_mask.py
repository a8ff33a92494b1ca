"""MASK's trainer and miniature: from scenes to a report, stopped, continued."""

import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from data import records
from data.sources import stamps
from data.worlds import nouns
from experiments.mask import (
  mask,
  measure,
  miniature,
  tables,
  task,
  world,
)
from experiments.mask import stamps as mask_stamps
from experiments.miniature import Arm, Outcome
from launch import evaluate, report, reproduce, train
from launch.objectives import prototypes
from vlm.sharding.batch import to_global
from vlm.sharding.mesh import make_mesh
from vlm.train.checkpoint import Checkpoints

LAST = 8


def config_of(root, arm='mask', **changes):
  config = mask.get_config(f'smoke,arm={arm}')
  config.workdir = str(root / 'run')
  config.scenes.cache = str(root / 'worlds')
  config.model.encoder.depth = 1
  config.steps, config.log_every, config.mask.refresh = LAST, 4, 3
  config.checkpoint.every, config.checkpoint.keep_last = 4, 2
  config.measure.pictures = 1
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """(summary, config) of an arm through the main job."""
  root = tmp_path_factory.mktemp('mask')
  arms = [Arm(miniature.FULL, 0, config_of(root))]
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('VLM_DEBIAN', str(root))  # no stamps of the machine's own
    patch.setattr(miniature, 'arms', lambda seeds, thorough: arms)
    run = lambda: reproduce.run_system(
      'mask', 1, False, epath.Path(root), workers=1
    )
    summary = run()
    patch.setattr(train, 'run', None)  # again: everything is read back
    again = run()
  assert [t.rows for t in summary.tables] == [t.rows for t in again.tables]
  return summary, arms[0].config


@pytest.fixture(scope='module')
def trained(made):
  """The first arm's job, parameters and mesh, from its checkpoint."""
  config = made[1]
  job, mesh = prototypes.prepare(config), make_mesh(config.mesh)
  params, _ = evaluate.load_checkpoint(job, config.workdir, mesh)
  return job, params, mesh


def test_the_report_has_every_control(made, tmp_path):
  summary, _ = made
  variants, arms = summary.tables[:2]
  names = [row[0] for row in variants.rows]
  for name in (
    tables.DROP,
    tables.CONSTANT,
    tables.SHUFFLED,
    tables.RECOMMENDED,
    tables.NEAREST,
    tables.BEST,
    tables.PAPER,
    tables.ALL,
    tables.PROCRUSTES,
    tables.ORACLE,
    f'{miniature.RAW}: {tables.DROP}',
  ):
    assert name in names
  assert [row[1] for row in arms.rows] == [
    name for name in names if name in measure.SHORT
  ]
  for row in variants.rows:
    ood = [float(cell) for cell in row[1:4]]
    assert ood == sorted(ood) and 0 <= float(row[4]) <= 600
  assert all('one seed decides nothing' in s for s in summary.findings[:5])
  assert 'tuxpaint-stamps-default is not installed' in summary.findings[-1]
  path = epath.Path(tmp_path) / 'report.html'
  report.write(path, [summary], 'smoke')
  assert path.read_text().count('base64') == len(summary.pictures) == 5


@pytest.mark.slow
def test_the_supervised_bound_is_trained_and_measured(tmp_path):
  config = config_of(tmp_path, 'supervised')
  config.steps = 40
  rows = []
  job, state = train.run(config, report_row=rows.append)
  assert rows[-1]['t2i_accuracy'] > rows[0]['t2i_accuracy']
  found = job.task.measure(job, state['params'])
  (ranks,) = found['ranks'].values()
  count = len(found['owners'])
  assert len(ranks['images']) == count == 5 * len(ranks['texts'])
  assert measure.recalls(ranks)['t2i_r10'] > 2 * 100 * 10 / 60
  words = json.loads((tmp_path / 'run' / 'words.json').read_text())
  assert len(words) == len(state['params']['table'])


def test_a_run_learns_and_leaves_its_words_beside_the_checkpoint(made):
  folder = epath.Path(made[1].workdir)
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  first, *_, last = map(json.loads, lines)
  assert last['loss'] < first['loss'] and 'bank' not in first
  words = json.loads((folder / 'words.json').read_text())
  assert tuple(words) == nouns.KNOWLEDGE
  assert not (folder / 'tokenizer.json').exists()


def test_the_bank_is_exact_when_renewed_and_follows_in_between(trained):
  job, params, mesh = trained
  moments = prototypes.BankRefresh(job, mesh).moments(params)
  part = job.task.world['knowledge']
  codes = measure.Codes(job.model, params)(part.features)
  want = measure.prototypes_of(codes, part, nouns.KNOWLEDGE)
  np.testing.assert_allclose(moments.prototypes(), want, atol=1e-5)
  counts = [np.sum(part.words() == word) for word in nouns.KNOWLEDGE]
  np.testing.assert_array_equal(moments.counts, counts)
  bank = params['bank']
  assert np.asarray(bank['seen']).all()
  # Two steps after it was renewed it is near the means, and not at them.
  gap = np.abs(np.asarray(bank['vectors']) - want).max()
  assert 1e-4 < gap < 0.5 * np.abs(want).max()


def test_evaluation_finds_what_the_report_says(trained):
  job, params, mesh = trained
  found = evaluate.evaluate_job(job, params, mesh)['scenes']
  kept = epath.Path(job.config.workdir) / 'outcome.json'
  ranks = json.loads(kept.read_text())['measured']['ranks']
  want = measure.recalls(ranks[tables.RECOMMENDED])
  assert found['scores'] == pytest.approx(want)
  assert len(found['records']) == 5 * job.config.scenes.test


def test_stopped_and_continued_is_bit_for_bit_the_same(made, tmp_path):
  """From step 4, whose bank has followed a step since it was renewed."""
  config = made[1].copy_and_resolve_references()
  kept = epath.Path(config.workdir) / 'checkpoints'
  config.workdir = str(tmp_path / 'run')
  shutil.copytree(kept / f'{4:08d}', tmp_path / f'run/checkpoints/{4:08d}')
  job, state = train.run(config)
  checkpoints = Checkpoints(kept)
  want, _ = checkpoints.restore(
    jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      state,
    ),
    step=LAST,
  )
  checkpoints.close()
  for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(want)):
    assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def test_eight_devices_see_the_same_loss_and_bank_as_one(trained, devices):
  job, params, _ = trained
  batches = prototypes.training_batches(job, None)
  batch = next(batches)
  batches.close()
  objective = prototypes.objective(job.config, job.model)
  found = []
  for mesh in (
    make_mesh({'data': 1, 'fsdp': 1}, devices[:1]),
    make_mesh({'data': 4, 'fsdp': 2}, devices),
  ):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      run = jax.jit(lambda params, batch: objective(params, batch, KEY)[1])
      host = jax.tree.map(np.asarray, params)
      found.append(jax.device_get(run(host, to_global(batch, mesh))))
  one, eight = found
  assert one['bank'][1].sum() == 32 * 8
  for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(eight)):
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-3)


KEY = jax.random.key(3)


def test_a_row_of_too_many_regions_or_words_is_bad():
  features = np.ones((3, 4), np.float32)
  row = prototypes.padded(features, [[1], [], [2, 0]], 5, 2)
  np.testing.assert_array_equal(row['words'][:, 0], [1, -1, 2, -1, -1])
  assert row['valid'].sum() == 3 and not row['regions'][3:].any()
  for regions, most in ((2, 2), (5, 1)):
    with pytest.raises(records.BadRecord, match='--config.data.regions'):
      prototypes.padded(features, [[1], [], [2, 0]], regions, most)


def test_frequent_words_are_seen_as_their_root(tmp_path):
  config = config_of(tmp_path)
  config.data.regions, config.data.subsample = 2, 0.04

  class Counted:
    counts = staticmethod(lambda: [1, 15, 84])
    regions = staticmethod(lambda row: (np.ones((2, 3)), [[1], [0, 2]]))

  pairs = prototypes._Pairs(Counted, config.data)
  rng = np.random.default_rng(0)
  words = np.array([pairs.random_map(0, rng)['words'] for _ in range(4000)])
  seen = [np.mean(words == word) * 2 for word in range(3)]
  # A word of fewer than 4 % of the pairs is always kept.
  want = [0.5, np.sqrt(0.04 / 0.15), 0.5 * np.sqrt(0.04 / 0.84)]
  np.testing.assert_allclose(seen, want, atol=0.03)


def test_words_of_the_world_are_counted(tmp_path):
  made = task.Task(config_of(tmp_path))
  ((scenes,), _) = made.train_rows()
  words = [
    word for row in scenes for one in made.regions(row)[1] for word in one
  ]
  counts = np.bincount(words, minlength=len(nouns.KNOWLEDGE))
  np.testing.assert_array_equal(made.counts(), counts)


def test_parts_of_the_world_are_apart_and_kept(tmp_path):
  config = config_of(tmp_path)
  first = world.load(config.scenes)
  again = world.load(config.scenes)
  held = set(nouns.HELD_OUT)
  numbers = [{s.number for s in part.scenes} for part in first.values()]
  assert not numbers[0] & numbers[1] and not numbers[1] & numbers[2]
  assert not held & set(first['knowledge'].words().ravel())
  assert held <= set(first['paired'].words().ravel())
  for name in world.PARTS:
    np.testing.assert_array_equal(first[name].features, again[name].features)
  config.scenes.appearance = 'photographs'
  with pytest.raises(ValueError, match='--config.scenes.appearance'):
    world.load(config.scenes)


def test_pixels_become_features_without_labels(tmp_path):
  config = config_of(tmp_path)
  config.scenes.update(
    appearance='pixels', features=12, filters=4, knowledge=4, paired=2, test=2
  )
  made = world.load(config.scenes)
  assert made['test'].features.shape == (2, 8, 12)
  assert np.isfinite(made['knowledge'].features).all()


def test_every_word_of_the_world_has_a_bundled_vector():
  vectors = task.Task(mask.get_config('smoke')).vectors
  assert set(task.VOCABULARY) == set(vectors.words) and vectors.size == 50
  unit = lambda word: (
    vectors.rows([word])[0] / np.linalg.norm(vectors.rows([word]))
  )
  assert unit('puppy') @ unit('dog') > 0.6 > unit('puppy') @ unit('church')


def test_the_overlap_of_a_scene_with_its_own_captions_is_whole(tmp_path):
  part = world.load(config_of(tmp_path).scenes)['test']
  found = measure.overlap(part)
  own = found[part.owners, np.arange(len(part.owners))]
  np.testing.assert_array_equal(own, 1.0)
  assert 0 < found.mean() < 0.3


def _outcome(name, seed, hits, others, total):
  """A run whose recommended variant finds `hits` of four, drop `others`."""
  ranks = lambda found: {
    'images': [0 if i < found else 50 for i in range(4)],
    'texts': [total] * 2,
  }
  made = {
    variant: ranks(hits if 'real' in variant else others)
    for variant in {*measure.SHORT, *sum(miniature.COMPARED, ())}
  }  # fmt: skip
  alpha = {'alpha': [0.0, 0.1, 1.0], 'MASK': [300.0, 310.0, 200.0]}
  measured = {
    'owners': [0, 0, 1, 1],
    'held_out': [0, 1, 2, 3],
    'ranks': made,
    'rerank': alpha | {'shuffled': [300.0] * 3, 'constant': [300.0] * 3},
  }
  return Outcome(Arm(name, seed, None), {}, [], 1.0, measured)


def test_findings_say_what_did_not_replicate():
  runs = [_outcome(miniature.FULL, seed, 3, 1, 0) for seed in range(3)]
  runs += [_outcome('without L_cl', seed, 0, 0, 50) for seed in range(3)]
  runs += [_outcome('without L_cm', seed, 2 + seed, 1, 0) for seed in range(3)]
  said = miniature.findings(runs)
  assert '+50.0' in said[0] and tables.DROP in said[0]
  (filler,) = [s for s in said if 'constant prototype for all' in s]
  assert 'Rsum gains +150.0' in filler
  (cl,) = [s for s in said if 'without L_cl' in s]
  assert '+75.0' in cl and '+525.0 of Rsum' in cl
  (cm,) = [s for s in said if 'without L_cm' in s]
  assert 'did not replicate' in cm
  assert 'best at alpha 0.1 (an optimum inside)' in said[-1]
  assert 'Rsum +10.0, against +0.0' in said[-1]


def test_every_claim_is_of_an_arm_that_is_trained():
  arms = miniature.arms(3, False)
  assert len(arms) == 3 * len(miniature.NAMES) == 18
  configs = {arm.name: arm.config for arm in arms if arm.seed == 0}
  assert configs['without L_cl'].mask.consistency == 0
  assert configs['without L_cm'].mask.cross_modal == 0
  assert configs['without L_ir'].mask.retention == 0
  assert configs[miniature.SUPERVISED].objective == 'region_text'
  assert [a.name for a in arms if a.config.measure.whole] == 3 * ['MASK']


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('mask.refresh', 0, '--config.mask.refresh=0'),
    ('mask.bank', 'memory', '--config.mask.bank'),
    ('mask.decay', 1.0, '--config.mask.decay'),
    ('model.encoder.words', 300, '--config.model.encoder'),
    ('model.encoder.heads', 5, 'encoder.heads=5'),
  ],
)
def test_a_wrong_field_is_named_by_its_flag(tmp_path, field, value, message):
  with pytest.raises(ValueError, match=message):
    config = config_of(tmp_path, **{field: value})
    made = prototypes.prepare(config)
    prototypes.objective(config, made.model)


def test_stamps_are_read_where_they_are(tmp_path, monkeypatch):
  monkeypatch.setenv('VLM_DEBIAN', str(tmp_path))
  assert stamps.installed() == []
  assert 'not installed' in mask_stamps.run()
  folder = tmp_path / stamps.FOLDER
  words = ('dog', 'cat', 'car', 'bus', 'cup', 'jar', 'puppy', 'pony', 'boy')
  for number, word in enumerate(words):
    place = folder / ('animals' if number < 8 else 'cartoon') / f'{word}.png'
    place.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((30, 20, 4), np.uint8)
    pixels[5:25, 5:15] = (25 * number, 200 - 20 * number, 90, 255)
    Image.fromarray(pixels).save(place)
    text = f'A {word}.\nde.utf8=Etwas.\n'
    place.with_suffix('.txt').write_text(text)
  found = stamps.installed()
  assert [one.caption for one in found] == sorted(
    f'A {word}.' for word in words[:8]
  )
  shown = stamps.picture(found[0], 64)
  assert shown.shape == (64, 64, 3) and shown[0, 0, 0] == stamps.GROUND
  said = [[one.caption[2:-1]] for one in found]
  vectors = task.Task(mask.get_config('smoke')).vectors
  made = mask_stamps.retrieval_of(found, said, vectors, 0)
  assert tuple(made['recalls']) == mask_stamps.VARIANTS
  assert made['captions'] > 0
  # A word that is dropped finds nothing; there is no other in its caption.
  assert made['recalls']['drop'] == [0, 0, 0]
  assert made['recalls']['real vectors'][2] == 100
