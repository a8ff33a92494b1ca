"""The miniature of Q-Insight: a chain of two arms, its tables and sentences."""

import numpy as np
import pytest
from etils import epath

from experiments.miniature import Arm, Outcome
from experiments.rali import measure, miniature, q_insight
from launch import arms as launch_arms
from launch import reproduce
from launch import train as training
from vlm.train.checkpoint import Checkpoints

METHOD = 'GRPO, think, score + degradation'


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
    Arm(METHOD, 0, _config('score_degradation'), miniature.BASE),
    Arm(miniature.BASE, 0, _config('base')),
  ]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(miniature, 'arms', lambda seeds, thorough: chain)
    summary = reproduce.run_system('rali', 1, False, root, workers=1)
    patch.setattr(training, 'run', None)
    again = reproduce.run_system('rali', 1, False, root, workers=1)
  assert [t.rows for t in summary.tables] == [t.rows for t in again.tables]
  return summary, chain


@pytest.mark.slow
def test_an_arm_starts_from_the_last_parameters_of_another(made):
  _, (method, base) = made
  assert method.config.init_from == base.config.workdir
  kept = Checkpoints(epath.Path(base.config.workdir) / 'checkpoints')
  assert kept.latest() == 8
  kept.close()


@pytest.mark.slow
def test_tables_and_sentences(made):
  summary, _ = made
  titles = [table.title for table in summary.tables]
  assert titles[:2] == ['greedy answers', 'mean of drawn answers']
  for table in summary.tables[:2]:
    assert [row[0] for row in table.rows] == [
      METHOD,
      miniature.BASE,
      'latent quality (bound)',
    ]
    assert float(table.rows[-1][2]) > 0.8
  (photographs,) = (t for t in summary.tables if 'real' in t.title)
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
  sentence, *others = summary.findings
  assert 'one seed decides nothing' in sentence and 'against "base"' in sentence
  for arm in (METHOD, miniature.BASE):
    told = f'"{arm}", rated from its reasoning without the image'
    assert sum(other.startswith(told) for other in others) == 1
  (removal,) = (t for t in summary.tables if 'without the image' in t.title)
  assert [row[0] for row in removal.rows] == [METHOD, miniature.BASE]
  (halves,) = (t for t in summary.tables if t.title.startswith('tower and'))
  assert [row[1] for row in halves.rows] == [
    'tower of the start', 'decoder of the start', 'its own',
  ]  # fmt: skip
  captions = [picture.caption for picture in summary.pictures]
  assert captions[0].startswith('Mean reward') and len(captions) == 3


def test_an_arm_without_its_start_is_an_error():
  alone = [
    Arm('x', 1, _config('score'), 'base'),
    Arm('base', 0, _config('base')),
  ]
  with pytest.raises(ValueError, match="'x', seed 1, starts from 'base'"):
    launch_arms.stages(alone, epath.Path('/nowhere'))


def test_every_arm_of_the_miniature_has_its_start():
  for seeds in (1, 3):
    made = miniature.arms(seeds, False)
    first, second = launch_arms.stages(made, epath.Path('/nowhere'))
    bases = {miniature.BASE, miniature.SILENT, miniature.BLIND}
    assert {arm.name for arm in first} == bases
    assert len(first) == 3 * seeds and len(first + second) == len(made)
    for arm in second:
      rewarded = arm.config.objective == 'grpo'
      assert rewarded == arm.name.startswith(('GRPO', 'VisualQuality'))
      silent = arm.start == miniature.SILENT
      assert arm.config.iqa.think == (not silent)
      blind = arm.start == miniature.BLIND
      assert arm.config.iqa.bottleneck == blind
  names = {name for pair in miniature.CLAIMS for name in pair}
  assert names <= set(miniature.NAMES)


def _outcome(name, seed, srcc, other):
  scores = lambda value: {
    'scores': {'srcc': [value, 0, 1], 'plcc': [value, 0, 1]}
  }
  sets = {'A': scores(srcc), 'B': scores(other), 'C': scores(np.nan)}
  return Outcome(Arm(name, seed, None), sets, [], 1.0)


def test_differences_are_paired_by_seed_and_may_say_no():
  first, second = miniature.CLAIMS[0]
  runs = [_outcome(first, s, 0.8, 0.6 + 0.1 * s) for s in range(3)]
  runs += [_outcome(second, s, 0.9, 0.5) for s in range(3)]
  (said,) = miniature.findings(runs)
  # The undefined set counts nothing, for both.
  assert '+0.100 SRCC out of domain (+0.050 to +0.150 over 3 seeds)' in said
  assert '-0.100 in domain: replicated with every seed' in said
  assert miniature.verdict([0.1, -0.1]).startswith('did not replicate: seeds')
  assert 'other way round' in miniature.verdict([-0.1, -0.2])


def test_crops_are_the_same_at_every_level():
  image = np.arange(60 * 50 * 3).reshape(60, 50, 3)
  first, second = measure.crops_of(image, 4), measure.crops_of(image + 1, 4)
  assert all(crop.shape == (32, 32, 3) for crop in first)
  for one, other in zip(first, second):
    np.testing.assert_array_equal(one + 1, other)
