"""Prompts, answers and scores of benchmarks, without a model."""

import dataclasses
import json

import numpy as np
import pytest
from etils import epath

from data.sources.video_qa import Question
from experiments.asking.predictions import Predictions
from experiments.video_qa import benchmarks, efficiency, prompts, scores
from experiments.video_qa.answers import parse
from experiments.video_qa.benchmarks import BENCHMARKS
from vlm.models import qwen2_5_vl
from vlm.models.prune import Prune

OPTIONS = ('a cat', 'two dogs', 'nothing at all', 'B. King', 'the sea')
QUESTION = Question('1', 'v', epath.Path('v.mp4'), 'What?', OPTIONS)

ANSWERS = [
  ('A', 0),
  (' b\n', 1),
  ('C.', 2),
  ('(D)', 3),
  ('e)', 4),
  ('**B**', 1),
  ('"C"', 2),
  ('B) two dogs', 1),
  ('D. a book', 3),
  ('B: because', 1),
  ('A because it purrs', None),
  ('The answer is A because it purrs', 0),
  ('The best answer is B', 1),
  ('Answer: c', 2),
  ('The correct option is (E).', 4),
  ('Option D', 3),
  ('I think it is C', 2),
  ('I think it is (b), surely', 1),
  ('A cat', 0),
  ('a cat.', 0),
  ('Two dogs!', 1),
  ('B. King', 1),
  ('A man is cooking', None),
  ('A dog, so B', 1),
  ('Cannot tell', None),
  ('Answer', None),
  ('Both, Dave', None),
  ('F', None),
  ('(F)', None),
  ("It's D's", None),
  ('', None),
  ('   ', None),
  ('?!', None),
  ('😀', None),
  ('1', None),
  ('(', None),
  ('B' * 4000, None),
  ('x ' * 4000 + 'C', 2),
]


@pytest.mark.parametrize(('said', 'option'), ANSWERS)
def test_answers_are_read(said, option):
  assert parse(said, OPTIONS) == option


def test_no_answer_is_out_of_range():
  """Whatever is said, an option that there is, or none."""
  rng = np.random.default_rng(0)
  letters = list('ABCDEFGabcdefg ().:,*\n\'"')
  for _ in range(2000):
    said = ''.join(rng.choice(letters, rng.integers(12)))
    for count in (2, 4, 5):
      choice = parse(said, OPTIONS[:count])
      assert choice is None or 0 <= choice < count
      if choice is not None:
        named = 'ABCDE'[choice] in said.upper()
        assert named or said.strip(' ().:,*\n\'"').lower() == OPTIONS[choice]


def test_prompts_have_the_published_shapes():
  written = {
    name: prompts.choose(name, '').write(QUESTION).split('\n')
    for name in BENCHMARKS
  }
  lettered = [f'{letter}. {o}' for letter, o in zip('ABCDE', OPTIONS)]
  bracketed = [f'({letter}) {o}' for letter, o in zip('ABCDE', OPTIONS)]
  before, question, *options, after = written['videomme']
  assert 'subtitles' in before and question == 'What?' and options == lettered
  assert after.startswith('The letter')
  for name in ('egoschema', 'longvideobench'):
    assert written[name] == ['What?', *lettered, prompts.LETTER_ONLY]
  assert written['mvbench'] == [
    'Question:What?',
    'Option:',
    *bracketed,
    prompts.BEST_ONLY,
  ]
  assert written['mlvu'][:6] == ['What?', *bracketed]
  assert written['mlvu'][-1] == 'Best option: ('
  variant = prompts.choose('videomme', 'no_subtitles').write(QUESTION)
  assert 'subtitles' not in variant
  odd = dataclasses.replace(QUESTION, question='{letter} {text}?')
  assert (
    prompts.choose('egoschema', '').write(odd).startswith('{letter} {text}')
  )


def test_prompts_may_be_worded_in_a_file(tmp_path):
  path = tmp_path / 'mine.json'
  path.write_text(json.dumps({'option': '{letter}) {text}', 'after': 'Say:'}))
  text = prompts.choose('mlvu', str(path)).write(QUESTION)
  assert text.startswith('What?\nA) a cat') and text.endswith('\nSay:')
  path.write_text(json.dumps({'befor': ''}))
  with pytest.raises(ValueError, match='--prompt=.*expected an object of'):
    prompts.choose('mlvu', str(path))
  with pytest.raises(ValueError, match="--prompt=short: .*'llava_video'"):
    prompts.choose('videomme', 'short')


def record(number, choice, answer=0, problem='', **categories):
  return {
    'id': str(number),
    'video': f'v{number // 2}',
    'categories': categories or {'task': 'x'},
    'options': 4,
    'answer': answer,
    'prediction': None if problem else 'text',
    'choice': choice,
    'problem': problem,
    'grid': None if problem else [8, 10],
  }


# Right, wrong, invalid and not shown, in two tasks of two videos.
RECORDS = [
  record(0, 0, task='a', duration='s'),
  record(1, None, task='a', duration='s'),
  record(2, 1, task='b', duration='l'),
  record(3, None, task='b', problem='missing image: v', duration='l'),
  record(4, 0, task='b', duration='l'),
  record(5, 0, task='b', duration='l'),
]


def test_scores_are_those_of_hand():
  found = scores.score(RECORDS, BENCHMARKS['videomme'])
  assert found['counts'] == {
    'questions': 6,
    'labelled': 6,
    'shown': 5,
    'invalid': 1,
    'problems': {'missing image': 1},
  }
  mean, low, high = found['accuracy']
  assert mean == pytest.approx(3 / 6) and 0 <= low < mean < high <= 1
  assert found['accuracy_shown'] == pytest.approx(3 / 5)
  assert found['by']['task'] == {
    'a': {'accuracy': 1 / 2, 'questions': 2},
    'b': {'accuracy': 2 / 4, 'questions': 4},
  }
  assert found['by']['duration']['l']['questions'] == 4


def test_a_random_choice_for_an_invalid_answer_but_not_for_a_missing_video():
  found = scores.score(RECORDS, BENCHMARKS['longvideobench'])
  assert found['accuracy'][0] == pytest.approx((3 + 1 / 4) / 6)
  assert found['accuracy_strict'] == pytest.approx(3 / 6)
  assert found['by']['task']['a']['accuracy'] == pytest.approx(1.25 / 2)
  assert found['by']['task']['b']['accuracy'] == pytest.approx(2 / 4)


def test_tasks_count_alike_where_the_benchmark_says_so():
  rows = [*RECORDS, record(6, 0, task='c')]
  rows[-1]['categories']['duration'] = 'l'
  mean = scores.score(rows, BENCHMARKS['mlvu'])['accuracy'][0]
  assert mean == pytest.approx((1 / 2 + 2 / 4 + 1) / 3)
  assert scores.score(rows, BENCHMARKS['videomme'])['accuracy'][
    0
  ] == pytest.approx(4 / 7)


def test_unlabelled_questions_are_exported_and_not_scored():
  rows = [record(n, c, answer=None) for n, c in enumerate((3, None))]
  rows.append(record(2, 1, answer=None, problem='corrupt image: x'))
  found = scores.score(rows, BENCHMARKS['egoschema'])
  assert set(found) == {'counts'} and found['counts']['labelled'] == 0
  assert scores.submission(rows) == {'0': 3, '1': -1, '2': -1}


def test_nothing_shown_is_nothing_right():
  rows = [record(n, None, problem='missing image: x') for n in range(3)]
  found = scores.score(rows, BENCHMARKS['longvideobench'])
  assert found['accuracy'] == [0, 0, 0] and found['accuracy_shown'] is None


class _Half:
  """Leaves a quarter of the tokens, then half of those from layer 20 on."""

  def room(self, frames, tokens):
    return frames * tokens // 4

  def prune(self, depth):
    return Prune(20, 0.5)


def test_efficiency_is_averaged_over_what_was_shown():
  decoder = qwen2_5_vl.published('7b').decoder
  full = efficiency.report(RECORDS, decoder)
  assert full['tokens_full'] == 80 and full['compression'] == 1
  assert full['tflops'] == full['tflops_full']
  rows = [*RECORDS, {**RECORDS[0], 'grid': [8, 22]}]
  found = efficiency.report(rows, decoder, _Half())
  entering = (5 * 20 + 44) / 6
  assert found['tokens_full'] == pytest.approx((5 * 80 + 176) / 6)
  assert found['tokens_per_layer'] == pytest.approx(
    [entering] * 20 + [entering / 2] * 8
  )
  assert found['compression'] == pytest.approx((20 + 8 / 2) / 28 / 4)
  assert efficiency.report([RECORDS[3]], decoder) == {}


def test_limits_are_spread_over_the_split(monkeypatch):
  every = [dataclasses.replace(QUESTION, id=str(n)) for n in range(10)]
  fixed = benchmarks.Benchmark(lambda folder, split: every, ('test',))
  monkeypatch.setitem(benchmarks.BENCHMARKS, 'mlvu', fixed)
  ids = [q.id for q in benchmarks.questions('mlvu', '', limit=4)]
  assert ids == ['0', '2', '5', '7']
  assert len(benchmarks.questions('mlvu', '', limit=99)) == 10
  with pytest.raises(ValueError, match='--split=dev: mlvu has test'):
    benchmarks.questions('mlvu', '', 'dev')


def test_predictions_continue_at_the_last_whole_batch(tmp_path):
  settings = {'frames': 32, 'split': 'test'}
  rows = [record(n, 0) for n in range(5)]
  whole = Predictions(tmp_path / 'a', settings, 5, 2)
  for start in (0, 2, 4):
    whole.append(rows[start : start + 2])
  whole.close()
  text = whole.path.read_text()
  torn = Predictions(tmp_path / 'b', settings, 5, 2)
  torn.append(rows[:2])
  torn.append(rows[2:4])
  torn.close()
  # Killed in the middle of the fourth line.
  torn.path.write_text(text[: text.index('"id": "3"') + 20])
  again = Predictions(tmp_path / 'b', settings, 5, 2)
  assert again.done == 2
  again.append(rows[2:4])
  again.append(rows[4:])
  again.close()
  assert again.path.read_text() == text and again.read() == rows
  assert Predictions(tmp_path / 'b', settings, 5, 2).done == 5
  with pytest.raises(ValueError, match='frames: 32 there, 16 now\n'):
    Predictions(tmp_path / 'b', {**settings, 'frames': 16}, 5, 2)
  with pytest.raises(ValueError, match="prompt: None there, 'x' now"):
    Predictions(tmp_path / 'b', {**settings, 'prompt': 'x'}, 5, 2)
