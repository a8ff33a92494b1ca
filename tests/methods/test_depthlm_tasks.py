"""Six tasks, two parsers, rewards, posed pairs, what a checkpoint remembers."""

import json

import numpy as np
import pytest

from vlm.methods.depthlm import facts, pairs, parser, rewards, sample, tasks
from vlm.methods.depthlm.text import PromptFormat
from vlm.metrics import depth

A, B = [3.0, 0.0, 4.0], [3.0, 12.0, 4.0]


class TestQuantities:
  def test_by_hand(self):
    points = np.array([A, B])
    assert tasks.quantity('distance', points) == 5.0
    assert tasks.quantity('axis', points) == 4.0
    assert tasks.quantity('speed', points, 4.0) == 1.25
    assert tasks.quantity('time', points, 0.5) == 10.0
    assert tasks.quantity('two_point', points) == 12.0
    assert tasks.quantity('pose', points) == 12.0

  def test_the_figures_examples(self):
    # 7.23 / 4.0 = 1.81 m/s and 48.28 / 6.0 = 8.05 s.
    far = lambda d: np.array([[0.0, 0.0, d]])
    assert f'{tasks.quantity("speed", far(7.23), 4.0):.2f}' == '1.81'
    assert f'{tasks.quantity("time", far(48.28), 6.0):.2f}' == '8.05'

  @pytest.mark.parametrize('style', sorted(tasks.STYLES))
  @pytest.mark.parametrize('task', sorted(set(tasks.TASKS) - {'distance'}))
  def test_answers_are_read_back(self, style, task):
    wording = tasks.STYLES[style][task]
    reply = wording.reply(7.234, value=1.8085, given=4.0)
    places = 2 if style == 'full' else 1
    assert parser.parse(reply) == round(1.8085, places)
    assert wording.ask(1, 2, 3.0, 4, 5, given=4.0, x2=6, y2=7)
    if style == 'full' and task in ('speed', 'time'):
      assert '7.23 / 4.0 = 1.81' in reply


K = [50.0, 50.0, 32.0, 20.0, 64, 40]


def _row(**changes):
  # Pixels on the axes through the centre: rays are easy.
  return {
    'image': np.full((40, 64, 3), 100, np.uint8),
    'intrinsics': [50.0, 50.0, 32.5, 20.5, 64, 40],
    'pixel_coords': [[32, 20], [52, 20], [12, 20], [1, 1]],
    'depth': [4.0, 5.0, 5.0, 3.0],
    'depth_kind': 'z',
  } | changes


class TestQueries:
  settings = sample.SampleSettings(focal=50.0)

  def test_each_task_states_its_truth(self):
    ray = np.sqrt(1 + 0.4**2)
    of = lambda k, task: sample.make_query(_row(), k, self.settings, task, 1)
    query = of(1, 'distance')
    assert query['value'] == query['depth'] == pytest.approx(5 * ray)
    assert of(1, 'axis')['value'] == query['z'] == 5.0
    speed, time = of(1, 'speed'), of(1, 'time')
    given = speed['replay']['given']
    assert speed['value'] == pytest.approx(5 * ray / given)
    assert f'{given:.1f} seconds' in speed['question']
    given = time['replay']['given']
    assert time['value'] == pytest.approx(5 * ray / given)
    assert f'{given:.1f} metres per second' in time['question']

  def test_two_points_and_two_arrows(self):
    seen = set()
    for seed in range(20):
      query = sample.make_query(_row(), 1, self.settings, 'two_point', seed)
      first, second = query['replay']['labels']
      # (2, 0, 5) from (0, 0, 4) or from (-2, 0, 5).
      want = {0: np.sqrt(5), 2: 4.0}[second]
      assert first == 1 and query['value'] == pytest.approx(want)
      red = (query['image'] == (255, 0, 0)).all(-1)
      assert red.sum() == 18
      seen.add(second)
    assert seen == {0, 2}
    again = sample.make_query(_row(), 1, self.settings, 'two_point', 3)
    once = sample.make_query(_row(), 1, self.settings, 'two_point', 3)
    assert again['replay'] == once['replay']

  def test_too_close_points_cannot_be_asked(self):
    near = sample.SampleSettings(focal=50.0, separation=6.0)
    assert sample.make_query(_row(), 1, near, 'two_point') is None
    settings = sample.SampleSettings(
      focal=50.0, separation=6.0, tasks=(('two_point', 1),)
    )
    rng = np.random.default_rng(0)
    assert sample.make_sample(_row(), rng, settings) is None

  def test_pose_shows_two_pictures_without_arrows(self):
    moved = np.eye(4)
    moved[:3, 3] = (0.3, 0.0, 0.4)
    pair = {
      'views': (
        _row(world_from_camera=np.eye(4)),
        _row(world_from_camera=moved),
      )
    }
    (found,) = sample.enumerate_queries([pair], self.settings)
    _, _, query = found
    assert query['value'] == pytest.approx(0.5) and len(query['images']) == 2
    assert all((image == 100).all() for image in query['images'])
    assert '<answer> 0.50 </answer>' in query['answer']

  def test_a_persons_own_wording(self):
    own = sample.SampleSettings(
      focal=50.0,
      prompt=('d at {x},{y}?', '{d:.2f} along {rx:+.2f}{ry:+.2f}'),
      wordings=(('axis', 'z?', '{value:.1f} m'),),
    )
    query = sample.make_query(_row(), 1, own)
    assert query['question'] == 'd at 52,20?'
    assert query['answer'] == '5.39 along +0.40+0.00'
    query = sample.make_query(_row(), 1, own, 'axis')
    assert (query['question'], query['answer']) == ('z?', '5.0 m')


class TestParser:
  @pytest.mark.parametrize(
    'output, official, strict',
    [
      ('first 2, then 7', 7.0, 7.0),
      ('unclosed <answer> 4.00', 4.0, 4.0),
      ('<answer> 4.00 </answer>', 4.0, 4.0),
      ('1,234.5', 1234.5, 1234.5),
      ('1/2', 0.5, None),
      ('\\frac{3}{4}', 0.75, 4.0),
      ('$4.2$', 4.2, 4.2),
      ('\\boxed{4.2}', 4.2, 4.2),
      ('1e1', 1.0, 10.0),
      ('d = 4.2', None, 4.2),
      ('50%', None, None),
      ('50\\%', None, 50.0),
      ('>4.00<', None, 4.0),
      ('<answer>4.00</answer>', None, 4.0),
      ('~4.00', None, 4.0),
      ('+4', None, 4.0),
      ('-3.0', -3.0, None),
      ('1/0', None, None),
      ('', None, None),
      ('far away', None, None),
    ],
  )
  def test_modes(self, output, official, strict):
    assert parser.parse(output, 'official') == official
    assert parser.parse(output) == strict

  def test_an_unknown_mode_is_an_error(self):
    with pytest.raises(ValueError, match='parser must be one of'):
      parser.parse('1', 'kind')

  def test_negative_answers_are_wrong_under_both_parsers(self):
    for mode in parser.PARSERS:
      answer = parser.parse('-3.0', mode)
      assert not depth.within(depth.as_array([answer]), [3.0])[0]
      assert parser.failure('-3.0', mode) == 'not positive'

  def test_failures_are_counted_by_kind(self):
    outputs = ['', ' \n', 'far', '-1', '0.0', '<answer>50%</answer>', '3.0']
    assert parser.count_failures(outputs) == {
      'empty': 2,
      'no number': 2,
      'not positive': 2,
    }
    assert parser.count_failures([]) == {
      'empty': 0,
      'no number': 0,
      'not positive': 0,
    }


class TestRewards:
  @pytest.mark.parametrize(
    'output, l1, rel, delta1',
    [
      ('4.0', 0.0, 0.0, 1.0),
      ('<answer> 3.00 </answer>', -1.0, -0.25, 0.0),
      ('4.99', -0.99, -0.2475, 1.0),
      ('5.0', -1.0, -0.25, 0.0),
      ('400', -10.0, -10.0, 0.0),
      ('-4.0', -10.0, -10.0, 0.0),
      ('', -10.0, -10.0, 0.0),
      ('near', -10.0, -10.0, 0.0),
    ],
  )
  def test_by_hand(self, output, l1, rel, delta1):
    record = {'value': 4.0}
    found = [reward(output, record) for reward in rewards.REWARDS.values()]
    np.testing.assert_allclose(found, [l1, rel, delta1], atol=1e-12)


def _frame(x, yaw=0.0, time=0.0, scene='a'):
  pose = np.eye(4)
  pose[:3, :3] = [
    [np.cos(yaw), 0, np.sin(yaw)],
    [0, 1, 0],
    [-np.sin(yaw), 0, np.cos(yaw)],
  ]
  pose[0, 3] = x
  pixels = np.stack(np.meshgrid(range(0, 64, 4), range(0, 40, 4)), -1)
  return {
    'intrinsics': K,
    'pixel_coords': pixels.reshape(-1, 2),
    'depth': np.full(160, 5.0),
    'depth_kind': 'z',
    'world_from_camera': pose,
    'timestamp': time,
    'scene': scene,
  }


class TestPairs:
  def test_overlap_by_hand(self):
    # A wall at 5 m, 6.4 m wide in view: moved by 1.6 m a quarter is lost.
    assert pairs.seen_by(_frame(0), _frame(1.6)) == 0.75
    assert pairs.baseline(_frame(0), _frame(1.6)) == pytest.approx(1.6)
    assert pairs.seen_by(_frame(0), _frame(0, np.pi)) == 0.0

  def test_only_good_pairs_of_one_scene_in_order_of_time(self):
    rows = [
      _frame(0.0, time=3.0),
      _frame(0.1, time=2.0),  # 0.1 m from the first
      _frame(1.0, time=1.0),
      _frame(6.0, time=4.0),  # sees nothing of the others
      _frame(1.0, time=2.0, scene='b'),
      {k: v for k, v in _frame(1.0).items() if k != 'world_from_camera'},
    ]
    assert set(pairs.find_pairs(rows)) == {(2, 1), (2, 0)}
    narrow = pairs.PairSettings(window=1)
    assert set(pairs.find_pairs(rows, narrow)) == {(2, 1)}

  def test_wrong_laws_say_so(self):
    with pytest.raises(ValueError, match='baseline'):
      pairs.PairSettings(baseline=(2.0, 1.0))
    with pytest.raises(ValueError, match='overlap'):
      pairs.PairSettings(overlap=1.5)


class TestFacts:
  def test_inference_reads_back_what_training_wrote(self, tmp_path):
    trained = sample.SampleSettings(
      focal=750.0,
      focal_mode='iso',
      multiple=16,
      crop_height=(700, 1200),
      crop_width=(1000, 1400),
      prompt=PromptFormat('how far?', '{d:.2f}'),
      marker_shape='cross',
      mirror=True,
      tasks=(('distance', 2), ('axis', 1)),
      wordings=(('axis', 'z?', '{value:.2f}'),),
    )
    (tmp_path / facts.NAME).write_text(facts.to_json(trained))
    stored = facts.read(tmp_path)
    assert (stored.focal, stored.focal_mode, stored.multiple) == (
      750,
      'iso',
      16,
    )
    assert stored.wording == trained.wording and stored.marker == trained.marker
    assert stored.tasks == trained.tasks
    assert stored.crop_height is None and not stored.mirror
    asked = sample.SampleSettings(focal=1000.0, crop_place='random')
    merged = facts.at_inference(asked, stored)
    assert merged.focal == 750.0 and merged.crop_place == 'random'

  def test_absent_and_broken_files(self, tmp_path):
    assert facts.read(tmp_path) is None
    (tmp_path / facts.NAME).write_text(json.dumps({'focal': 0.0}))
    with pytest.raises(ValueError, match=r'depthlm.json: focal must be'):
      facts.read(tmp_path)
    (tmp_path / facts.NAME).write_text(json.dumps({'fokal': 1.0}))
    with pytest.raises(ValueError, match='fokal'):
      facts.read(tmp_path)
