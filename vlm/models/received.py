"""Attention that each token receives: column means of softmax attention.

    a_s = mean_{n,t} softmax_s(q_tn . k_s / sqrt(H))

over heads n and queries t. What methods that leave out visual tokens rank them
by where a tower has no class token (FlashVID, section 3.1, arXiv 2602.08024).
No form holds all T x T weights: memory grows with T.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Queries of one block, and the most scores it may have over rows and heads.
QUERY_BLOCK = 192
BLOCK_SCORES = 1 << 26


def received(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B T K H'],
  valid: Bool[Array, 'B T'] | None = None,
  impl: str = 'xla',
) -> Float[Array, 'B T']:
  """Attention each token receives, averaged over heads and queries.

  No gradient flows through it: it ranks tokens.

  Args:
    q: queries; N is a multiple of K.
    k: keys.
    valid: tokens that are there; None for all. Others are not attended and
      their queries do not count.
    impl: as in `attention.attention`.

  Returns:
    float32, summing to 1 over the valid tokens of a row; 0 at others.
  """
  q, k = jax.lax.stop_gradient((q, k))
  if valid is None:
    valid = jnp.ones(q.shape[:2], bool)
  return _xla(q, k, valid)


def _xla(q, k, valid):
  """Blocks of queries, one after another, each over all keys."""
  b, t, n, h = q.shape
  kv_heads = k.shape[2]
  size = max(8, min(QUERY_BLOCK, BLOCK_SCORES // (b * n * t)))
  blocks = -(-t // size)
  size = -(-t // blocks)
  padding = blocks * size - t
  q = jnp.pad(q, ((0, 0), (0, padding), (0, 0), (0, 0)))
  q = q.reshape(b, blocks, size, kv_heads, n // kv_heads, h)
  weight = jnp.pad(_query_weight(valid, n), ((0, 0), (0, padding)))
  weight = weight.reshape(b, blocks, size)
  k = k.transpose(0, 2, 1, 3)

  def add(total, block):
    q, weight = block
    scores = jnp.einsum(
      'BKGTH,BKSH->BKGTS',
      q,
      k,
      precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=jnp.float32,
    ) / math.sqrt(h)
    scores = jnp.where(valid[:, None, None, None], scores, -1e30)
    scores = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    share = weight[:, None, None] / scores.sum(axis=-1)
    return total + jnp.einsum(
      'BKGT,BKGTS->BS', share, scores, precision=jax.lax.Precision.HIGHEST
    ), None

  total = jnp.zeros((b, t), jnp.float32)
  xs = q.transpose(1, 0, 3, 4, 2, 5), weight.swapaxes(0, 1)
  if blocks == 1:
    total, _ = add(total, jax.tree.map(lambda x: x[0], xs))
  else:
    total, _ = jax.lax.scan(add, total, xs)
  return jnp.where(valid, total, 0)


def _query_weight(valid, heads: int):
  """What one query of one head counts, float32 [B, T]."""
  count = jnp.maximum(valid.sum(axis=1, keepdims=True), 1)
  return valid / (count * heads).astype(jnp.float32)
