"""A measurement that was killed asks nothing twice."""

import pytest

from experiments.journal import Journal, progress


def _never():
  raise AssertionError('asked twice')


def test_goes_on_where_it_was(tmp_path):
  path = tmp_path / 'run' / 'measured.jsonl'
  assert progress(path) == ''
  first = Journal(path, total=3)
  assert first.value(('a', 0.1), lambda: (1.5, 'x')) == [1.5, 'x']
  assert first.value(('a', 0.1), _never) == [1.5, 'x']
  with pytest.raises(AssertionError):
    first.value(('b', 1), _never)
  again = Journal(path, total=3)
  assert again.value(('a', 0.1), _never) == [1.5, 'x']
  assert again.value(('b', 1), lambda: None) is None
  assert Journal(path, total=3).value(('b', 1), _never) is None
  assert progress(path) == '2 of 3'
