"""Prefill of a Qwen2-0.5B-shaped decoder against transformers on torch.

    JAX_PLATFORMS=cpu PYTHONPATH=. python tests/benchmarks/decoder_prefill.py

Both sides, in float32 on the same cores with the same random weights: 1 x 1024
tokens through all layers, then the logits of the last position. Neither side
keeps a cache; torch runs in inference mode with sdpa attention,
`logits_to_keep=1` and `use_cache=False`.
"""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import side_by_side
import torch
import transformers
from absl import app, flags

ROUNDS = flags.DEFINE_integer('rounds', 10, 'Pairs of measurements.')
DEPTH = flags.DEFINE_integer('depth', 24, 'Layers; fewer for a quick look.')
LENGTH = 1024
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
  model, params = side_by_side.ours(theirs)
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, SHAPE['vocab_size'], (1, LENGTH))
  torch_tokens, jax_tokens = torch.from_numpy(tokens), jnp.asarray(tokens)

  @jax.jit
  def prefill(params, tokens):
    x = model.embed(params, tokens)
    positions = jnp.arange(LENGTH)[None]
    hidden, _ = model.decode(params, x, positions, jnp.ones_like(tokens))
    return model.logits(params, hidden[:, -1:])

  layers = sum(p.size for p in jax.tree.leaves(params['decoder']['layers']))
  attention = DEPTH.value * SHAPE['hidden_size'] * 4 * LENGTH**2 / 2
  side_by_side.compare(
    lambda: prefill(params, jax_tokens),
    lambda: theirs(torch_tokens, logits_to_keep=1, use_cache=False).logits,
    ROUNDS.value,
    2 * LENGTH * layers + attention,
  )


if __name__ == '__main__':
  logging.disable(logging.INFO)
  app.run(main)
