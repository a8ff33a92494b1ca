"""The one attention door.

Masks are derived from segment ids and slot order, never passed around as
[B, T, S] arrays. Query heads are grouped over kv-heads, never tiled.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as splash_kernel,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as splash_mask,
)
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from vlm.models import partition

# Flags that a segment id may carry: keys of visual tokens, and queries that do
# not see them (vlm/methods/rali/bottleneck.py). Ids themselves are smaller.
VISUAL, BLIND = 1 << 28, 1 << 29
# Below this length the T x S scores are small and XLA fuses them well.
SPLASH_MIN_LENGTH = 1024
# The TPU kernel tiles queries and keys in blocks of whole lanes.
SPLASH_BLOCK = 512
# Without the kernel, queries go in blocks: their scores stay in a cache, and
# keys after a causal block are left out. Shorter blocks cost TPU training more
# traffic for the gradients of keys; more blocks make the program long.
QUERY_BLOCK = 256
QUERY_BLOCKS = 8


def attention(
  q: Float[Array, 'B T N H'],
  k: Float[Array, 'B S K H'],
  v: Float[Array, 'B S K H'],
  *,
  segment_ids: tuple[Int[Array, 'B T'], Int[Array, 'B S']] | None = None,
  causal: bool = False,
  q_offset: Int[Array, ''] | int = 0,
  impl: str = 'xla',
) -> Float[Array, 'B T N H']:
  """Softmax attention, scaled by 1/sqrt(H).

  A query sees a key when both have the same segment id and, if `causal`, the
  key's slot is not after the query's: with two packed samples (segments 1, 2)
  and one padding slot (0),

      segment  1 1 2 2 0      slot    0 1 2 3 4
      query 0  x . . . .      query 2 sees only slot 2,
      query 1  x x . . .      the first of its own sample
      query 2  . . x . .
      query 3  . . x x .
      query 4  . . . . x      padding sees padding, so no row is empty

  Args:
    q: queries; N is a multiple of K.
    k: keys.
    v: values.
    segment_ids: ids of the queries and of the keys; None means all see all.
    causal: compare slots (query t stands at slot q_offset + t).
    q_offset: first query's slot among the keys, for decoding with a cache.
    impl: 'xla', 'splash' (the TPU kernel, for whole sequences), or 'auto'
      (splash where this process computes on TPU; a compile for a TPU that is
      elsewhere names 'splash').

  Returns:
    The attended values, in q's dtype.
  """
  if impl == 'auto':
    impl = 'splash' if jax.default_backend() == 'tpu' else 'xla'
  if impl == 'splash' and q.shape[1] == k.shape[1] >= SPLASH_MIN_LENGTH:
    return _splash(q, k, v, segment_ids, causal)
  return _xla(q, k, v, segment_ids, causal, q_offset)


def sees(q_ids: Int[Array, '...'], kv_ids: Int[Array, '...']) -> jax.Array:
  """Whether a query sees a key by their segment ids, which broadcast.

  Ids of one segment do, but for a query marked `BLIND` and a key marked
  `VISUAL`; the TPU kernel knows no marks.
  """
  of = lambda ids: ids & (VISUAL - 1)
  visual = (kv_ids >= VISUAL) & (kv_ids < BLIND)
  return (of(q_ids) == of(kv_ids)) & ~((q_ids >= BLIND) & visual)


def scores_mask(segment_ids, causal, q_offset, queries: int, keys: int):
  """Boolean mask [B or 1, T, S], or None when every query sees every key."""
  mask = None
  if segment_ids is not None:
    q_ids, kv_ids = segment_ids
    mask = sees(q_ids[:, :, None], kv_ids[:, None, :])
  if causal:
    slots = q_offset + jnp.arange(queries)
    order = (slots[:, None] >= jnp.arange(keys)[None, :])[None]
    mask = order if mask is None else mask & order
  return mask


def _xla(q, k, v, segment_ids, causal, q_offset):
  """Attends in blocks of queries, each over the keys it may see.

  Heads come before slots here: transposing the inputs once is cheap, while
  products in the callers' layout make the compiler transpose the scores.
  """
  b, t, n, h = q.shape
  keys, kv_heads = k.shape[1:3]
  q = (q * jnp.asarray(1 / math.sqrt(h), q.dtype)).reshape(
    b, t, kv_heads, n // kv_heads, h
  )
  q = q.transpose(0, 2, 3, 1, 4)
  k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
  # Of a traced offset nothing is known yet: every key may be visible.
  trim = causal and isinstance(q_offset, int)
  size = max(QUERY_BLOCK, -(-t // QUERY_BLOCKS))
  blocks = []
  for start in range(0, t, size):
    stop = min(start + size, t)
    seen = min(q_offset + stop, keys) if trim else keys
    ids = None
    if segment_ids is not None:
      ids = segment_ids[0][:, start:stop], segment_ids[1][:, :seen]
    mask = scores_mask(ids, causal, q_offset + start, stop - start, seen)
    blocks.append(
      _attend(q[:, :, :, start:stop], k[:, :, :seen], v[:, :, :seen], mask)
    )
  out = jnp.concatenate(blocks, axis=3) if len(blocks) > 1 else blocks[0]
  return out.transpose(0, 3, 1, 2, 4).reshape(b, t, n, h)


def _attend(q, k, v, mask):
  """q [B, K, G, T, H], scaled; k, v [B, K, S, H]; mask [B or 1, T, S]."""
  scores = jnp.einsum(
    'BKGTH,BKSH->BKGTS', q, k, preferred_element_type=jnp.float32
  )
  if mask is not None:
    scores = jnp.where(mask[:, None, None], scores, -1e30)
  # The shift cancels; the sum divides H outputs instead of S weights.
  shift = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
  weights = jnp.exp(scores - shift)
  out = jnp.einsum(
    'BKGTS,BKSH->BKGTH',
    weights.astype(v.dtype),
    v,
    preferred_element_type=jnp.float32,
  )
  return (out / weights.sum(axis=-1, keepdims=True)).astype(v.dtype)


def last_row(
  q: Float[Array, 'B 1 N H'],
  k: Float[Array, 'B T K H'],
  segment_ids: Int[Array, 'B T'],
) -> Float[Array, 'B N T']:
  """Attention that the last token gives, per head; float32.

  The last row of the softmax weights: softmax_s(q_T k_s / sqrt(H)) over the
  tokens of its segment.
  """
  b, _, n, h = q.shape
  t, kv_heads = k.shape[1:3]
  q = q.reshape(b, kv_heads, n // kv_heads, h)
  scores = jnp.einsum(
    'BKGH,BSKH->BKGS', q, k, preferred_element_type=jnp.float32
  )
  seen = sees(segment_ids[:, -1:], segment_ids)
  scores = jnp.where(seen[:, None, None], scores / math.sqrt(h), -jnp.inf)
  return jax.nn.softmax(scores, axis=-1).reshape(b, n, t)


def _splash(q, k, v, segment_ids, causal):
  """Runs the kernel per shard: rows over batch axes, kv-heads over tensor."""
  b, t, n, h = q.shape
  kv_heads = k.shape[2]
  if segment_ids is None:
    ids = jnp.ones((b, t), jnp.int32)
    segment_ids = (ids, ids)
  grouped = (q * jnp.asarray(1 / math.sqrt(h), q.dtype)).reshape(
    b, t, kv_heads, n // kv_heads, h
  )
  local = functools.partial(_splash_local, causal=causal)
  if partition.context_mesh() is not None:
    heads = partition.spec(k.shape, ('batch', None, 'heads', None))
    rows, tensor = heads[0], heads[2]
    local = jax.shard_map(
      local,
      in_specs=(
        PartitionSpec(rows, None, tensor, None, None),
        heads,
        heads,
        (PartitionSpec(rows, None),) * 2,
      ),
      out_specs=PartitionSpec(rows, None, tensor, None, None),
      check_vma=False,
    )
  return local(grouped, k, v, segment_ids).reshape(b, t, n, h)


def _splash_local(q, k, v, segment_ids, *, causal):
  length = q.shape[1]
  padding = -length % SPLASH_BLOCK
  # Padded slots get a segment of their own, so no real query sees them.
  pad = lambda x, value=0: jnp.pad(
    x,
    [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2),
    constant_values=value,
  )
  kernel = splash_for(length + padding, q.shape[3], causal)
  run = lambda q, k, v, q_ids, kv_ids: jax.vmap(
    kernel, in_axes=(0, 0, 0, None)
  )(q, k, v, splash_kernel.SegmentIds(q=q_ids, kv=kv_ids))
  out = jax.vmap(run)(
    pad(q).transpose(0, 2, 3, 1, 4),
    pad(k).transpose(0, 2, 1, 3),
    pad(v).transpose(0, 2, 1, 3),
    pad(segment_ids[0], -1),
    pad(segment_ids[1], -1),
  )  # [B, K, G, T, H]
  return out.transpose(0, 3, 1, 2, 4)[:, :length]


def splash_for(length: int, group: int, causal: bool, interpret: bool = False):
  """The multi-query kernel for one kv-head and its `group` query heads."""
  shape = (length, length)
  one = splash_mask.CausalMask(shape) if causal else splash_mask.FullMask(shape)
  block = min(SPLASH_BLOCK, length)
  sizes = splash_kernel.BlockSizes(
    block_q=block,
    block_kv=block,
    block_kv_compute=block,
    block_q_dkv=block,
    block_kv_dkv=block,
    block_kv_dkv_compute=block,
    block_q_dq=block,
    block_kv_dq=block,
  )
  return splash_kernel.make_splash_mqa_single_device(
    splash_mask.MultiHeadMask([one] * group),
    block_sizes=sizes,
    interpret=interpret,
  )
