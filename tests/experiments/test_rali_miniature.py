"""The miniature of Q-Insight: a chain of two arms, its tables and sentences."""

import dataclasses

import numpy as np
import pytest
from etils import epath

from experiments.miniature import Arm, Outcome
from experiments.rali import q_insight
from experiments.rali.miniature import chains, measure, parts, readings, summary
from launch import arms as launch_arms
from launch import reproduce
from launch import train as training
from vlm.train.checkpoint import Checkpoints

METHOD = chains.TEACHER


def _config(arm):
  config = q_insight.get_config(f'smoke,arm={arm}')
  config.steps = 8 if arm == 'base' else 2
  config.photos.train = config.photos.generic = 32
  config.photos.test = 8
  config.eval.batch_size = 16
  config.optimizer.warmup = 0
  config.log_every = 1
  return config


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Base and method through launch.reproduce, then read back."""
  root = epath.Path(tmp_path_factory.mktemp('reproduce'))
  # The method stands first: what it starts from has to go before it.
  chain = [
    Arm(METHOD, 0, _config('score_degradation'), chains.BASE),
    Arm(chains.BASE, 0, _config('base')),
  ]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(summary, 'arms', lambda seeds, thorough: chain)
    first = reproduce.run_system('rali', 1, False, root, workers=1)
    patch.setattr(training, 'run', None)
    again = reproduce.run_system('rali', 1, False, root, workers=1)
  assert [t.rows for t in first.tables] == [t.rows for t in again.tables]
  return first, chain


@pytest.mark.slow
def test_an_arm_starts_from_the_last_parameters_of_another(made):
  _, (method, base) = made
  assert method.config.init_from == base.config.workdir
  kept = Checkpoints(epath.Path(base.config.workdir) / 'checkpoints')
  assert kept.latest() == 8
  kept.close()


@pytest.mark.slow
def test_tables_and_sentences(made):
  found, _ = made
  titles = [table.title for table in found.tables]
  assert titles[:2] == ['greedy answers', 'mean of drawn answers']
  for table in found.tables[:2]:
    assert [row[0] for row in table.rows] == [
      METHOD,
      chains.BASE,
      'latent quality (bound)',
    ]
    assert float(table.rows[-1][2]) > 0.8
  (photographs,) = (t for t in found.tables if 'real' in t.title)
  assert photographs.header == [
    'arm',
    'blur',
    'noise',
    'jpeg',
    'contrast',
    'all',
  ]
  for row in photographs.rows:
    assert all(0 <= float(cell) <= 1 for cell in row[1:])
  sentence, learnt, *others = found.findings
  assert 'one seed decides nothing' in sentence and 'against "base"' in sentence
  assert 'reward of the answer from' in learnt
  for arm in (METHOD, chains.BASE):
    told = f'"{arm}", rated from its reasoning without the image'
    assert sum(other.startswith(told) for other in others) == 1
  (removal,) = (t for t in found.tables if 'without the image' in t.title)
  assert [row[0] for row in removal.rows] == [METHOD, chains.BASE]
  (halves,) = (t for t in found.tables if t.title.startswith('tower and'))
  assert [row[1] for row in halves.rows] == [
    'tower of the start', 'decoder of the start', 'its own',
  ]  # fmt: skip
  captions = [picture.caption for picture in found.pictures]
  assert captions[0].startswith('Mean reward') and len(captions) == 3


def test_an_arm_without_what_it_needs_is_an_error():
  alone = [
    Arm('x', 1, _config('score'), 'base'),
    Arm('base', 0, _config('base')),
  ]
  with pytest.raises(ValueError, match=r"'x', seed 1, needs \['base'\]"):
    launch_arms.stages(alone, epath.Path('/nowhere'))
  circle = [
    Arm('x', 0, _config('score'), 'y'),
    Arm('y', 0, _config('score'), needs={'described.A': 'x'}),
  ]
  with pytest.raises(ValueError, match='or waiting itself'):
    launch_arms.stages(circle, epath.Path('/nowhere'))


@pytest.mark.parametrize('thorough', [False, True])
def test_every_arm_of_the_miniature_has_what_it_needs(thorough):
  made = summary.arms(2, thorough)
  names = {arm.name for arm in made}
  assert names == {
    n for n, link in chains.LINKS.items() if thorough or not link.thorough
  }
  root = epath.Path('/nowhere')
  order = launch_arms.stages(made, root)
  assert sum(map(len, order)) == len(made) == 2 * len(names)
  first = {chains.BASE, chains.CLIP}
  first |= {chains.SILENT, chains.BLIND} if thorough else set()
  assert {arm.name for arm in order[0]} == first
  folders = {launch_arms._folder(arm, root): arm for arm in made}
  assert len(folders) == len(made)
  for arm in made:
    config = arm.config
    rewarded = config.objective == 'grpo'
    assert rewarded == arm.name.startswith(('GRPO', 'VisualQuality'))
    # Where a field says it comes from is where its own seed's arm is kept.
    for field, name in arm.reads.items():
      section, _, key = field.rpartition('.')
      held = config[section][key] if section else config[key]
      other = folders[epath.Path(held)]
      assert (other.name, other.seed) == (name, arm.seed)
      if section == 'described':
        assert key in other.config.measure.describe
        assert other.config.iqa.think
    if arm.start == chains.SILENT:
      assert not config.iqa.think
    if config.objective in ('sft', 'grpo'):
      blind = arm.name in (chains.BLIND, chains.BLIND_TEACHER)
      assert config.iqa.bottleneck == blind


def test_what_claims_compare_exists():
  compared = {name for pair in summary.CLAIMS for name in pair}
  compared |= {name for pair in parts.POOLED_CLAIMS for name in pair}
  compared |= {name for name, _ in parts.CASES.values()}
  compared |= {*chains.POOLED, *chains.NUMBERS}
  compared |= {name for pair in chains.BOTTLENECKS for name in pair}
  assert compared <= set(chains.LINKS)


def _outcome(name, seed, srcc, other, measured=None):
  scores = lambda value: {
    'scores': {'srcc': [value, 0, 1], 'plcc': [value, 0, 1]}
  }
  sets = {'A': scores(srcc), 'B': scores(other), 'C': scores(np.nan)}
  return Outcome(Arm(name, seed, None), sets, [], 1.0, measured or {})


def test_differences_are_paired_by_seed_and_may_say_no():
  first, second = summary.CLAIMS[0]
  runs = [_outcome(first, s, 0.8, 0.6 + 0.1 * s) for s in range(3)]
  runs += [_outcome(second, s, 0.9, 0.5) for s in range(3)]
  (said,) = summary.findings(runs)
  # The undefined set counts nothing, for both.
  assert '+0.100 SRCC out of domain (+0.050 to +0.150 over 3 seeds)' in said
  assert '-0.100 in domain: replicated with every seed' in said
  assert readings.verdict([0.1, -0.1]).startswith('did not replicate: seeds')
  assert 'other way round' in readings.verdict([-0.1, -0.2])


def test_crops_are_the_same_at_every_level():
  image = np.arange(60 * 50 * 3).reshape(60, 50, 3)
  first, second = measure.crops_of(image, 4), measure.crops_of(image + 1, 4)
  assert all(crop.shape == (32, 32, 3) for crop in first)
  for one, other in zip(first, second):
    np.testing.assert_array_equal(one + 1, other)


def _tower(name, seed, full, cases):
  scores = lambda a, b: {
    'A': {'srcc': a, 'plcc': a},
    'B': {'srcc': b, 'plcc': b},
    'C': {'srcc': None, 'plcc': None},
  }
  measured = {
    'rali': {'cases': {case: scores(*two) for case, two in cases.items()}},
    'cost': {'parameters': 40, 'seconds': 0.003, 'features': 0.001},
  }
  return _outcome(name, seed, *full, measured)


def test_the_ablation_and_the_cost_of_rali():
  cases = {'full': (0.9, 0.6), 'no PCA': (0.8, 0.2), 'no bins': (0.9, 0.7)}
  cases['no fit'] = (0.7, 0.6)
  runs = [_tower(chains.RALI, 0, (0.9, 0.6), cases)]
  runs += [_tower(chains.CLIP, 0, (0.8, 0.4), cases | {'full': (0.8, 0.4)})]
  drawn = {n: {'srcc': 0.8, 'plcc': 0.8} for n in 'ABC'}
  said = {
    'drawn': drawn,
    'cost': {'parameters': 400, 'seconds': 0.021, 'features': 0.001},
  }
  runs += [_outcome(chains.TEACHER, 0, 0.8, 0.5, said)]
  table = parts.ablation(runs)
  cells = {row[0]: row[1:] for row in table.rows}
  # The undefined set counts 0; the run without descriptions is not there.
  assert cells['6 full'] == ['0.900', '0.900', '0.300', '0.300']
  assert cells['1 no alignment'][-1] == '0.200'
  assert cells['no alignment, no score fit'][1] == '0.700'
  assert cells['its teacher, mean of draws'][-1] == '0.800'
  assert not any('seed augmentation' in name for name in cells)
  ratio = parts.costs(runs).rows[-1]
  assert ratio[1:] == ['0.100', '0.143', 'without: 0.100']
  near, far, *by_part = parts.sentences(runs)
  assert '+0.050 SRCC out of domain' in near and ': within 0.03' in near
  assert '-0.500 SRCC out of domain' in far and 'not within 0.03' in far
  assert [line.split('"')[1] for line in by_part] == [
    '1 no alignment',
    '2 no PCA',
    '3 no bins',
    '5 no score fit',
  ]
  assert '+0.200 SRCC out of domain' in by_part[1]
  assert parts.ablation(runs[2:]) is None and parts.costs(runs[:1]) is None


def test_pooled_families_are_compared_on_the_family_of_none():
  measured = {'photographs': {'all': {'pairs': 0.6}}}

  def outcome(name, inside, outside):
    run = _outcome(name, 0, inside, inside, measured)
    scores = lambda value: {'scores': {'srcc': value}}
    sets = {n: scores(inside) for n in 'ABCD'} | {'E': scores(outside)}
    return dataclasses.replace(run, sets=sets)

  runs = [outcome(chains.RACT, 0.5, 0.7), outcome(chains.MIXED, 0.9, 0.4)]
  assert parts.pooled(runs[1:]) is None
  table = parts.pooled(runs)
  assert table.header == ['arm', *'ABCDE', 'mean A-D', 'photographs']
  rows = {row[0]: row[1:] for row in table.rows}
  assert rows[chains.RACT] == [*['0.500'] * 4, '0.700', '0.500', '0.600']
  (said,) = parts.sentences(runs)
  assert (
    '+0.300 SRCC on the family of none (one seed), -0.400 on A to D' in said
  )


def test_rewards_that_rose_are_told_from_those_that_did_not():
  def run(name, ends):
    log = [
      {'rollout/reward/answer': answer, 'rollout/reward/format': 0.9}
      for answer in ends
    ]
    return dataclasses.replace(_outcome(name, 0, 0.5, 0.5), history=log)

  rose = run(chains.TEACHER, [0.2, 0.1, 0.5])
  kept = run(chains.PLAIN_TEACHER, [0.3, 0.9, 0.4])
  first, second = parts.sentences([rose, kept])
  assert chains.PLAIN_TEACHER in first and '0.30 to 0.40' in first
  assert 'did not double; of the format 0.90' in first
  assert 'from 0.20 to 0.50' in second and ': doubled;' in second
