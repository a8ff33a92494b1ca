"""Choices are checked where they are made; prompts get one of few lengths."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlm.rollout.settings import Buckets, Sampling


@pytest.mark.parametrize(
  ('choice', 'message'),
  [
    (dict(max_new_tokens=0), r'max_new_tokens=0, expected at least 1'),
    (dict(eos_ids=()), r'eos_ids=\(\), expected at least one id'),
    (dict(temperature=-1), 'temperature=-1, expected at least 0'),
    (dict(top_k=-1), 'top_k=-1'),
    (dict(top_p=0.0), r'top_p=0.0, expected in \(0, 1\]'),
    (dict(repetition_penalty=0), 'repetition_penalty=0, expected above 0'),
    (dict(stop=('a', '')), 'stop=.*expected texts that are not empty'),
  ],
)
def test_a_wrong_setting_is_named(choice, message):
  with pytest.raises(ValueError, match=message):
    Sampling(**(dict(max_new_tokens=4, eos_ids=(0,)) | choice))


def prompts(lengths, width, parts=()):
  segments = np.zeros((len(lengths), width), np.int32)
  for row, length in enumerate(lengths):
    segments[row, width - length :] = 1
  tokens = segments * np.arange(1, width + 1, dtype=np.int32)
  positions = np.broadcast_to(
    tokens.reshape(*tokens.shape, *[1] * len(parts)), (*tokens.shape, *parts)
  )
  return {
    'tokens': tokens, 'segment_ids': segments, 'positions': positions,
    'pixels': np.zeros((len(lengths), 2)),
  }  # fmt: skip


@pytest.mark.parametrize('parts', [(), (3,)])
def test_prompts_get_the_smallest_bucket(parts):
  buckets = Buckets(prompt=(4, 8, 16))
  for lengths, width, size in (
    ((3, 5), 12, 8),
    ((4, 1), 4, 4),
    ((4, 1), 3 + 1, 4),
    ((9,), 9, 16),
  ):
    batch = prompts(lengths, width, parts)
    got = buckets.fit(batch)
    assert got['tokens'].shape == (len(lengths), size)
    assert got['positions'].shape == (len(lengths), size, *parts)
    assert got['pixels'] is batch['pixels']
    for row, length in enumerate(lengths):
      for key in ('tokens', 'segment_ids', 'positions'):
        np.testing.assert_array_equal(
          got[key][row, -length:], batch[key][row, -length:]
        )
      assert not got['segment_ids'][row, :-length].any()
  # On devices nothing is looked at: only the width counts.
  placed = {k: jnp.asarray(v) for k, v in prompts((2,), 7).items()}
  assert buckets.fit(placed)['tokens'].shape == (1, 8)


def test_padding_on_the_right_is_refused():
  batch = prompts((3, 3), 6)
  batch['segment_ids'][1] = [0, 1, 1, 1, 0, 0]
  with pytest.raises(ValueError, match='row 1: padding .* after the prompt'):
    Buckets().fit(batch)


def test_lengths_and_texts_do_not_compile_again():
  one = Sampling(7, (0,), stop=('a',)).compiled()
  assert one == Sampling(90, (0,)).compiled()
  assert one != Sampling(90, (0,), top_k=3).compiled()
