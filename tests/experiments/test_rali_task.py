"""Q-Insight as a task: what is asked, rewarded, taught and scored."""

import json

import numpy as np
import pytest

from data.records import BadRecord
from experiments import task as tasks
from experiments.rali import answers, q_insight, score, sets
from launch import evaluate, job, train
from tests import iqa_files, tiny_checkpoint
from vlm.sharding.mesh import make_mesh

RNG = np.random.default_rng(0)


def _earned(task, text, record):
  return {r.name: r.score(text, record) for r in task.rewards()}


@pytest.mark.parametrize('arm', [*q_insight.REWARDED, *q_insight.SUPERVISED])
@pytest.mark.parametrize('size', ['full', 'tiny', 'smoke'])
def test_every_config_is_made(arm, size):
  if size == 'full' and arm in (*q_insight.BASES, 'bottleneck'):
    with pytest.raises(ValueError, match='are the base'):
      q_insight.get_config(f'{size},arm={arm}')
    return
  config = q_insight.get_config(f'{size},arm={arm}')
  supervised = arm in q_insight.SUPERVISED
  objective = 'sft' if supervised else 'grpo'
  objective = {'sft_regression': 'regression', 'deqa': 'levels'}.get(
    arm, objective
  )
  assert config.objective == objective
  single = supervised or arm in ('score', 'rank', 'no_think_score')
  if arm not in q_insight.BASES:
    assert bool(config.sets.degradations) == (not single)


def test_the_published_settings():
  config = q_insight.get_config('full')
  assert (config.batch_size, config.rl.group) == (16, 8)
  assert (config.rl.beta, config.rl.new_tokens) == (0.001, 256)
  assert config.iqa.threshold == 0.35 and config.iqa.format == 'strict'
  assert (config.optimizer.lr, config.optimizer.schedule) == (1e-6, 'linear')
  assert config.optimizer.warmup == 0 == config.optimizer.weight_decay
  rank = q_insight.get_config('full,arm=rank,model=qwen2.5-vl-3b')
  assert (rank.batch_size, rank.rl.group, rank.rl.beta) == (64, 6, 0.04)
  assert rank.sets.train == ('kadid',) and rank.iqa.format == 'lenient'


def test_unknown_choices_are_errors():
  with pytest.raises(ValueError, match="arm='dpo'"):
    q_insight.get_config('smoke,arm=dpo')
  config = q_insight.get_config('smoke')
  config.iqa.reward = 'mse'
  with pytest.raises(ValueError, match=r'--config.iqa.reward=.mse'):
    tasks.load(config)
  config = q_insight.get_config('smoke')
  config.sets.train = ('F',)
  with pytest.raises(ValueError, match="'F', expected one of"):
    tasks.load(config).train_rows()
  config.sets.train = config.sets.degradations = ()
  with pytest.raises(ValueError, match='are empty'):
    tasks.load(config).train_rows()
  config = q_insight.get_config('full')
  config.data.path = ''
  with pytest.raises(ValueError, match='set --config.data.path'):
    tasks.load(config).eval_sets()


class TestWorld:
  def test_prompts_and_rewards_of_both_tasks(self):
    task = tasks.load(q_insight.get_config('smoke'))
    scored, degraded = task.train_rows()[0]
    for rows, kind in ((scored, 'score'), (degraded, 'degradation')):
      asked = task.prompt(rows[3], RNG)
      record = asked['record']
      assert json.loads(json.dumps(record)) == record
      assert record['task'] == kind
      assert asked['messages'][-1]['role'] == 'user'
      assert asked['images'][0].shape == (24, 24, 3)
      specimen = task.specimen(record)
      assert _earned(task, specimen, record)['format'] == 1
      ids = task.chat().tokenizer.encode(specimen).ids
      assert task.chat().decode(ids) == specimen and len(ids) <= 10
    record = task.prompt(scored[3], RNG)['record']
    truth = record['gt_score_norm']
    for rating, paid in ((truth, 1), (truth + 0.4, 0)):
      text = f'<think>\nclean\n</think>\n<answer>\n{{"rating": {rating:.2f}}}'
      found = _earned(task, text + '\n</answer>', record)
      assert found == {'format': 1, 'answer': paid}
    record = task.prompt(degraded[3], RNG)['record']
    said = answers.answer_of(degraded[3], q_insight.get_config('smoke'))
    assert _earned(task, said, record) == {'format': 0, 'answer': 1}

  def test_arms_without_thinking_ask_and_pay_for_answers_alone(self):
    task = tasks.load(q_insight.get_config('smoke,arm=no_think'))
    record = task.prompt(task.train_rows()[0][0][0], RNG)['record']
    specimen = task.specimen(record)
    assert specimen.startswith('<answer>')
    assert _earned(task, specimen, record)['format'] == 1

  def test_the_rank_reward_is_of_groups(self):
    task = tasks.load(q_insight.get_config('smoke,arm=rank'))
    (rows,), _ = task.train_rows()
    records = [task.prompt(rows[n], RNG)['record'] for n in range(3)]
    shape, rank = task.rewards()
    assert shape.score(task.specimen(records[0]), records[0]) == 1
    say = lambda r: f'<answer>{r["gt_score_norm"]:.3f}</answer>'
    right = rank.score([[say(r)] * 2 for r in records], records)
    wrong = rank.score([[say(r)] * 2 for r in records[::-1]], records)
    assert np.mean(right) > np.mean(wrong)

  @pytest.mark.parametrize('arm', list(q_insight.SUPERVISED))
  def test_supervised_answers_are_in_the_vocabulary(self, arm):
    task = tasks.load(q_insight.get_config(f'smoke,arm={arm}'))
    chat = task.chat()
    for rows in task.train_rows()[0]:
      for number in range(0, 40, 7):
        text = task.example(rows[number], RNG)['messages'][-1]['content']
        assert chat.decode(chat.tokenizer.encode(text).ids) == text

  def test_generic_captions_are_descriptions(self):
    config = q_insight.get_config('smoke,arm=base')
    scored, degraded = tasks.load(config).train_rows()[0]
    assert scored.name == 'generic photos'
    row = scored[2]
    thought = answers.spoken(row['caption'])
    assert answers.answer_of(row, config).startswith(f'<think>\n{thought}\n')
    kinds = {degraded[n]['distortion_class'] for n in range(40)}
    assert len(kinds) > 3

  def test_only_one_sets_scores_are_trained_on_where_asked(self):
    config = q_insight.get_config('smoke,arm=sft_description')
    config.sets.train, config.sets.scored = ('A', 'B'), ('A',)
    first, second = tasks.load(config).train_rows()[0]
    assert '"rating"' in answers.answer_of(first[0], config)
    assert answers.answer_of(second[0], config).endswith('\n</think>')

  def test_bad_rows_and_targets(self):
    config = q_insight.get_config('smoke,arm=sft_description')
    row = {'task': 'score', 'gt_score_norm': 3.0, 'dataset': 'A'}
    with pytest.raises(BadRecord, match='description'):
      answers.answer_of(row, config)
    with pytest.raises(BadRecord, match='empty answer'):
      answers.answer_of(row | {'description': ' \n'}, config)
    config.iqa.target = 'haiku'
    with pytest.raises(ValueError, match=r'--config.iqa.target=.haiku'):
      answers.answer_of(row, config)

  def test_a_supervised_arm_trains_and_is_scored(self, tmp_path):
    config = q_insight.get_config('smoke,arm=sft_level')
    config.workdir, config.steps = str(tmp_path), 12
    config.sets.eval = ('A',)
    config.photos.test = 8
    config.eval.batch_size, config.eval.max_new_tokens = 8, 6
    rows = []
    made, state = train.run(config, report_row=rows.append)
    losses = [row['loss'] for row in rows]
    assert losses[-1] < 3.5
    mesh = make_mesh(config.mesh)
    found = evaluate.evaluate(made, state['params'], mesh)['A']
    assert found['scores']['count'] == 8 and not found['skipped']
    assert {'plcc', 'srcc', 'rmse', 'unread'} <= set(found['scores'])

  def test_scores_of_perfect_and_of_unread_predictions(self):
    task = tasks.load(q_insight.get_config('smoke'))
    rows = task.eval_sets()['A']
    queries = list(task.queries(rows))
    truth = [q['record'] for q in queries]
    say = '<answer>{{"rating": {:.4f}}}</answer>'.format
    right = [r | {'prediction': say(r['gt_score_norm'])} for r in truth]
    found = task.score(right)
    assert found['srcc'][0] == pytest.approx(1, abs=1e-3)
    assert found['unread'] == 0 and found['mae'] < 1e-3
    silent = [r | {'prediction': 'no idea'} for r in truth]
    found = task.score(silent)
    assert np.isnan(found['plcc'][0]) and found['unread'] == len(truth)
    mos = np.array([r['gt_score_norm'] for r in truth])
    assert found['mae'] == pytest.approx(np.abs(mos - 3).mean())


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Both tasks on files, with a checkpoint's template and processor."""
  pytest.importorskip('torch')
  folder = tmp_path_factory.mktemp('rali')
  (folder / 'model').mkdir()
  tiny_checkpoint.write(folder / 'model')
  iqa_files.write_koniq(folder)
  degradations = iqa_files.write_degradations(folder / 'dist' / 'train.json')
  config = q_insight.get_config('full')
  config.model.preset = ''
  config.model.init_from = str(folder / 'model')
  config.data.path = str(folder)
  config.data.images = ''
  config.sets.degradations = (str(degradations),)
  config.sets.eval = ('koniq', str(degradations))
  config.data.units, config.data.visual_tokens = 256, 16
  config.data.seq_len = 2_048  # one character a token
  return job.prepare(config)


@pytest.mark.parity
class TestFiles:
  def test_prompts_are_encoded_with_their_pictures(self, made):
    task = made.task
    for rows in task.train_rows()[0]:
      asked = task.prompt(rows[0], RNG)
      batch = made.encoder.prompts([asked], made.prompt_spec)
      text = made.chat.decode(batch['tokens'][0].tolist())
      assert batch['plan']['valid'].sum() > 0
      specimen = task.specimen(asked['record'])
      assert specimen in text
      assert _earned(task, specimen, asked['record'])['format'] == 1
      ids = made.chat.tokenizer.encode(specimen).ids
      assert made.chat.decode(ids) == specimen

  def test_a_missing_picture_is_counted_and_nobody_takes_its_label(self, made):
    task = made.task
    rows = task.eval_sets()['koniq']
    gone = rows[2]['image']
    kept = gone.read_bytes()
    gone.unlink()
    try:
      with pytest.raises(BadRecord, match='missing image'):
        made.encoder.prompt(task.prompt(rows[2], RNG))
      with pytest.raises(BadRecord, match='missing image'):
        made.encoder.sample(task.example(rows[2], RNG))
      queries = list(task.queries(rows))
    finally:
      gone.write_bytes(kept)
    assert task.skipped == {'missing image': 1}
    names = [q['record']['id'] for q in queries]
    assert len(names) == 5 and rows[2]['id'] not in names
    for query in queries:  # each picture carries its own number
      number = np.asarray(query['images'][0])[0, 0, 0]
      assert query['record']['id'].startswith(f'{number}.png')

  def test_sets_are_named_by_their_files(self, made):
    task = made.task
    found = task.eval_sets()
    assert list(found) == ['koniq', 'train']
    queries = [
      q['record'] | {'prediction': '<answer>no</answer>'}
      for q in task.queries(found['train'])
    ]
    assert task.score(queries) == {'degradation_reward': 0.0}

  def test_pictures_are_capped(self, made):
    small = made.task.processor(made.encoder.processor)
    made.task._config.iqa.max_pixels = 784 * 4
    try:
      tight = made.task.processor(made.encoder.processor)
    finally:
      made.task._config.iqa.max_pixels = q_insight.PIXELS
    picture = tiny_checkpoint.picture(84, 84)
    assert small.prepare([picture]).expansions[0].counts == (9,)
    assert tight.prepare([picture]).expansions[0].counts == (4,)


class TestScore:
  def record(self, mos, said, name='koniq', **more):
    return {
      'dataset': name,
      'mos': mos,
      'score': said,
      'failure': '' if said is not None else 'no score',
      'reference': str(mos),
      'problem': '',
    } | more

  def test_sets_means_and_failures(self):
    koniq = [self.record(m, m) for m in (1.0, 2, 3, 4)]
    spaq = [self.record(m, 6 - m, 'spaq') for m in (1.0, 2, 4)]
    spaq.append(self.record(3.3, None, 'spaq'))
    spaq.append(self.record(2.2, None, 'spaq', problem='missing image: x'))
    flat = [self.record(m, 2.5, 'csiq') for m in (1.0, 2, 3)]
    found = score.score(koniq + spaq + flat)
    sets_ = found['greedy']['sets']
    assert sets_['koniq']['srcc'] == pytest.approx(1)
    assert sets_['spaq']['srcc'] == pytest.approx(-1)
    assert sets_['spaq']['count'] == 4
    assert sets_['csiq']['plcc'] is None  # NaN is null
    out = found['greedy']['out_of_domain']
    assert out['sets'] == ['spaq', 'csiq']
    assert out['srcc'] == pytest.approx(-1)
    assert out['undefined']['srcc'] == ['csiq']
    assert found['greedy']['mean']['srcc'] == pytest.approx(0)
    assert found['counts']['spaq'] == {
      'images': 5,
      'problems': {'missing image': 1},
      'unread': {'no score': 1},
      'drawn': 0,
      'drawn_unread': 0,
    }
    assert 'mean_of_drawn' not in found

  def test_unread_draws_become_the_greedy_rating_then_the_constant(self):
    record = self.record(2.0, 4.0, drawn_scores=[2.0, None, 3.0, None])
    assert score.mean_of_drawn(record) == (2 + 4 + 3 + 4) / 4
    record = self.record(2.0, None, drawn_scores=[1.0, None])
    assert score.mean_of_drawn(record) == 2.0 and score.greedy(record) == 3.0
    records = [self.record(m, 3.0, drawn_scores=[m, None]) for m in (1.0, 2, 5)]
    found = score.score(records)
    assert found['mean_of_drawn']['sets']['koniq']['srcc'] == pytest.approx(1)
    assert found['counts']['koniq']['drawn_unread'] == 3


def test_names_of_sets():
  assert sets.stem('koniq') == 'koniq'
  assert sets.stem('/a.b/own.jsonl') == 'own' == sets.stem('own.json')
