"""Greedy generation: one prefill, one `while_loop` decode, a static cache."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from vlm.models.functional import Params


@functools.partial(
  jax.jit, static_argnames=('model', 'max_new_tokens', 'eos_ids')
)
def generate(
  model: Any,
  params: Params,
  tokens: Int[Array, 'B T'],
  segment_ids: Int[Array, 'B T'],
  *,
  max_new_tokens: int,
  eos_ids: tuple[int, ...],
  pixels: jax.Array | None = None,
  plan: dict[str, jax.Array] | None = None,
  positions: Int[Array, 'B T ...'] | None = None,
) -> Int[Array, 'B G']:
  """Continues each prompt with its most probable tokens.

  Args:
    model: a description from `registry.build` (static: one compile each).
    params: its parameters.
    tokens: prompts, padded on the LEFT so that all rows end together.
    segment_ids: 1 on the prompt, 0 on the padding.
    max_new_tokens: G.
    eos_ids: a row stops after producing one of these.
    pixels: tiles or patches, for prompts with images.
    plan: with `pixels`; see data/pipeline.py.
    positions: of the prompts, where the checkpoint has M-RoPE; by default they
      are counted.

  Returns:
    int32 [B, G]: the new tokens, ending in an EOS id where one was produced
    and filled with the first EOS id after it.
  """
  rows, length = tokens.shape
  cache = model.init_cache(rows, length + max_new_tokens)
  if positions is None:
    positions = jnp.maximum(jnp.cumsum(segment_ids, axis=1) - 1, 0)
  prompt = {
    'tokens': tokens, 'positions': positions, 'segment_ids': segment_ids
  }  # fmt: skip
  if pixels is not None:
    prompt |= {'pixels': pixels, 'plan': plan}
  hidden, cache = model.forward(params, prompt, cache)
  eos = jnp.asarray(eos_ids, jnp.int32)
  pick = lambda hidden: jnp.argmax(
    model.logits(params, hidden[:, -1:])[:, 0], axis=-1
  ).astype(jnp.int32)
  out = jnp.full((rows, max_new_tokens), eos[0], jnp.int32)
  first = pick(hidden)

  def running(state):
    step, done = state[0], state[1]
    return (step < max_new_tokens) & ~done.all()

  def advance(state):
    step, done, last, position, cache, out = state
    out = out.at[:, step].set(jnp.where(done, eos[0], last))
    done = done | (last[:, None] == eos).any(axis=1)
    x = model.embed(params, last[:, None])
    ids = jnp.ones((rows, 1), jnp.int32)
    hidden, cache = model.decode(params, x, position[:, None], ids, cache)
    return step + 1, done, pick(hidden), position + 1, cache, out

  state = (
    jnp.zeros((), jnp.int32),
    jnp.zeros((rows,), bool),
    first,
    positions.reshape(rows, -1).max(axis=1) + 1,
    cache,
    out,
  )
  return jax.lax.while_loop(running, advance, state)[-1]
