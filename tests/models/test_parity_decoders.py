"""Qwen2, Qwen3, Llama, SmolLM2 and Mistral against published torch classes."""

import dataclasses

import jax
import numpy as np
import pytest

from vlm.models import registry
from vlm.rollout.sampler import sample
from vlm.rollout.settings import Sampling

pytestmark = pytest.mark.parity

VOCAB = 101
SIZES = dict(
  vocab_size=VOCAB, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
  num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=128,
  attn_implementation='eager',
)  # fmt: skip
CASES = {
  'qwen2': ('Qwen2', dict(tie_word_embeddings=False, rope_theta=1e6)),
  'qwen2_tied': ('Qwen2', dict(tie_word_embeddings=True, rope_theta=1e4)),
  'qwen3': (
    'Qwen3',
    dict(tie_word_embeddings=False, rope_theta=1e6, head_dim=16),
  ),
  'smollm2': (
    'Llama',
    dict(tie_word_embeddings=True, rope_theta=1e5, rms_norm_eps=1e-5),
  ),
  'llama': ('Llama', dict(tie_word_embeddings=False, head_dim=12)),
  'mistral': (
    'Mistral',
    dict(rope_theta=1e9, rms_norm_eps=1e-5, head_dim=12, sliding_window=None),
  ),
}
LENGTHS = (13, 7, 1)


@pytest.fixture(scope='module', params=CASES)
def pair(request, torch, randomise, through_disk):
  import transformers

  kind, choices = CASES[request.param]
  config = getattr(transformers, f'{kind}Config')(**(SIZES | choices))
  published = getattr(transformers, f'{kind}ForCausalLM')(config)
  published = randomise(published, attention=2)
  return request.param, published, *through_disk(published)


def padded_prompts(left: bool):
  rng = np.random.default_rng(5)
  tokens = np.zeros((len(LENGTHS), max(LENGTHS)), np.int32)
  mask = np.zeros_like(tokens)
  for row, length in enumerate(LENGTHS):
    place = slice(-length, None) if left else slice(length)
    tokens[row, place] = rng.integers(1, VOCAB, length)
    mask[row, place] = 1
  return tokens, mask


def test_every_layer_and_the_logits(pair, torch, truncate, close):
  name, published, model, params = pair
  tokens, mask = padded_prompts(left=False)
  want = published(
    torch.from_numpy(tokens).long(),
    attention_mask=torch.from_numpy(mask).long(),
    output_hidden_states=True,
  )
  positions = np.tile(np.arange(tokens.shape[1], dtype=np.int32), (3, 1))

  @jax.jit
  def run(params, tokens, positions, segment_ids):
    x = model.embed(params, tokens)
    layers = []
    for depth in range(1, model.config.depth + 1):
      config = dataclasses.replace(model.config, depth=depth)
      part = registry.build(config, model.runtime)
      cut = truncate(params, 'decoder', depth)
      layers.append(part.decode(cut, x, positions, segment_ids)[0])
    return x, layers, model.logits(params, layers[-1])

  x, layers, logits = run(params, tokens, positions, mask)
  real = mask.astype(bool)
  close(f'{name} embeddings', x, want.hidden_states[0], real, 0)
  # The published tuple holds states before the final norm, except the last.
  norm = published.model.norm
  states = [norm(h) for h in want.hidden_states[1:-1]]
  states.append(want.hidden_states[-1])
  assert len(states) == len(layers) == 3
  for depth, (ours, theirs) in enumerate(zip(layers, states), 1):
    close(f'{name} layer {depth}', ours, theirs, real)
  close(f'{name} logits', logits, want.logits, real)


def test_packed_samples_equal_samples_alone(pair, torch, close):
  name, published, model, params = pair
  tokens, _ = padded_prompts(left=False)
  parts = [tokens[row, :length] for row, length in enumerate(LENGTHS)]
  packed = np.concatenate([*parts, np.zeros(3, np.int32)])[None]
  positions = np.concatenate(
    [np.arange(len(p)) for p in parts] + [np.zeros(3)]
  )[None].astype(np.int32)
  segments = np.repeat([1, 2, 3, 0], [*LENGTHS, 3])[None].astype(np.int32)
  batch = {
    'tokens': packed, 'positions': positions, 'segment_ids': segments
  }  # fmt: skip
  run = jax.jit(lambda p, b: model.logits(p, model.hidden(p, b)))
  got = run(params, batch)
  start = 0
  for row, part in enumerate(parts):
    want = published(torch.from_numpy(part)[None].long()).logits
    ours = got[:, start : start + len(part)]
    close(f'{name} packed sample {row}', ours, want)
    start += len(part)


def test_greedy_generation_token_for_token(pair, torch):
  name, published, model, params = pair
  tokens, mask = padded_prompts(left=True)

  def both(eos):
    """32 tokens of each side; what follows the end token is the end token."""
    want = published.generate(
      torch.from_numpy(tokens).long(),
      attention_mask=torch.from_numpy(mask).long(),
      max_new_tokens=32, do_sample=False, eos_token_id=eos, pad_token_id=eos,
    )[:, tokens.shape[1] :].numpy()  # fmt: skip
    prompts = {'tokens': tokens, 'segment_ids': mask}
    greedy = Sampling(32, (eos,), temperature=0)
    got = sample(model, params, prompts, greedy).tokens[:, 0]
    rest = ((0, 0), (0, 32 - want.shape[1]))
    return got, np.pad(want, rest, constant_values=eos)

  got, want = both(0)
  np.testing.assert_array_equal(got, want)
  assert len(np.unique(want)) > 8, 'the test model only repeats itself'
  if name == 'qwen2':
    stop = int(want[0, 5])
    got, want = both(stop)
    np.testing.assert_array_equal(got, want)
    assert (want[0, 6:] == stop).all()


TRAINED = 10  # between the lengths of the prompts


@pytest.fixture(scope='module')
def scaled(torch, randomise, through_disk):
  import transformers

  config = transformers.Qwen2Config(
    **SIZES | dict(max_position_embeddings=TRAINED),
    rope_scaling=dict(rope_type='dynamic', factor=2.0), rope_theta=1e4,
  )  # fmt: skip
  published = randomise(transformers.Qwen2ForCausalLM(config), attention=2)
  return published, *through_disk(published)


def test_dynamic_ntk_below_and_above_the_trained_length(scaled, torch, close):
  """Padded and packed, every sample is what it is when alone."""
  published, model, params = scaled
  assert LENGTHS[0] > TRAINED > LENGTHS[1]
  tokens, mask = padded_prompts(left=False)
  parts = [tokens[row, :length] for row, length in enumerate(LENGTHS)]
  alone = [published(torch.from_numpy(p)[None].long()).logits for p in parts]

  plain = dataclasses.replace(model.config, rope_scaling=None)
  plain = registry.build(plain, model.runtime)

  def run(model, tokens, positions, segment_ids):
    batch = {
      'tokens': tokens, 'positions': positions, 'segment_ids': segment_ids
    }  # fmt: skip
    forward = jax.jit(lambda p, b: model.logits(p, model.hidden(p, b)))
    return np.asarray(forward(params, batch))

  counted = np.arange(tokens.shape[1], dtype=np.int32) * mask
  padded = run(model, tokens, counted, mask)
  packed = run(
    model,
    np.concatenate([*parts, np.zeros(3, np.int32)])[None],
    np.concatenate([*map(np.arange, LENGTHS), np.zeros(3)])[None].astype(int),
    np.repeat([1, 2, 3, 0], [*LENGTHS, 3])[None],
  )
  for row, want in enumerate(alone):
    start, length = sum(LENGTHS[:row]), LENGTHS[row]
    close(f'padded sample {row}', padded[row : row + 1, :length], want)
    close(f'packed sample {row}', packed[:, start : start + length], want)
  unscaled = run(plain, tokens, counted, mask)
  assert np.abs(unscaled[0] - padded[0]).max() > 0.01
  np.testing.assert_array_equal(unscaled[1, : LENGTHS[1]], padded[1, :7])


def test_dynamic_ntk_while_generating(scaled, torch):
  """From below the trained length across it, and from above it."""
  published, model, params = scaled
  tokens, mask = padded_prompts(left=True)
  plain = dataclasses.replace(model.config, rope_scaling=None)
  got, unscaled = (
    sample(
      model, params, {'tokens': tokens, 'segment_ids': mask},
      Sampling(32, (0,), temperature=0),
    ).tokens[:, 0]
    for model in (model, registry.build(plain, model.runtime))
  )  # fmt: skip
  assert (got != unscaled).any(axis=1).all()
  for row, length in enumerate(LENGTHS):
    want = published.generate(
      torch.from_numpy(tokens[row : row + 1, -length:]).long(),
      max_new_tokens=32, do_sample=False, eos_token_id=0, pad_token_id=0,
    )[:, length:].numpy()  # fmt: skip
    want = np.pad(want, ((0, 0), (0, 32 - want.shape[1])))
    np.testing.assert_array_equal(got[row : row + 1], want)
