"""Scores once the image is gone: does the text alone carry them?

Rows end with the tag behind which the answer stands; the reasoning is what the
model wrote while it saw the image. Three ways to go on:

  seen       nothing is removed
  masked     from the last token of the tag on, no key of the image is visible;
             hidden states of the reasoning still carry what they saw
  text only  `rows.without_image` encodes prompt and reasoning anew, then as
             `seen`: the only way in which the text is all there is
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from vlm.models.functional import Params
from vlm.models.visual import VisionLanguageModel


class Answers(NamedTuple):
  """Greedy continuations.

  Attributes:
    tokens: int32 [B, G]; behind an end stands the first of the EOS ids.
    logprobs: float32 [B, G], of each token; 0 behind an end.
    strayed: bool [B, G], the likeliest token was not allowed.
  """

  tokens: jax.Array
  logprobs: jax.Array
  strayed: jax.Array


@functools.partial(
  jax.jit, static_argnames=('model', 'length', 'eos_ids', 'masked')
)
def answers(
  model: VisionLanguageModel,
  params: Params,
  batch: Mapping[str, Any],
  *,
  length: int,
  eos_ids: tuple[int, ...],
  masked: bool = False,
  allowed: Bool[Array, 'G V'] | None = None,
) -> Answers:
  """The likeliest answer behind each row, token by token.

  Args:
    model: a VLM without pruning transforms.
    params: its parameters.
    batch: of `rows.continued`, with pixels and plan where there is an image.
    length: G.
    eos_ids: what ends an answer.
    masked: hide the keys of placeholders from the last token of the rows, and
      from all that follow.
    allowed: tokens among which each is the likeliest; a model that loses the
      shape of an answer without its image may still know the score.
  """
  inputs = model.inputs(params, dict(batch))
  rows, slots = inputs.segment_ids.shape
  cache = model.init_cache(rows, slots + length)
  before = lambda x, axis=1: jax.lax.slice_in_dim(x, 0, slots - 1, axis=axis)
  deepstack = inputs.deepstack
  _, cache = model.decode(
    params,
    *(before(x) for x in inputs[:3]),
    cache,
    None if deepstack is None else before(deepstack, 2),
  )
  if masked:
    image = inputs.of(model.is_placeholder(batch['tokens']))
    image = jnp.pad(image, ((0, 0), (0, length)))
    ids = cache['segment_ids']
    cache = cache | {'segment_ids': jnp.where(image, 0, ids)}
  # What follows sees what the last token of the rows sees.
  positions, own = inputs.positions, inputs.segment_ids[:, -1:]
  x, where = inputs.x[:, -1:], positions[:, -1:]
  hidden, cache = model.decode(params, x, where, own, cache)
  last = positions.reshape(rows, -1).max(axis=1)[:, None]

  def step(carry, now):
    hidden, cache, done = carry
    number, among = now
    token, logprob, strayed = _likeliest(model, params, hidden, among)
    token = jnp.where(done, eos_ids[0], token)
    logprob, strayed = jnp.where(done, 0, logprob), strayed & ~done
    said = token[:, 0], logprob[:, 0], strayed[:, 0]
    done |= jnp.isin(token, jnp.asarray(eos_ids))
    x = model.embed(params, token)
    hidden, cache = model.decode(params, x, last + 1 + number, own, cache)
    return (hidden, cache, done), said

  start = hidden, cache, jnp.zeros((rows, 1), bool)
  if allowed is None:
    allowed = jnp.ones((length, model.decoder_config.vocab_size), bool)
  _, said = jax.lax.scan(step, start, (jnp.arange(length), allowed))
  return Answers(*(x.T for x in said))


def _likeliest(model, params, hidden, among) -> tuple[jax.Array, ...]:
  """Token [B, 1], its log-probability, and whether another was likelier.

  Placeholders are never said.
  """
  logits = model.logits(params, hidden)
  placeholder = model.is_placeholder(jnp.arange(logits.shape[-1])[None])
  sayable = jnp.where(placeholder, -jnp.inf, logits)
  token = jnp.where(among, sayable, -jnp.inf).argmax(axis=-1)
  strayed = token != sayable.argmax(axis=-1)
  logprobs = jax.nn.log_softmax(logits, axis=-1)
  logprob = jnp.take_along_axis(logprobs, token[..., None], -1)[..., 0]
  return token.astype(jnp.int32), logprob, strayed
