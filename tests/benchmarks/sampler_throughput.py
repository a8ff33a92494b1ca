"""Greedy sampling of a Qwen2-0.5B shape against `transformers.generate`.

    JAX_PLATFORMS=cpu PYTHONPATH=. python tests/benchmarks/sampler_throughput.py

Both sides, in float32 on the same cores with the same random weights: 8 prompts
of 128 tokens, 64 new tokens each, and the tokens must be equal. Our side lays
the weights out anew in every call (`prepare`), as it must when they change from
call to call; `--prepared` does it once, as an evaluation does. torch runs in
inference mode with sdpa attention and its default (dynamic) cache.
"""

import logging

import jax.numpy as jnp
import numpy as np
import side_by_side
import torch
import transformers
from absl import app, flags

from vlm.models.functional import Runtime
from vlm.rollout.sampler import prepare, sample
from vlm.rollout.settings import Sampling

ROUNDS = flags.DEFINE_integer('rounds', 6, 'Pairs of measurements.')
DEPTH = flags.DEFINE_integer('depth', 24, 'Layers; fewer for a quick look.')
PREPARED = flags.DEFINE_bool('prepared', False, 'Lay weights out only once.')
UNROLL = flags.DEFINE_bool('unroll', True, 'Decode with unstacked layers.')
ROWS, PROMPT, NEW = 8, 128, 64
SHAPE = dict(
  vocab_size=151936,
  hidden_size=896,
  num_attention_heads=14,
  num_key_value_heads=2,
  intermediate_size=4864,
  tie_word_embeddings=True,
)


def main(argv):
  del argv
  theirs = side_by_side.published(
    transformers.Qwen2ForCausalLM,
    transformers.Qwen2Config(num_hidden_layers=DEPTH.value, **SHAPE),
  )
  model, params = side_by_side.ours(theirs, Runtime(unroll=UNROLL.value))
  weights = prepare(model, params) if PREPARED.value else params
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, SHAPE['vocab_size'], (ROWS, PROMPT))
  prompts = {
    'tokens': tokens.astype(np.int32),
    'segment_ids': np.ones(tokens.shape, np.int32),
  }
  never = SHAPE['vocab_size'] - 1
  settings = Sampling(NEW, (never,), temperature=0)
  torch_tokens = torch.from_numpy(tokens)
  given = dict(
    attention_mask=torch.ones_like(torch_tokens),
    do_sample=False,
    max_new_tokens=NEW,
    eos_token_id=never,
    pad_token_id=never,
  )
  size = sum(value.numel() for value in theirs.parameters())
  pairs = side_by_side.compare(
    lambda: jnp.asarray(sample(model, weights, prompts, settings).tokens[:, 0]),
    lambda: theirs.generate(torch_tokens, **given)[:, PROMPT:],
    ROUNDS.value,
    2 * size * ROWS * (PROMPT + NEW),
  )
  for side, name in enumerate(('ours', 'torch')):
    wall = np.median([pair[side][0] for pair in pairs])
    print(f'{name}: {ROWS * NEW / wall:.1f} new tokens per second')


if __name__ == '__main__':
  logging.disable(logging.INFO)
  app.run(main)
