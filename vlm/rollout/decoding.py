"""The device's side of sampling: one jitted prefill, one `while_loop`.

`prefill` encodes each prompt (and its images) once and draws the first token of
its n samples; `decode` goes on until a limit or until all have ended, and may
be called again with a higher limit. Nothing depends on how often: streaming and
stop strings look at the tokens between calls. A compile is made per bucket of
lengths and per `Sampling.compiled()`.

The state is a dict: step, the tokens drawn so far; tokens [B, n, G];
model_logprobs, sampler_logprobs float32 [B, n, G]; done bool [B, n]; lengths
int32 [B, n]; position int32 [B, n] of the token last drawn; cache, see
branches.py; keys [B, n]; seen bool [B, n, V] where a penalty needs it; rules,
the state of a constraint.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from vlm.models import branches
from vlm.models.functional import Params
from vlm.models.partition import constrain
from vlm.rollout import filters
from vlm.rollout.settings import Sampling

State = dict[str, Any]


@functools.partial(
  jax.jit,
  static_argnames=('model', 'settings', 'samples', 'length', 'unstacked'),
)
def prefill(
  model: Any,
  params: Params,
  prompts: dict[str, Any],
  seeds: jax.Array,
  constraint: Any,
  *,
  settings: Sampling,
  samples: int,
  length: int,
  unstacked: bool,
) -> tuple[dict, State]:
  """Encodes prompts and draws the first token of each sample.

  Args:
    model: a description from `registry.build`.
    params: its parameters.
    prompts: tokens, segment_ids [B, P], padded on the left; maybe positions,
      pixels and plan.
    seeds: one per prompt.
    constraint: see automaton.py, or None.
    settings: `Sampling.compiled()`.
    samples: n per prompt.
    length: G, room for new tokens.
    unstacked: whether `decode` gets unstacked parameters.

  Returns:
    The prefix, which `decode` only reads, and the state.
  """
  tokens, segment_ids = prompts['tokens'], prompts['segment_ids']
  rows = len(tokens)
  positions = prompts.get('positions')
  if positions is None:
    positions = jnp.maximum(jnp.cumsum(segment_ids != 0, axis=1) - 1, 0)
  batch = prompts | {'positions': positions.astype(jnp.int32)}
  inputs = model.inputs(params, batch)
  hidden, cache = model.fill(params, inputs)
  cache = branches.begin(cache, samples, length, unstacked)
  positions, real = inputs.positions, inputs.segment_ids != 0
  real = real.reshape(*real.shape, *[1] * (positions.ndim - 2))
  last = jnp.where(real, positions, -1).reshape(rows, -1).max(axis=1)
  spread = lambda x: jnp.broadcast_to(x[:, None], (rows, samples, *x.shape[1:]))
  fill = jnp.full((rows, samples, length), settings.eos_ids[0], jnp.int32)
  state = {
    'step': jnp.zeros((), jnp.int32),
    'tokens': fill,
    'model_logprobs': jnp.zeros(fill.shape, jnp.float32),
    'sampler_logprobs': jnp.zeros(fill.shape, jnp.float32),
    'done': jnp.zeros((rows, samples), bool),
    'lengths': jnp.zeros((rows, samples), jnp.int32),
    'position': spread(last.astype(jnp.int32)),
    'keys': filters.row_keys(seeds, samples),
  }
  vocab = model.decoder_config.vocab_size
  if settings.repetition_penalty != 1:
    state['seen'] = spread(_present(tokens, segment_ids, vocab))
  if constraint is not None:
    state['rules'] = constraint.init(rows, samples)
  prefix, state['cache'] = branches.divided(cache)
  hidden = spread(hidden[:, -1])
  return prefix, _draw(model, params, hidden, state, constraint, settings)


@functools.partial(
  jax.jit, static_argnames=('model', 'settings'), donate_argnames=('state',)
)
def decode(
  model: Any,
  params: Params,
  prefix: dict,
  state: State,
  halted: jax.Array,
  limit: jax.Array,
  constraint: Any,
  *,
  settings: Sampling,
) -> State:
  """Draws tokens until `limit` of them are drawn or every sample has ended.

  Args:
    model: as in `prefill`.
    params: maybe unstacked.
    prefix: of `prefill`.
    state: of `prefill` or the last call; its buffers are given up.
    halted: bool [B, n], samples that the host has ended.
    limit: int32 scalar, tokens of the longest sample; at most G.
    constraint: as in `prefill`.
    settings: as in `prefill`.
  """

  def running(state: State) -> jax.Array:
    return (state['step'] < limit) & ~state['done'].all()

  def advance(state: State) -> State:
    newest = lambda x: jax.lax.dynamic_index_in_dim(
      x, state['step'] - 1, axis=2, keepdims=False
    )
    last = newest(state['tokens'])
    position = state['position'] + 1
    x = model.embed(params, last)
    cache = branches.united(prefix, state['cache'])
    ids = newest(model.said_ids(state['tokens']))
    hidden, cache = model.decode(params, x, position, ids, cache)
    state = state | {'cache': branches.divided(cache)[1], 'position': position}
    return _draw(model, params, hidden, state, constraint, settings)

  state = state | {'done': state['done'] | halted}
  return jax.lax.while_loop(running, advance, state)


def _draw(model, params, hidden, state, constraint, settings) -> State:
  """Appends a token to every sample that has not ended.

  Args:
    hidden: [B, n, D], of each sample's last token.
  """
  step, done = state['step'], state['done']
  hidden = constrain(hidden, 'batch', None, None)
  logits = model.logits(params, hidden)
  # A placeholder that was said would be an image to the trainer.
  allowed = ~model.is_placeholder(jnp.arange(logits.shape[-1])[None])
  if constraint is not None:
    allowed = allowed & constraint.allowed(state['rules'], step)
  scores = filters.scores(logits, settings, state.get('seen'), allowed)
  token = filters.draw(scores, state['keys'], step, settings.temperature)
  raw = filters.logprob(logits, token)
  if settings.temperature == 0:
    tempered = 0 * raw  # certain, and NaN where the model's is
  else:
    tempered = filters.logprob(scores, token)
  token = jnp.where(done, settings.eos_ids[0], token)
  put = lambda name, value: jax.lax.dynamic_update_index_in_dim(
    state[name], value, step, axis=2
  )
  eos = jnp.asarray(settings.eos_ids, jnp.int32)
  new = {
    'step': step + 1,
    'tokens': put('tokens', token),
    'model_logprobs': put('model_logprobs', jnp.where(done, 0, raw)),
    'sampler_logprobs': put('sampler_logprobs', jnp.where(done, 0, tempered)),
    'done': done | (token[..., None] == eos).any(axis=-1),
    'lengths': state['lengths'] + ~done,
  }
  if 'seen' in state:
    rows, samples = jnp.indices(token.shape)
    new['seen'] = state['seen'].at[rows, samples, token].set(True)
  if constraint is not None:
    new['rules'] = constraint.advance(state['rules'], token)
  return state | new


def _present(tokens, segment_ids, vocab: int) -> jax.Array:
  """bool [B, V]: which tokens a prompt holds; padding does not count."""
  rows = jnp.arange(len(tokens))[:, None]
  # Out of range, so dropped.
  tokens = jnp.where(segment_ids != 0, tokens, vocab)
  empty = jnp.zeros((len(tokens), vocab), bool)
  return empty.at[rows, tokens].set(True, mode='drop')
