"""Attention that each token receives: column means of softmax attention.

    a_s = mean_{n,t} softmax_s(q_tn . k_s / sqrt(H))

over heads n and queries t. What methods that leave out visual tokens rank them
by where a tower has no class token (FlashVID, arXiv 2602.08024).
No form holds all T x T weights: memory grows with T.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from vlm.models import partition

# Queries of one block, and the most scores it may have over rows and heads.
QUERY_BLOCK = 192
BLOCK_SCORES = 1 << 26
# Below this length the scores are small and XLA fuses them well.
KERNEL_MIN_LENGTH = 256
# The kernel's largest tile of scores, and the lanes of a vector register.
TILE, LANES = 512, 128


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
    impl: 'xla', 'splash' (a TPU kernel) or 'auto', as in `attention`.

  Returns:
    float32, summing to 1 over the valid tokens of a row; 0 at others.
  """
  q, k = jax.lax.stop_gradient((q, k))
  if valid is None:
    valid = jnp.ones(q.shape[:2], bool)
  if impl == 'auto':
    impl = 'splash' if jax.default_backend() == 'tpu' else 'xla'
  if impl == 'splash' and q.shape[1] >= KERNEL_MIN_LENGTH:
    total = _kernel(q, k, valid)
  else:
    total = _xla(q, k, valid)
  # A query counts once per head; in a row without tokens none does.
  count = q.shape[2] * jnp.maximum(valid.sum(axis=1, keepdims=True), 1)
  return jnp.where(valid, total / count, 0)


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
  counts = jnp.pad(valid, ((0, 0), (0, padding))).reshape(b, blocks, size)
  k = k.transpose(0, 2, 1, 3)

  def add(total, block):
    q, counts = block
    scores = jnp.einsum(
      'BKGTH,BKSH->BKGTS',
      q,
      k,
      precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=jnp.float32,
    ) / math.sqrt(h)
    scores = jnp.where(valid[:, None, None, None], scores, -1e30)
    scores = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    share = counts[:, None, None] / scores.sum(axis=-1)
    return total + jnp.einsum(
      'BKGT,BKGTS->BS', share, scores, precision=jax.lax.Precision.HIGHEST
    ), None

  total = jnp.zeros((b, t), jnp.float32)
  xs = q.transpose(1, 0, 3, 4, 2, 5), counts.swapaxes(0, 1)
  if blocks == 1:
    total, _ = add(total, jax.tree.map(lambda x: x[0], xs))
  else:
    total, _ = jax.lax.scan(add, total, xs)
  return total


def _kernel(q, k, valid):
  """Runs the kernels per shard: rows over batch axes, heads over tensor."""
  local = received_tpu
  if partition.context_mesh() is not None:
    heads = partition.spec(k.shape, ('batch', None, 'heads', None))
    rows, tensor = heads[0], heads[2]

    def local(q, k, valid):
      total = received_tpu(q, k, valid)
      return total if tensor is None else jax.lax.psum(total, tensor)

    local = jax.shard_map(
      local,
      in_specs=(heads, heads, PartitionSpec(rows, None)),
      out_specs=PartitionSpec(rows, None),
      check_vma=False,
    )
  return local(q, k, valid)


def received_tpu(q, k, valid, interpret=False):
  """Sum over heads and queries of what each token receives, float32 [B, T].

  Two passes over tiles of scores, which stay in VMEM: the log-sum-exp of each
  query, then exp(score - log-sum-exp) summed over queries. Tiles have keys in
  rows, so that what is known of queries broadcasts along lanes.

  Args:
    q: queries [B, T, N, H], bfloat16 or float32.
    k: keys [B, T, K, H].
    valid: bool [B, T].
    interpret: as in `pl.pallas_call`.
  """
  b, t, n, h = q.shape
  tile = tile_of(t)
  tiles = -(-t // tile)
  group = n // k.shape[2]
  kv = lambda head: jax.lax.div(head, group)
  # Products of bfloat16 are exact in float32; float32 needs several passes.
  q, k = q.transpose(0, 2, 1, 3), k.transpose(0, 2, 1, 3)
  valid = jnp.pad(valid, ((0, 0), (0, tiles * tile - t)))
  valid = valid.astype(jnp.float32)[:, None]
  cost = pl.CostEstimate(
    flops=2 * b * n * t * t * h,
    transcendentals=b * n * t * t,
    bytes_accessed=tiles * (q.nbytes + tiles * k.nbytes) + 4 * b * n * t,
  )
  scale = 1 / math.sqrt(h)
  lse = pl.pallas_call(
    functools.partial(_lse_kernel, scale=scale),
    grid=(b, n, tiles, tiles),
    in_specs=[
      pl.BlockSpec((1, 1, tile, h), lambda b, n, i, j: (b, n, i, 0)),
      pl.BlockSpec((1, 1, tile, h), lambda b, n, i, j: (b, kv(n), j, 0)),
      pl.BlockSpec((1, 1, tile), lambda b, n, i, j: (b, 0, j)),
    ],
    out_specs=pl.BlockSpec((1, 1, 1, tile), lambda b, n, i, j: (b, n, 0, i)),
    out_shape=jax.ShapeDtypeStruct((b, n, 1, tiles * tile), jnp.float32),
    scratch_shapes=[pltpu.VMEM((1, tile), jnp.float32)] * 2,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel',) * 3 + ('arbitrary',)
    ),
    cost_estimate=cost,
    interpret=interpret,
    name='received_lse',
  )(q, k, valid)
  total = pl.pallas_call(
    functools.partial(_sum_kernel, scale=scale),
    grid=(b, tiles, n, tiles),
    in_specs=[
      pl.BlockSpec((1, 1, tile, h), lambda b, j, n, i: (b, n, i, 0)),
      pl.BlockSpec((1, 1, tile, h), lambda b, j, n, i: (b, kv(n), j, 0)),
      pl.BlockSpec((1, 1, tile), lambda b, j, n, i: (b, 0, i)),
      pl.BlockSpec((1, 1, 1, tile), lambda b, j, n, i: (b, n, 0, i)),
    ],
    out_specs=pl.BlockSpec((1, 1, tile), lambda b, j, n, i: (b, 0, j)),
    out_shape=jax.ShapeDtypeStruct((b, 1, tiles * tile), jnp.float32),
    scratch_shapes=[pltpu.VMEM((tile, LANES), jnp.float32)],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel',) * 2 + ('arbitrary',) * 2
    ),
    cost_estimate=cost,
    interpret=interpret,
    name='received_sum',
  )(q, k, valid, lse)
  return total[:, 0, :t]


def tile_of(length: int) -> int:
  """The tile that pads `length` least, the largest of equals."""
  return min(range(TILE, 0, -LANES), key=lambda tile: -(-length // tile) * tile)


def _lse_kernel(q_ref, k_ref, valid_ref, lse_ref, top_ref, sum_ref, *, scale):
  """Keys arrive tile by tile; the largest score so far is subtracted."""
  step = pl.program_id(3)

  @pl.when(step == 0)
  def _start():
    top_ref[...] = jnp.full_like(top_ref, -1e30)
    sum_ref[...] = jnp.zeros_like(sum_ref)

  # Past the last key the tile holds anything; nothing of it may survive.
  scores = jnp.where(
    column(valid_ref[0]) > 0, _scores(k_ref[0, 0], q_ref[0, 0], scale), -1e30
  )
  old = top_ref[...]
  top = jnp.maximum(old, scores.max(axis=0, keepdims=True))
  top_ref[...] = top
  sum_ref[...] = sum_ref[...] * jnp.exp(old - top) + jnp.exp(scores - top).sum(
    axis=0, keepdims=True
  )

  @pl.when(step == pl.num_programs(3) - 1)
  def _finish():
    lse_ref[0, 0] = top_ref[...] + jnp.log(sum_ref[...])


def _sum_kernel(q_ref, k_ref, valid_ref, lse_ref, out_ref, sum_ref, *, scale):
  """Queries of every head arrive tile by tile."""
  head, step = pl.program_id(2), pl.program_id(3)

  @pl.when((head == 0) & (step == 0))
  def _start():
    sum_ref[...] = jnp.zeros_like(sum_ref)

  scores = _scores(k_ref[0, 0], q_ref[0, 0], scale)
  weights = jnp.where(valid_ref[0] > 0, jnp.exp(scores - lse_ref[0, 0]), 0)
  sum_ref[...] += sum(
    weights[:, start : start + LANES]
    for start in range(0, weights.shape[1], LANES)
  )

  @pl.when((head == pl.num_programs(2) - 1) & (step == pl.num_programs(3) - 1))
  def _finish():
    out_ref[0] = sum_ref[...].T.sum(axis=0, keepdims=True)


def _scores(k, q, scale: float):
  """Scores [keys, queries] of two tiles, float32."""
  exact = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
  return scale * jax.lax.dot_general(
    k,
    q,
    (((1,), (1,)), ((), ())),
    precision=exact,
    preferred_element_type=jnp.float32,
  )


def column(row):
  """[1, T] along lanes -> [T, 1] along sublanes, for T of whole lanes."""
  return jnp.broadcast_to(row, (LANES, row.shape[1])).T[:, :1]
