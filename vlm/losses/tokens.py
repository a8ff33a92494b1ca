"""Token losses that never hold the logits [B, T, V] of a whole batch.

The head is applied to one block of the vocabulary at a time, under `lax.scan`
with a running log-sum-exp, and blocks are recomputed in the backward pass. Over
blocks of positions instead, a kernel sharded over fsdp would be gathered, and
its gradient reduced, once per block; here each part of it crosses the network
once per pass. Softmax is float32, and kernel gradients accumulate in float32.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.shard_alike import shard_alike
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
    hidden: last hidden states; products run in this dtype with float32
      accumulation.
    head_kernel: output embedding.
    targets: token ids in [0, V).
    chunk: memory bound: never more logits at once than those of `chunk`
      positions per row, B * chunk * V; need not divide T.
    temperature: divides the logits, a Python number.

  Returns:
    TokenScores; log-probabilities and entropies are differentiable in hidden
    and head_kernel (reverse mode, first order).
  """
  blocks = _block_count(hidden.shape[1], chunk, head_kernel.shape[1])
  return TokenScores(
    *_scores(hidden, head_kernel, targets, blocks, float(temperature))
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


def _block_count(length: int, chunk: int, vocab: int) -> int:
  """Blocks of the vocabulary that bound memory; a divisor of V if near."""
  if chunk < 1:
    raise ValueError(f'loss chunk {chunk}, expected a positive number')
  wanted = min(vocab, -(-length // chunk))
  near = (n for n in range(wanted, 2 * wanted) if vocab % n == 0)
  return next(near, wanted)


def _split_kernel(kernel, blocks: int, dtype):
  """[D, V] -> [blocks, D, V / blocks]; block i holds ids i, i + blocks, ...

  Strided, so that a kernel sharded along V is dealt out without moving.
  """
  width, vocab = kernel.shape
  kernel = jnp.pad(kernel.astype(dtype), ((0, 0), (0, -vocab % blocks)))
  return jnp.moveaxis(kernel.reshape(width, -1, blocks), 2, 0)


def _join_kernel(pieces, vocab: int):
  """Inverse of `_split_kernel`."""
  joined = jnp.moveaxis(pieces, 0, 2)
  return joined.reshape(joined.shape[0], -1)[:, :vocab]


def _block_logits(hidden, piece, targets, index, blocks, vocab, temperature):
  """Float32 logits [B, T, V / blocks] of one block, and where the target is."""
  logits = jnp.einsum(
    'BTD,DV->BTV', hidden, piece, preferred_element_type=jnp.float32
  )
  ids = index + blocks * jnp.arange(piece.shape[1], dtype=jnp.int32)
  # Finite, because it meets probability 0 in a product.
  logits = jnp.where(ids < vocab, logits / temperature, -1e30)
  return logits, ids == targets[..., None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _scores(hidden, kernel, targets, blocks: int, temperature: float):
  """(logprob, entropy, correct), each [B, T]."""
  return _scores_forward(hidden, kernel, targets, blocks, temperature)[0]


def _scores_forward(hidden, kernel, targets, blocks, temperature):
  """Running log-sum-exp over blocks of the vocabulary."""
  vocab = kernel.shape[1]

  def body(carry, inputs):
    top, total, moment, chosen = carry
    index, piece = inputs
    logits, hit = _block_logits(
      hidden, piece, targets, index, blocks, vocab, temperature
    )
    highest = jnp.maximum(top, jnp.max(logits, axis=-1))
    mass = jnp.exp(logits - highest[..., None])
    scale = jnp.exp(top - highest)
    total = total * scale + jnp.sum(mass, axis=-1)
    moment = moment * scale + jnp.sum(mass * logits, axis=-1)
    # A masked sum instead of a gather: it shards over the vocabulary.
    chosen = chosen + jnp.sum(jnp.where(hit, logits, 0), axis=-1)
    return (highest, total, moment, chosen), None

  zeros = jnp.zeros(targets.shape, jnp.float32)
  pieces = _split_kernel(kernel, blocks, hidden.dtype)
  (top, total, moment, chosen), _ = jax.lax.scan(
    body, (zeros - jnp.inf, zeros, zeros, zeros), (jnp.arange(blocks), pieces)
  )
  normaliser = top + jnp.log(total)
  entropy = normaliser - moment / total
  scores = (chosen - normaliser, entropy, chosen >= top)
  return scores, (hidden, kernel, targets, normaliser, entropy)


def _scores_backward(blocks, temperature, saved, cotangents):
  """Recomputes each block's logits; its kernel gradient is complete at once.

  d logprob / d logit_v = [v = target] - p_v and
  d entropy / d logit_v = -p_v (log p_v + entropy).
  """
  hidden, kernel, targets, normaliser, entropy = saved
  by_logprob, by_entropy = (c[..., None] for c in cotangents[:2])
  vocab = kernel.shape[1]

  def body(total, inputs):
    index, piece = inputs
    logits, hit = _block_logits(
      hidden, piece, targets, index, blocks, vocab, temperature
    )
    log_p = logits - normaliser[..., None]
    p = jnp.exp(log_p)
    slope = by_logprob * (hit - p)
    slope = slope - by_entropy * p * (log_p + entropy[..., None])
    slope = (slope / temperature).astype(hidden.dtype)
    total = total + jnp.einsum(
      'BTV,DV->BTD', slope, piece, preferred_element_type=jnp.float32
    )
    d_piece = jnp.einsum(
      'BTD,BTV->DV', hidden, slope, preferred_element_type=jnp.float32
    )
    return total, shard_alike(d_piece, piece)[0]

  pieces = _split_kernel(kernel, blocks, hidden.dtype)
  d_hidden, d_pieces = jax.lax.scan(
    body,
    jnp.zeros(hidden.shape, jnp.float32),
    (jnp.arange(blocks), pieces),
  )
  d_kernel = _join_kernel(d_pieces, vocab).astype(kernel.dtype)
  return d_hidden.astype(hidden.dtype), d_kernel, None


_scores.defvjp(_scores_forward, _scores_backward)
