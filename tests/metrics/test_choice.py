"""Credit of answers, and intervals of means over groups, by hand."""

import numpy as np
import pytest

from vlm.metrics import bootstrap, choice


def test_credit():
  given = dict(
    choices=[1, 0, None, 2, None],
    answers=[1, 1, 0, 2, 3],
    options=[4, 4, 4, 5, 2],
    shown=[True, True, True, False, False],
  )
  np.testing.assert_array_equal(choice.credit(**given), [1, 0, 0, 0, 0])
  np.testing.assert_array_equal(
    choice.credit(**given, invalid='chance'), [1, 0, 0.25, 0, 0]
  )
  with pytest.raises(ValueError, match='longer'):
    choice.credit([1], [1, 2], [4, 4], [True, True])


def test_groups_keep_their_order():
  found = choice.by_group(np.array([1.0, 0, 1, 1]), ['s', 'l', 's', 'l'])
  assert list(found.items()) == [('s', (1.0, 2)), ('l', (0.5, 2))]


def test_groups_count_alike_and_videos_stay_together():
  values, groups = [1, 1, 1, 0], ['a', 'a', 'a', 'b']
  # One video to a group: nothing can be drawn but what is there.
  sure = bootstrap.macro_interval(values, ['v', 'v', 'v', 'w'], groups)
  assert sure == (0.5, 0.5, 0.5)
  # The two videos of a group are all right and all wrong: its mean is 0, 1/2
  # or 1 with a chance of 1/4, 1/2 and 1/4.
  wide = bootstrap.macro_interval(
    [1, 1, 0, 0, 1], [0, 0, 1, 1, 2], list('aaaab')
  )
  assert wide.mean == 0.75 and (wide.low, wide.high) == (0.5, 1.0)
