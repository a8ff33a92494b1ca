"""What is measured on a teacher's reasoning; its tables and pictures."""

import json

import jax
import numpy as np
import pytest

from data.sources.photo_rows import PhotoRows
from data.sources.photographs import SeverityRows
from experiments.miniature import Arm, Outcome
from experiments.rali import q_insight
from experiments.rali.miniature import (
  brisque_scorer,
  figures,
  reasoning,
  reasoning_tables,
  vocabulary,
)
from experiments.rali.score import plain
from launch import job

ROWS = 6


@pytest.fixture(scope='module')
def listener():
  config = q_insight.get_config('smoke,arm=base')
  config.eval.batch_size = ROWS
  made = job.prepare(config)
  drawn = jax.jit(made.model.init)(jax.random.key(0))
  # Attention that looks somewhere: random weights are almost even.
  layers = jax.tree.map(lambda leaf: 4 * leaf, drawn['decoder']['layers'])
  params = drawn | {'decoder': drawn['decoder'] | {'layers': layers}}
  return reasoning.Listener(made, params, config)


def said_by(listener, start):
  """The same words about other pictures; the last row opens no answer."""
  made = listener.job
  photos = PhotoRows(0, 'A', start, ROWS, 20)
  prompts = made.encoder.prompts(
    [made.task.prompt(photos[n], None) for n in range(ROWS)], made.prompt_spec
  )
  encode = lambda text: made.chat.tokenizer.encode(text).ids
  words = ('clean', 'blur slight', 'noise serious, blur slight')
  before = [
    encode(f'<think>\n{words[n % 3]}\n</think>{vocabulary.RATING[0]}')
    for n in range(ROWS - 1)
  ]
  behind = [encode('3.4}\n</answer>')] * (ROWS - 1)
  return reasoning.Said(prompts, [*before, []], [*behind, []], ROWS)


def test_only_text_alone_is_blind_to_another_image(listener):
  first, second = said_by(listener, 0), said_by(listener, 8)
  found = {
    way: [listener.rate(said, way) for said in (first, second)]
    for way in reasoning.WAYS
  }
  (one, strayed), (other, _) = found[reasoning.TEXT_ONLY]
  np.testing.assert_array_equal(one, other)
  assert strayed.dtype == bool and strayed.shape == one.shape == (ROWS,)
  # Equal words, equal ratings: rows 0 and 3 differ in nothing but the image.
  assert one[0] == one[3] and one[1] == one[4]
  for way in reasoning.WAYS:
    for ratings, _ in found[way]:
      assert np.isnan(ratings[-1]) and not np.isnan(ratings[:-1]).any()
      assert ((ratings[:-1] >= 1) & (ratings[:-1] <= 5)).all()
  seen = found[reasoning.SEEN]
  assert (seen[0][0] != seen[1][0])[:-1].any()


def test_attention_of_digits_counts_the_rows_that_have_them(listener):
  said = said_by(listener, 0)
  found = reasoning.attention_of(listener, [said, said])
  assert found['rows'] == 2 * 2 * (ROWS - 1)  # two digits of each
  layers = np.array(found['layers'])
  np.testing.assert_allclose(layers.sum(axis=1), 1, atol=1e-5)
  assert (layers[0] > 0.01).all()


def test_a_completion_is_parted_at_its_tag(listener):
  said = said_by(listener, 0)
  whole = said.before[1] + said.behind[1]
  assert listener._parted(whole) == (said.before[1], said.behind[1])
  assert listener._parted(said.behind[1]) == ([], [])
  words = listener.job.chat.decode(listener.thought(said.before[1]))
  assert words == 'blur slight'


def test_accuracies_of_too_few_descriptions_are_undefined():
  x = np.zeros((4, 3))
  found = reasoning._accuracies(x, x, ['A', 'A', 'C', 'C'], np.zeros(4), 1)
  assert 'at least 5 images' in found['undefined']


def _outcome(name, seed, seen, text, visual=0.6):
  numbers = lambda srcc: {
    'plcc': srcc, 'srcc': srcc, 'strayed': 1, 'silent': 0, 'moved': 0.1,
    'count': 10,
  }  # fmt: skip
  ways = {'seen': numbers(seen), 'masked': numbers(0.1)}
  ways |= {'text only': numbers(text)}
  records = [
    {'gt_score_norm': 1 + n / 2, 'prediction': said}
    for n, said in enumerate(['<answer>\n{"rating": 3.1}\n</answer>', 'no'])
  ]
  scores = {'srcc': [seen, 0, 1], 'plcc': [seen, 0, 1], 'count': 10}
  sets = {name: {'scores': scores, 'records': records} for name in 'AB'}
  measured = {
    'removal': dict.fromkeys('AB', ways),
    'attention': {
      'parts': ['visual', 'prompt', 'think', 'answer'],
      'layers': [[0.2, 0.1, 0.6, 0.1], [0.4, 0.1, 0.4, 0.1]],
      'rows': 20,
    },
    'domains': {'visual': visual, 'text': 0.4, 'chance': 0.2, 'images': 900},
    'halves': {'tower of the start': {'A': 0.5, 'B': float('nan')}},
  }
  rewards = lambda step: {'answer': step / 10, 'format': 1}
  history = [
    {'step': step} | {figures.PREFIX + k: v for k, v in rewards(step).items()}
    for step in (1, 2)
  ]
  measured = {'reasoning': json.loads(json.dumps(plain(measured)))}
  cases = {'full': {name: {'srcc': seen} for name in 'AB'}}
  measured |= {'rali': {'cases': cases}} if name == 'RALI' else {}
  config = q_insight.get_config('smoke')
  return Outcome(Arm(name, seed, config), sets, history, 1.0, measured)


def test_tables_and_sentences_follow_the_rules_of_the_specification():
  runs = [_outcome('GRPO', s, 0.8, 0.76) for s in range(2)]
  runs += [_outcome('other', s, 0.8, 0.7 + 0.08 * s) for s in range(2)]
  runs += [_outcome('blind', 0, 0.7, 0.69, visual=0.42)]
  tables = reasoning_tables.tables(runs)
  first, second, third, fourth = tables
  assert first.rows[0][1:4] == [
    '0.800 (0.800 to 0.800)',
    '0.100 (0.100 to 0.100)',
    '0.760 (0.760 to 0.760)',
  ]
  assert first.rows[0][-2:] == ['10%', '10%']
  assert second.rows[2][1] == '0.300' and second.rows[2][-1] == '0.20 / 0.40'
  assert third.rows[2][1:] == ['0.420', '0.400', '0.200', '900']
  # An undefined correlation counts nothing, as everywhere.
  assert fourth.rows[-2] == ['blind', 'tower of the start', '0.500', '0.000']
  assert fourth.rows[-1] == ['blind', 'its own', '0.700', '0.700']
  said = reasoning_tables.sentences(runs, [('blind', 'GRPO'), ('no', 'GRPO')])
  assert len(said) == 7
  assert '-0.040 SRCC over all sets' in said[0]
  assert 'text carries the score' in said[0] and 'differ' in said[2]
  assert 'is clearly less' in said[1] and 'is not clearly less' in said[5]
  assert '"blind" against "GRPO": -0.100' in said[6]
  assert '+0.030 more of it' in said[6]
  assert reasoning_tables.tables([]) == []


def test_pictures_show_what_there_is():
  runs = [_outcome(n, s, 0.8, 0.7) for n in ('GRPO', 'RALI') for s in (0, 1)]
  made = figures.draw(runs, ['RALI'])
  assert [p.caption.split(' ')[0] for p in made] == [
    'Mean', 'Agreement', '"RALI",', '"RALI"',
  ]  # fmt: skip
  curves, bars, points, cases = (picture.figure.axes for picture in made)
  assert [axis.get_title() for axis in curves] == ['answer', 'format']
  np.testing.assert_allclose(curves[0].lines[0].get_ydata(), [0.1, 0.2])
  assert len(bars[0].patches) == 4 and len(cases[0].patches) == 2
  dots, crosses = points[0].lines[:2]
  assert len(dots.get_xdata()) == 1 and crosses.get_ydata() == [3.0]
  silent = [Outcome(o.arm, o.sets, [], 1.0, {}) for o in runs]
  assert len(figures.draw(silent)) == 3  # agreement, and answers of two arms


def test_brisque_falls_with_severity():
  pytest.importorskip('brisque')
  pytest.importorskip('cv2')
  rows = SeverityRows(['chelsea.png'])
  some = [rows[n] for n in range(len(rows)) if rows[n]['level'] in (0, 2, 5)]
  found = brisque_scorer.photograph_rates(some)
  assert found['blur']['pairs'] == found['jpeg']['pairs'] == 1


def test_without_its_package_brisque_is_named(monkeypatch):
  found = lambda name: None
  monkeypatch.setattr(brisque_scorer.importlib.util, 'find_spec', found)
  assert brisque_scorer.rows(['blur']) == []
  (sentence,) = brisque_scorer.sentences()
  assert 'not installed' in sentence and 'vlm-jax[brisque]' in sentence
