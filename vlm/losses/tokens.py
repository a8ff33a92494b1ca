"""Token losses that never hold the logits [B, T, V] of a whole batch.

The head is applied to `chunk` positions at a time under `lax.scan`, and the
logits of a chunk are recomputed in the backward pass. Chunks run along T, so
that a batch sharded on B stays sharded. Log-softmax is float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class TokenScores(NamedTuple):
  """What the head says of each target; all [B, T].

  Attributes:
    logprob: float32 log-probability of the target, in nats.
    entropy: float32 entropy of the predicted distribution, in nats.
    correct: whether the target is the most likely token.
  """

  logprob: jax.Array
  entropy: jax.Array
  correct: jax.Array


def token_scores(
  hidden: Float[Array, 'B T D'],
  head_kernel: Float[Array, 'D V'],
  targets: Int[Array, 'B T'],
  *,
  chunk: int,
  temperature: float = 1.0,
) -> TokenScores:
  """Scores targets[b, t] under softmax(hidden[b, t] @ head_kernel / temp.).

  Args:
    hidden: last hidden states; the product runs in this dtype with float32
      accumulation.
    head_kernel: output embedding.
    targets: token ids in [0, V).
    chunk: positions per row whose logits are held at once; need not divide T.
    temperature: divides the logits.

  Returns:
    TokenScores; entropy and correctness carry no gradient.
  """
  batch, length, width = hidden.shape
  chunk = min(chunk, length)
  count = -(-length // chunk)
  pad = count * chunk - length
  # Kept in float32 outside the loop, so that the kernel's gradient accumulates
  # over chunks in float32; the product itself runs in hidden's dtype.
  kernel = head_kernel.astype(jnp.float32)

  def split(array):
    padded = jnp.pad(array, ((0, 0), (0, pad)) + ((0, 0),) * (array.ndim - 2))
    shape = (batch, count, chunk, *array.shape[2:])
    return jnp.moveaxis(padded.reshape(shape), 1, 0)

  def body(_, inputs):
    return None, _score(*inputs, kernel, temperature)

  body = jax.checkpoint(body, prevent_cse=False)
  _, scores = jax.lax.scan(body, None, (split(hidden), split(targets)))
  return jax.tree.map(
    lambda x: jnp.moveaxis(x, 0, 1).reshape(batch, -1)[:, :length], scores
  )


def token_logprobs(
  hidden: Float[Array, 'B T D'],
  head_kernel: Float[Array, 'D V'],
  targets: Int[Array, 'B T'],
  *,
  chunk: int,
  temperature: float = 1.0,
) -> Float[Array, 'B T']:
  """Float32 log-probabilities of the targets; see `token_scores`."""
  return token_scores(
    hidden, head_kernel, targets, chunk=chunk, temperature=temperature
  ).logprob


def next_tokens(
  tokens: Int[Array, 'B T'],
  loss_mask: Float[Array, 'B T'],
  segment_ids: Int[Array, 'B T'],
) -> tuple[Int[Array, 'B T'], Float[Array, 'B T']]:
  """Shifts tokens by one inside each packed sample.

  Args:
    tokens: token ids.
    loss_mask: 1 where tokens[:, t] is a supervised target.
    segment_ids: 0 = padding, 1.. = packed samples.

  Returns:
    targets and float32 weights: position t predicts targets[:, t] = tokens[:,
    t + 1]; the weight is 0 where t + 1 is padding, another sample, or outside.
  """
  after = jnp.pad(segment_ids[:, 1:], ((0, 0), (0, 1)))
  same = (after == segment_ids) & (after > 0)
  weights = jnp.pad(loss_mask[:, 1:], ((0, 0), (0, 1)))
  targets = jnp.pad(tokens[:, 1:], ((0, 0), (0, 1)))
  return targets, jnp.where(same, weights, 0).astype(jnp.float32)


def cross_entropy(
  hidden: Float[Array, 'B T D'],
  head_kernel: Float[Array, 'D V'],
  tokens: Int[Array, 'B T'],
  loss_mask: Float[Array, 'B T'],
  segment_ids: Int[Array, 'B T'],
  *,
  chunk: int,
) -> tuple[Float[Array, ''], Float[Array, '']]:
  """Next-token cross-entropy over the supervised tokens.

  Args:
    hidden: last hidden states.
    head_kernel: output embedding.
    tokens: token ids; the shift by one happens here.
    loss_mask: 1 where tokens[:, t] is a supervised target.
    segment_ids: 0 = padding, 1.. = packed samples.
    chunk: positions per row whose logits are held at once.

  Returns:
    (sum in nats, number of supervised tokens), both float32.
  """
  targets, weights = next_tokens(tokens, loss_mask, segment_ids)
  logprob = token_logprobs(hidden, head_kernel, targets, chunk=chunk)
  return -jnp.sum(logprob * weights), jnp.sum(weights)


def _score(hidden, targets, kernel, temperature) -> TokenScores:
  """Scores one chunk; the only place where logits [B, chunk, V] exist."""
  logits = jnp.einsum(
    'BTD,DV->BTV',
    hidden,
    kernel.astype(hidden.dtype),
    preferred_element_type=jnp.float32,
  )
  logits = logits / temperature
  # A masked sum instead of a gather: it shards over the vocabulary.
  ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
  chosen = jnp.sum(jnp.where(ids == targets[..., None], logits, 0), axis=-1)
  normaliser = jax.nn.logsumexp(logits, axis=-1)
  fixed = jax.lax.stop_gradient(logits)
  partition = jax.lax.stop_gradient(normaliser)
  probability = jnp.exp(fixed - partition[..., None])
  return TokenScores(
    logprob=chosen - normaliser,
    entropy=partition - jnp.sum(probability * fixed, axis=-1),
    correct=jax.lax.stop_gradient(chosen) >= jnp.max(fixed, axis=-1),
  )
