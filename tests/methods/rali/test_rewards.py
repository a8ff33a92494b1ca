"""Every behaviour of Q-Insight's rewards, as tables (spec 2.1, 2.2)."""

import math

import numpy as np
import pytest

from vlm.methods.rali import completion, prompts, rank_reward, readers
from vlm.methods.rali.answer_format import FORMATS, format_reward
from vlm.methods.rali.degradation_reward import degradation_reward
from vlm.methods.rali.score_reward import rating_of, score_reward

GOOD = (
  '<think>\nSharp, but dark.\n</think>\n<answer>\n{"rating": 3.47}\n</answer>'
)
JSON = '{"rating": 3.47}'


def _swap(old, new):
  assert old in GOOD
  return GOOD.replace(old, new)


# completion -> modes that pay, of strict, official and lenient.
SHAPES = {
  'the specimen': (GOOD, 'sol'),
  'white space at the end': (GOOD + ' \n\t\n', 'so'),
  'blanks at the ends of lines': (
    '<think> \t\nx\n  </think> \n<answer>\t\n{}  \n </answer>',
    'sol',
  ),
  'nothing in the braces': (_swap(JSON, '{}'), 'sol'),
  'no JSON in the braces': (_swap(JSON, '{not "json}'), 'sol'),
  'braces over several lines': (_swap(JSON, '{\n"rating": 3\n}'), 'sol'),
  'braces in the reasoning': (_swap('Sharp', '{Sharp}'), 'sol'),
  'empty lines in the reasoning': (_swap('Sharp', '\n\nSharp'), 'sol'),
  'an answer in the reasoning': (_swap('Sharp', '<answer>Sharp'), 'sol'),
  'an empty line of reasoning': (_swap('Sharp, but dark.', ''), 'sol'),
  'an empty line between the parts': (
    _swap('</think>\n', '</think>\n\n'),
    'ol',
  ),
  'an empty line before the braces': (
    _swap('<answer>\n', '<answer>\n\n'),
    'ol',
  ),
  'an empty line behind the braces': (_swap(JSON, JSON + '\n'), 'ol'),
  'carriage returns': (GOOD.replace('\n', '\r\n'), 'ol'),
  'one line': (GOOD.replace('\n', ''), 'l'),
  'one line with blanks': (GOOD.replace('\n', ' '), 'l'),
  'no reasoning at all': (_swap('\nSharp, but dark.', ''), 'l'),
  'blanks before the braces': (_swap(JSON, ' ' + JSON), 'l'),
  'a code fence': (_swap(JSON, f'```json\n{JSON}\n```'), 'l'),
  'nested braces': (_swap(JSON, '{"a": {}}'), 'l'),
  'two pairs of braces': (_swap(JSON, '{}{}'), 'l'),
  'no braces': (_swap(JSON, '3.47'), 'l'),
  'white space in front': (' ' + GOOD, ''),
  'a line in front': ('\n' + GOOD, ''),
  'words in front': ('Sure. ' + GOOD, ''),
  'words behind': (GOOD + '\nDone.', ''),
  'no closing tag': (_swap('</answer>', ''), ''),
  'no answer': (GOOD.split('<answer>')[0], ''),
  'no thinking': ('<answer>\n{}\n</answer>', ''),
  'upper case tags': (_swap('think', 'THINK'), ''),
  'words between the parts': (_swap('</think>', '</think> so'), ''),
  'cut at the length limit': (GOOD[:40], ''),
  'empty': ('', ''),
}


@pytest.mark.parametrize('name', SHAPES)
def test_format(name):
  text, paid = SHAPES[name]
  modes = ('strict', 'official', 'lenient')
  found = {mode: format_reward(mode)(text, {}) for mode in modes}
  assert found == {mode: float(mode[0] in paid) for mode in modes}


# Stated once more as the published check is worded; the two must agree.
def test_official_equals_the_published_check():
  def published(text):
    import re

    head = r'^<think>\s*\n' + r'.*?\n' + r'\s*</think>\s*\n'
    tail = r'<answer>\s*\n' + r'\{[^\{\}]*\}' + r'\s*\n' + r'\s*</answer>\s*$'
    flags = re.DOTALL | re.MULTILINE
    return float(bool(re.fullmatch(head + tail, text, flags)))

  for text, _ in SHAPES.values():
    assert format_reward('official')(text, {}) == published(text)


def test_answer_only_is_the_second_half_of_strict():
  paid = format_reward('answer_only')
  assert paid('<answer>\n{"rating": 2}\n</answer>\n', {}) == 1
  for text in (GOOD, '<answer>{}</answer>', ' <answer>\n{}\n</answer>', ''):
    assert paid(text, {}) == 0
  with pytest.raises(ValueError, match="format='loose'"):
    format_reward('loose')
  assert set(FORMATS) == {'strict', 'official', 'lenient', 'answer_only'}


def test_the_prompts_own_example_earns_the_format_in_every_mode():
  for task in prompts.TASKS:
    shown = completion.specimen(task)
    for mode in ('strict', 'official', 'lenient'):
      assert format_reward(mode)(shown, {}) == 1
    short = completion.specimen(task, think=False)
    assert format_reward('answer_only')(short, {}) == 1
    for think, example in ((True, shown), (False, short)):
      system, user = completion.messages(prompts.Wording(), task, think)
      assert system['content'].endswith(example)
      assert [part['type'] for part in user['content']] == ['image', 'text']
  silent = prompts.Wording(system='')
  assert len(completion.messages(silent, 'score')) == 1
  with pytest.raises(ValueError, match="task='compare'"):
    prompts.Wording().question('compare')


def test_questions_name_keys_classes_and_severities():
  asked = prompts.Wording()
  assert '"rating"' in asked.score
  words = (*prompts.CLASSES, *prompts.SEVERITIES, prompts.NONE)
  for word in (*words, 'distortion_class', 'severity'):
    assert f'"{word}"' in asked.degradation


def _answer(text):
  return f'<think>\nx\n</think>\n<answer>\n{text}\n</answer>'


# completion -> rating read, None for none.
RATINGS = {
  _answer('{"rating": 3.47}'): 3.47,
  _answer('{"rating" :  3}'): 3.0,
  _answer('{"rating":\n3.1}'): 3.1,
  _answer('"rating": 3.1 of 5'): 3.1,
  _answer('{"rating": 3.2e1}'): 3.2,
  _answer('{"rating": 71}'): 71.0,
  _answer('{"rating": .5}'): 0.5,
  _answer('{"rating": 4.}'): 4.0,
  _answer('{"rating": 2, "rating": 4}'): 2.0,
  _answer('{"rating": "2", "rating": 4}'): 4.0,
  _answer('{"rating": 3.2.1}'): None,
  _answer('{"rating": .}'): None,
  _answer('{"rating": "3.47"}'): None,
  _answer('{"rating": -3.47}'): None,
  _answer("{'rating': 3.47}"): None,
  _answer('{"Rating": 3.47}'): None,
  _answer('{rating: 3.47}'): None,
  _answer('{"rating": null}'): None,
  _answer('{"rating": NaN}'): None,
  _answer('{"rating": }'): None,
  _answer('{"score": 3.47}'): None,
  _answer('3.47'): None,
  _answer(''): None,
  '<answer>{"rating": 3.47}': None,
  '{"rating": 3.47}</answer>': None,
  '{"rating": 3.47}': None,
  '<Answer>{"rating": 3.47}</Answer>': None,
  '': None,
  '<answer>{"rating": 1}</answer>' + _answer('{"rating": 2}'): 1.0,
  '<think><answer>{"rating": 1}</answer></think>' + _answer('{}'): 1.0,
  '<answer>none</answer><answer>{"rating": 2}</answer>': None,
  '<answer><answer>{"rating": 2}</answer>': 2.0,
}  # fmt: skip


@pytest.mark.parametrize('text', RATINGS)
def test_ratings_and_the_score_reward(text):
  want = RATINGS[text]
  assert rating_of(text) == want
  truth = 3.0 if want is None else want
  reward = score_reward()
  assert reward(text, {'gt_score_norm': truth}) == float(want is not None)


@pytest.mark.parametrize(
  'rating, truth, want',
  [
    ('3.00', 3.34, 1.0),
    ('3.00', 3.36, 0.0),
    ('3.00', 2.66, 1.0),
    ('2.00', 2.35, 0.0),  # 0.35 and a rounding error
    ('1.00', 1.25, 1.0),
    ('1.00', 1.35, 0.0),
  ],
)
def test_the_threshold_is_strict(rating, truth, want):
  text = _answer(f'{{"rating": {rating}}}')
  assert score_reward()(text, {'gt_score_norm': truth}) == want
  assert score_reward(1e9)(text, {'gt_score_norm': truth}) == 1.0


def test_a_difference_of_exactly_the_threshold_earns_nothing():
  text = _answer('{"rating": 3.0}')
  assert score_reward(0.5)(text, {'gt_score_norm': 3.5}) == 0
  assert score_reward(0.5)(text, {'gt_score_norm': math.nextafter(3.5, 0)}) == 1


def _pair(distortion, severity):
  return _answer(
    f'{{"distortion_class": {distortion}, "severity": {severity}}}'
  )


TRUTH = {'distortion_class': 'blur', 'severity': 'serious'}
DEGRADATIONS = [
  (_pair('"blur"', '"serious"'), TRUTH, 1.0),
  (_pair('" blur "', '"\\nserious\t"').replace('\\n', '\n'), TRUTH, 1.0),
  (_pair('"blur"', '"slight"'), TRUTH, 0.25),
  (_pair('"noise"', '"serious"'), TRUTH, 0.0),
  (_pair('"noise"', '"slight"'), TRUTH, 0.0),
  (_pair('"Blur"', '"serious"'), TRUTH, 0.0),
  (_pair('"blur"', '"Serious"'), TRUTH, 0.25),
  (_pair('blur', '"serious"'), TRUTH, 0.0),
  (_pair('"blur"', 'serious'), TRUTH, 0.0),
  (_pair('"blur"', '""'), TRUTH, 0.0),
  (_pair('""', '"serious"'), TRUTH, 0.0),
  (_pair('"blur"', 'null'), TRUTH, 0.0),
  (_pair("'blur'", "'serious'"), TRUTH, 0.0),
  (_answer('{"severity": "serious", "distortion_class": "blur"}'), TRUTH, 0.0),
  (_answer('"distortion_class":"blur"\n\n"severity":"serious"'), TRUTH, 1.0),
  (_answer('{"distortion_class": "blur"}'), TRUTH, 0.0),
  ('{"distortion_class": "blur", "severity": "serious"}', TRUTH, 0.0),
  (_answer('{}') + _pair('"blur"', '"serious"'), TRUTH, 0.0),
  ('', TRUTH, 0.0),
]
CLEAN = {'distortion_class': 'null', 'severity': 'null'}
DEGRADATIONS += [
  (_pair('"null"', '"null"'), CLEAN, 1.0),
  (_pair('null', 'null'), CLEAN, 0.0),
  (_pair('"null"', '"slight"'), CLEAN, 0.25),
]


@pytest.mark.parametrize('text, truth, want', DEGRADATIONS)
def test_the_degradation_reward(text, truth, want):
  assert degradation_reward(text, truth) == want


def test_every_specimen_earns_all_where_it_is_true():
  found = degradation_reward(completion.specimen('degradation'), CLEAN)
  assert found == 1
  truth = {'gt_score_norm': completion.EXAMPLE_RATING}
  assert score_reward()(completion.specimen('score'), truth) == 1


class TestRankReward:
  @staticmethod
  def oracle(predictions, mos):
    """The formulas of spec 2.2 as loops, for groups without failures."""
    out = np.zeros(predictions.shape)
    groups = range(len(mos))
    mean = [sum(row) / len(row) for row in predictions]
    var = [
      sum((p - m) ** 2 for p in row) / (len(row) - 1)
      for row, m in zip(predictions, mean)
    ]
    for i in groups:
      for j, p in enumerate(predictions[i]):
        for z in groups:
          if z == i:
            continue
          u = (p - mean[z]) / math.sqrt(var[i] + var[z] + 1e-6)
          above = 0.5 * (1 + math.erf(u / math.sqrt(2)))
          y = 1 if mos[i] > mos[z] else 0 if mos[i] < mos[z] else 0.5
          out[i, j] += math.sqrt(above * y + 1e-6)
          out[i, j] += math.sqrt((1 - above) * (1 - y) + 1e-6)
    return out / (len(mos) - 1)

  def test_equals_the_formulas_with_equal_opinions_and_equal_ratings(self):
    rng = np.random.default_rng(0)
    predictions = rng.uniform(1, 5, (6, 4)).round(1)
    predictions[2] = 3.0  # no variance
    mos = np.array([1.0, 4, 2, 2, 5, 3])
    np.testing.assert_allclose(
      rank_reward.rank_rewards(predictions, mos),
      self.oracle(predictions, mos),
      atol=1e-12,
    )

  def test_the_right_order_pays_more_than_the_wrong_one(self):
    mos = np.array([1.0, 3, 5])
    right = np.array([[1.0, 1.2], [3, 3.1], [4.8, 5]])
    high = rank_reward.rank_rewards(right, mos)
    low = rank_reward.rank_rewards(right[::-1], mos)
    assert high.min() > 0.99 and low[[0, 2]].max() < 0.01

  def test_unread_completions_earn_nothing_and_do_not_move_their_group(self):
    rng = np.random.default_rng(1)
    full = rng.uniform(1, 5, (3, 4))
    mos = np.array([1.0, 2, 3])
    holed = np.concatenate([full, np.full((3, 2), np.nan)], axis=1)
    found = rank_reward.rank_rewards(holed, mos)
    np.testing.assert_allclose(found[:, :4], self.oracle(full, mos), atol=1e-12)
    assert (found[:, 4:] == 0).all()

  def test_a_group_that_says_nothing_is_nobodys_rival(self):
    rng = np.random.default_rng(2)
    full, mos = rng.uniform(1, 5, (3, 4)), np.array([1.0, 2, 3])
    silent = np.concatenate([full, np.full((1, 4), np.nan)])
    found = rank_reward.rank_rewards(silent, np.append(mos, 4.0))
    np.testing.assert_allclose(found[:3], self.oracle(full, mos), atol=1e-12)
    assert (found[3] == 0).all()
    nobody = rank_reward.rank_rewards(np.full((2, 3), np.nan), mos[:2])
    assert (nobody == 0).all()

  def test_reads_the_first_signed_number_of_the_last_answer(self):
    read = rank_reward.rating_in_last_answer
    assert read('<answer>4</answer> no: <answer>about 3.5 or 2</answer>') == 3.5
    assert read('<answer>-1.25</answer>') == -1.25
    assert read('<answer>good</answer>') is None
    assert read('3.5') is None

  def test_completions_and_records(self):
    say = '<answer>{}</answer>'.format
    completions = [[say(1), say(5)], [say('no'), say(4)]]
    records = [{'gt_score_norm': s, 'dataset': 'koniq'} for s in (1.5, 4.5)]
    (good, bad), (unread, fine) = rank_reward.rank_reward(completions, records)
    assert good > bad and unread == 0 and fine > 0.5
    records[1]['dataset'] = 'spaq'
    with pytest.raises(ValueError, match="'koniq', 'spaq'"):
      rank_reward.rank_reward(completions, records)
    with pytest.raises(ValueError, match='got one'):
      rank_reward.rank_reward(completions[:1], records[:1])


@pytest.mark.parametrize(
  'reader, text, want',
  [
    ('answer', GOOD, (3.47, '')),
    ('answer', JSON, (None, 'no score')),
    ('json', JSON, (3.47, '')),
    ('json', '{"rating": 71}', (None, 'out of range')),
    ('json', '{"rating": 0.99}', (None, 'out of range')),
    ('json', '{"rating": ' + '9' * 400 + '}', (None, 'out of range')),
    ('number', 'I say 4.25.', (4.25, '')),
    ('number', 'I say -4.25.', (None, 'out of range')),
    ('last_answer', '<answer>2</answer><answer>3</answer>', (3.0, '')),
    ('level', 'The quality is Good.', (4.0, '')),
    ('level', 'goodness', (None, 'no score')),
    ('level', '', (None, 'no score')),
  ],
)
def test_readers(reader, text, want):
  assert readers.read_score(text, reader) == want


def test_an_unknown_reader_is_an_error():
  with pytest.raises(ValueError, match="reader='ocr'"):
    readers.read_score('', 'ocr')
