"""Rewards on threads: every kind of failure is counted under a name."""

import logging
import math
import threading
import time

import numpy as np
import pytest

from vlm.rollout.rewards import GroupReward, Reward, RewardFailure, Scorer
from vlm.rollout.threads import Threads

TEXTS = [['12', 'x', '3'], ['nan', '1', '40']]
RECORDS = [{'value': 10}, {'value': 1}]


def number(text, record):
  return float(text) - record['value']


@pytest.fixture
def scorer():
  made = []

  def make(*rewards, **options):
    made.append(Scorer(rewards, **options))
    return made[-1]

  yield make
  for one in made:
    one.close()


def test_a_failed_reward_is_named_and_is_not_a_zero(scorer, caplog):
  length = Reward('length', lambda text, record: len(text), 0.5)
  with caplog.at_level(logging.WARNING):
    found = scorer(Reward('number', number), length).score(TEXTS, RECORDS)
  nan = math.nan
  np.testing.assert_array_equal(
    found.values['number'], [[2, nan, -7], [nan, 0, 39]]
  )
  np.testing.assert_array_equal(
    found.counted, [[True, False, True], [False, True, True]]
  )
  np.testing.assert_array_equal(found.total, [[3, 0, -6.5], [0, 0.5, 40]])
  assert found.failures == {
    ('number', 'exception'): 1,
    ('number', 'not finite'): 1,
  }
  assert "reward 'number'" in caplog.text and 'could not convert' in caplog.text


def test_a_reward_that_hangs_is_given_up(scorer):
  release = threading.Event()
  slow = lambda text, record: release.wait(60) if text == 'x' else 1.0
  # One thread: the calls behind the one that hangs need another.
  one = scorer(Reward('slow', slow), threads=1, seconds=0.2)
  began = time.monotonic()
  found = one.score(TEXTS, RECORDS)
  assert time.monotonic() - began < 10
  release.set()
  assert found.failures == {('slow', 'time-out'): 1}
  assert found.counted.sum() == 5 and not found.counted[0, 1]
  assert one.score(TEXTS, RECORDS).counted.all()


def test_time_counts_from_the_start_of_a_call_also_if_nobody_waits():
  threads = Threads(1, seconds=0.15)
  calls = threads.submit([lambda: time.sleep(0.3), lambda: 2, lambda: 1 / 0])
  time.sleep(0.4)
  late, good, wrong = map(threads.wait, calls)
  threads.close()
  assert late.late and not good.late and good.value == 2
  assert isinstance(wrong.error, ZeroDivisionError)


@pytest.mark.parametrize('value', ['1', None, [1.0], 1j])
def test_what_is_no_number_fails(scorer, value):
  odd = Reward('odd', lambda text, record: value if text == 'x' else True)
  found = scorer(odd).score(TEXTS, RECORDS)
  assert found.failures == {('odd', 'wrong type'): 1}
  assert found.total.sum() == 5


def test_a_reward_that_only_fails_stops_the_run(scorer):
  broken = Reward('broken', lambda text, record: math.nan)
  with pytest.raises(RewardFailure, match="'broken' failed for every sample"):
    scorer(broken).score(TEXTS, RECORDS)
  # One that is only logged is only counted.
  fine = Reward('fine', lambda text, record: 1.0)
  watched = Reward('broken', lambda text, record: math.nan, 0.0)
  found = scorer(fine, watched).score(TEXTS, RECORDS)
  assert found.counted.all()
  assert found.failures == {('broken', 'not finite'): 6}


class TestGroupReward:
  def test_it_sees_all_prompts(self, scorer):
    def rank(completions, records):
      flat = sorted(len(text) for group in completions for text in group)
      return [[flat.index(len(text)) for text in g] for g in completions]

    found = scorer(GroupReward('rank', rank)).score(TEXTS, RECORDS)
    np.testing.assert_array_equal(found.total, [[3, 0, 0], [5, 0, 3]])

  def test_one_odd_entry_fails_alone(self, scorer):
    odd = lambda completions, records: [[1, 2, math.inf], np.ones(3)]
    found = scorer(GroupReward('odd', odd)).score(TEXTS, RECORDS)
    assert found.failures == {('odd', 'not finite'): 1}
    np.testing.assert_array_equal(found.total, [[1, 2, 0], [1, 1, 1]])

  @pytest.mark.parametrize('value', [[[1.0] * 3], [[1.0] * 2] * 2, 3.0])
  def test_another_shape_fails_for_all(self, scorer, value):
    odd = GroupReward('odd', lambda completions, records: value)
    with pytest.raises(RewardFailure, match='2 rows of 3 numbers'):
      scorer(odd).score(TEXTS, RECORDS)


def test_names_and_weights_are_checked():
  one = Reward('one', number)
  with pytest.raises(ValueError, match='different names'):
    Scorer([one, one])
  with pytest.raises(ValueError, match='a weight'):
    Scorer([Reward('one', number, 0.0)])
