"""Logits to the distribution that is sampled, and a draw from it.

Semantics of transformers' logits processors; float32 [..., V], forbidden tokens
are -inf. Where logits tie at a border, all of them stay.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

from vlm.rollout.settings import Sampling


def penalise(
  logits: Float[Array, '... V'],
  seen: Bool[Array, '... V'],
  penalty: float | int,
) -> Float[Array, '... V']:
  """Makes tokens that were seen less likely (penalty > 1)."""
  scaled = jnp.where(logits < 0, logits * penalty, logits / penalty)
  return jnp.where(seen, scaled, logits)


def keep(
  logits: Float[Array, '... V'], top_k: int, top_p: float | int
) -> Float[Array, '... V']:
  """Forbids all but the `top_k` likeliest, then all but the nucleus.

  The nucleus holds the fewest likeliest tokens whose probabilities (among those
  top-k kept) sum to at least `top_p`.
  """
  vocab = logits.shape[-1]
  if top_k in range(1, vocab):
    ranked = jax.lax.top_k(logits, top_k)[0]
  elif top_p < 1:
    ranked = jnp.sort(logits, axis=-1, descending=True)
  else:
    return logits
  border = ranked[..., -1:]
  if top_p < 1:
    p = jax.nn.softmax(ranked, axis=-1)
    # What lies at or behind a token; out where that is the tail beyond top_p.
    tail = jnp.cumsum(p[..., ::-1], axis=-1)[..., ::-1]
    kept = (tail > 1 - top_p).at[..., 0].set(True)
    border = jnp.min(jnp.where(kept, ranked, jnp.inf), axis=-1, keepdims=True)
  return jnp.where(logits < border, -jnp.inf, logits)


def scores(
  logits: Float[Array, '... V'],
  settings: Sampling,
  seen: Bool[Array, '... V'] | None = None,
  allowed: Bool[Array, '... V'] | None = None,
) -> Float[Array, '... V']:
  """Logits of the distribution that is sampled.

  Args:
    logits: of the model, float32.
    settings: which filters apply; temperature 0 leaves out all but the penalty.
    seen: tokens the repetition penalty applies to.
    allowed: tokens a constraint permits; applied before top-k and top-p, which
      therefore choose among permitted tokens.
  """
  if seen is not None:
    logits = penalise(logits, seen, settings.repetition_penalty)
  if allowed is not None:
    logits = jnp.where(allowed, logits, -jnp.inf)
  if settings.temperature == 0:
    return logits
  return keep(logits / settings.temperature, settings.top_k, settings.top_p)


def draw(
  scores: Float[Array, 'B n V'],
  keys: Array,
  step: Int[Array, ''],
  temperature: float | int,
) -> Int[Array, 'B n']:
  """A token per row, by its own key: the others do not matter.

  argmax(scores + Gumbel noise) is a draw from softmax(scores).

  Args:
    scores: of `scores`.
    keys: typed keys [B, n].
    step: folded into each key.
    temperature: 0 takes the largest score.
  """
  if temperature > 0:
    noise = lambda key: jax.random.gumbel(
      jax.random.fold_in(key, step), scores.shape[-1:], jnp.float32
    )
    scores = scores + jax.vmap(jax.vmap(noise))(keys)
  return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def row_keys(seeds: Integer[Array, 'B'], samples: int) -> Array:
  """Typed keys [B, n]: sample j of a prompt folds j into the prompt's seed."""
  one = lambda seed: jax.random.key(seed, impl='threefry2x32')
  fold = lambda seed: jax.vmap(
    lambda sample: jax.random.fold_in(one(seed), sample)
  )(jnp.arange(samples))
  return jax.vmap(fold)(seeds.astype(jnp.uint32))


def logprob(
  logits: Float[Array, '... V'], tokens: Int[Array, '...']
) -> Float[Array, '...']:
  """log softmax(logits) at the tokens, in nats."""
  chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  return chosen - jax.nn.logsumexp(logits, axis=-1)
