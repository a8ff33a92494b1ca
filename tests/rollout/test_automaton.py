"""Formats over characters become tables over tokens, and force samples."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from vlm.rollout.automaton import (
  DIGITS,
  FORBIDDEN,
  Run,
  TokenAutomaton,
  compile_format,
)
from vlm.rollout.sampler import sample
from vlm.rollout.settings import Sampling

EOS = 0
NUMBER = [Run(DIGITS, 1, 2), Run('.'), Run(DIGITS, 1, 1)]
PATTERN = r'\d{1,2}\.\d'
# Digits, the point, tokens across their border, and some that never fit.
VOCABULARY = [None, *DIGITS, '.', '12', '3.', '.5', '7.5', '1.x', 'metres', '',
              '...', None, '123']  # fmt: skip
VOCABULARY += ['word'] * (64 - len(VOCABULARY))


def accepts(automaton, ids):
  state = 0
  for token in ids:
    state = automaton.next_state[state, token]
    if state == FORBIDDEN:
      return False
  return True


@pytest.mark.parametrize(
  ('text', 'tokens', 'fits'),
  [
    ('1.2', [2, 11, 3], True),
    ('12.5', [12, 14], True),
    ('17.5', [2, 15], True),
    ('7.5', [15], True),
    ('123', [21], False),
    ('12', [12], False),
    ('.5', [14], False),
    ('1.23', [2, 11, 3, 4], False),
    ('3.3.', [13, 13], False),
  ],
)
def test_tokens_fit_where_their_characters_do(text, tokens, fits):
  automaton = compile_format(NUMBER, VOCABULARY, [EOS])
  assert ''.join(VOCABULARY[t] for t in tokens) == text
  assert bool(re.fullmatch(PATTERN, text)) == fits
  assert accepts(automaton, [*tokens, EOS]) == fits


def test_the_table_is_the_expression_on_every_short_string():
  """Walks of the table against `re`, and every state has a way out."""
  automaton = compile_format(NUMBER, VOCABULARY, [EOS])
  rng = np.random.default_rng(0)
  for _ in range(2000):
    ids = rng.integers(1, 20, rng.integers(1, 5)).tolist()
    texts = [VOCABULARY[i] for i in ids]
    fits = all(texts) and bool(re.fullmatch(PATTERN, ''.join(texts)))
    assert accepts(automaton, [*ids, EOS]) == fits, texts
  assert (automaton.next_state >= 0).any(axis=1).all()


def test_dead_ends_are_cut_off_and_an_impossible_format_is_named():
  # 'ab' can be begun with 'a', but only 'b' would complete it.
  table = compile_format(
    [Run('ax'), Run('b', 0, 1), Run('c')], [None, 'a', 'xc', 'b'], [EOS]
  ).next_state
  assert (table[0] >= 0).tolist() == [False, False, True, False]
  with pytest.raises(ValueError, match='no sequence of tokens spells'):
    compile_format([Run('a'), Run('q')], [None, 'a', 'b'], [EOS])
  with pytest.raises(ValueError, match='least <= most'):
    Run('a', 3, 2)


@pytest.mark.parametrize('temperature', [0, 1.5])
def test_every_sample_has_the_format(build, text_prompts, temperature):
  model, params = build()
  automaton = compile_format(NUMBER, VOCABULARY, [EOS])
  decode = lambda ids: ''.join(VOCABULARY[i] or '' for i in ids)
  run = lambda constraint: sample(
    model,
    params,
    text_prompts,
    Sampling(8, (EOS,), temperature=temperature, top_k=30),
    samples=8,
    seeds=[1, 2, 3, 4],
    detokenize=decode,
    constraint=constraint,
  )
  out = run(automaton)
  texts = [text for row in out.texts for text in row]
  assert all(re.fullmatch(PATTERN, text) for text in texts), texts
  assert {r for row in out.reasons for r in row} == {'eos'}
  free = [text for row in run(None).texts for text in row]
  assert not any(re.fullmatch(PATTERN, text) for text in free)
  if temperature:
    assert len(set(texts)) > 8
    # A forced token is certain; to the model it is as unlikely as it was.
    assert out.sampler_logprobs.max() <= 0
    assert out.model_logprobs.sum() < out.sampler_logprobs.sum() - 10


def test_a_table_without_a_way_out_is_named(build, text_prompts):
  model, params = build()
  table = jnp.full((3, 64), FORBIDDEN).at[0, 2].set(1).at[1, 5].set(2)
  with pytest.raises(ValueError, match='prompt 0, sample 0, new token 2: the'):
    sample(
      model,
      params,
      text_prompts,
      Sampling(8, (EOS,)),
      seeds=[1, 2, 3, 4],
      constraint=TokenAutomaton(table),
    )
