"""Stop strings and streams, with tokens that do not respect characters."""

import numpy as np
import pytest
import tokenizers

from vlm.rollout.automaton import FORBIDDEN, TokenAutomaton
from vlm.rollout.sampler import sample
from vlm.rollout.settings import Sampling
from vlm.rollout.stops import StopWatch, cut, first_stop, held_back
from vlm.rollout.stream import stream

EOS = 0
# Bytes of 'é', of a three-byte and of a four-byte character among the tokens.
PIECES = (
  *(b'', b'ab', b'b', b'c', b'\xc3', b'\xa9', b'\xe2', b'\x82', b'\xac'),
  *(b'</', b'a', b'>', b'x</a', b' ', b'\xf0\x9f', b'\x98', b'\x80'),
)


def detokenize(ids):
  """As a byte-level tokenizer: broken characters become U+FFFD."""
  return b''.join(PIECES[i % len(PIECES)] for i in ids).decode(
    'utf-8', 'replace'
  )


def watch_over(rows, stop, *looks):
  """Shows a watch ever longer parts of the rows."""
  tokens = np.zeros((1, len(rows), max(map(len, rows))), np.int32)
  for row, ids in enumerate(rows):
    tokens[0, row, : len(ids)] = ids
  sizes = np.array([[len(ids) for ids in rows]])
  ends = np.zeros(sizes.shape, np.int64)
  watch = StopWatch(stop, detokenize, ends)
  for seen in looks:
    watch.look(tokens, np.minimum(sizes, seen))
  return watch.ends[0].tolist()


@pytest.mark.parametrize('looks', [(99,), (1, 2, 3, 4, 5, 6, 7), (3, 7)])
def test_a_sample_ends_with_the_token_that_completes_the_string(looks):
  rows = [
    [1, 9, 10, 11, 1],  # 'ab' '</' 'a' '>' 'ab'
    [12, 2, 12, 11, 3],  # 'x</a' 'b' 'x</a' '>': begun twice, complete once
    [4, 5, 9, 10, 3, 3],  # the characters of '</ac' are not '</a>'
    [12, 11],
  ]
  assert watch_over(rows, ('</a>',), *looks) == [4, 4, 0, 2]
  # The earliest of several, and a string inside of one token.
  assert watch_over(rows, ('</a>', 'b'), *looks) == [1, 2, 0, 2]
  assert watch_over(rows, ('é',), *looks) == [0, 0, 2, 0]


def test_text_is_cut_in_front_of_the_first_string():
  assert cut('one STOP two END', ('END', 'STOP')) == 'one '
  assert cut('nothing', ('x',)) == 'nothing'
  assert first_stop('aXbY', ('Y', 'X')) == 1
  assert held_back('text </', ('</a>',)) == 2
  assert held_back('text </a', ('</a>', 'text </abc')) == 8
  assert held_back('text', ('</a>',)) == 0


@pytest.fixture(scope='module')
def talk(build, text_prompts):
  model, params = build()

  def run(stop=(), count=40, **more):
    return sample(
      model, params, text_prompts,
      Sampling(count, (EOS, 30, 40, 50), temperature=1.3, stop=stop),
      samples=4, seeds=[1, 2, 3, 4], detokenize=detokenize, **more,
    )  # fmt: skip

  return run


def test_samples_stop_where_they_would_have_passed(talk):
  """Until it stops, a sample says what it says without stop strings."""
  free, stop = talk(), ('c', '</a')
  out = talk(stop)
  reasons = set()
  for place in np.ndindex(out.lengths.shape):
    row, j = place
    size = int(out.lengths[place])
    ids = out.tokens[place][:size].tolist()
    reason = out.reasons[row][j]
    reasons.add(reason)
    assert ids == free.tokens[place][:size].tolist()
    for name in ('model_logprobs', 'sampler_logprobs'):
      got, want = getattr(out, name)[place], getattr(free, name)[place]
      np.testing.assert_array_equal(got[:size], want[:size])
      assert (got[size:] == 0).all()
    assert (out.tokens[place][size:] == EOS).all()
    whole = detokenize(ids[:-1] if reason == 'eos' else ids)
    assert out.texts[row][j] == cut(whole, stop)
    if reason == 'stop':
      assert first_stop(detokenize(ids), stop) >= 0
      assert first_stop(detokenize(ids[:-1]), stop) < 0
    else:
      assert first_stop(whole, stop) < 0
      assert size == free.lengths[place]
  assert {'stop', 'eos'} <= reasons
  assert out.mask.sum() == out.lengths.sum()


def test_stop_strings_are_exact_however_often_one_looks(talk, monkeypatch):
  out = talk(('c', '</a'))
  monkeypatch.setattr('vlm.rollout.sampler.EVERY', 3)
  again = talk(('c', '</a'))
  np.testing.assert_array_equal(again.tokens, out.tokens)
  assert again.texts == out.texts and again.reasons == out.reasons


@pytest.mark.parametrize('stop', [(), ('c',), ('</a>', ' b')])
@pytest.mark.parametrize('every', [1, 4])
def test_the_stream_is_the_text(build, text_prompts, take, stop, every):
  model, params = build()
  settings = Sampling(40, (EOS,), temperature=1.3, stop=stop)
  pieces_seen = 0
  for row in range(2):
    prompt = take(text_prompts, [row])
    for seed in range(3):
      want = sample(
        model, params, prompt, settings, seeds=[seed], detokenize=detokenize
      )
      pieces = list(
        stream(
          model, params, prompt, settings,
          detokenize=detokenize, seed=seed, every=every,
        )
      )  # fmt: skip
      assert ''.join(pieces) == want.texts[0][0]
      assert all(pieces), 'an empty piece'
      pieces_seen += len(pieces)
  assert pieces_seen > 6 or stop


def test_no_piece_holds_half_a_character(build, text_prompts, take):
  """Tokens alternate between the two bytes of one character."""
  model, params = build()

  table = np.full((2, 64), FORBIDDEN)
  table[0, 4], table[1, 5] = 1, 0
  pieces = list(
    stream(
      model, params, take(text_prompts, [0]), Sampling(9, (EOS,)),
      detokenize=detokenize, seed=0, every=1, constraint=TokenAutomaton(table),
    )
  )  # fmt: skip
  assert pieces == ['é', 'é', 'é', 'é', '\ufffd']


def test_a_real_byte_level_decoder_streams_the_same(build, text_prompts, take):
  """tokenizers' own decoder; every byte is a token."""
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, [])
  )
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  decode = lambda ids: tokenizer.decode([7 * i % 256 for i in ids])
  model, params = build()
  settings = Sampling(48, (EOS,), temperature=2.0)
  prompt = take(text_prompts, [3])
  broken = 0
  for seed in range(4):
    want = sample(
      model, params, prompt, settings, seeds=[seed], detokenize=decode
    ).texts[0][0]
    pieces = stream(
      model, params, prompt, settings, detokenize=decode, seed=seed, every=2
    )
    assert ''.join(pieces) == want
    broken += '\ufffd' in want
  assert broken


def test_a_stream_is_of_one_prompt(build, text_prompts):
  model, params = build()
  with pytest.raises(ValueError, match='one prompt, got 4'):
    next(
      stream(
        model, params, text_prompts, Sampling(4, (EOS,)), detokenize=detokenize
      )
    )
