"""Greedy farthest points of each frame, all steps inside one kernel.

The kernel form of `adts.max_min`. A frame's cosines are summed over the width
into VMEM, N x N float32; each step reads the row of the last pick there. Frames
of more than `VMEM_TOKENS` tokens are computed one by one, their cosines by XLA
in HBM, from which each step fetches a row.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int

from vlm.methods.flashvid.kernels import tiles

# 16 MiB of cosines; chips from v5e on have at least 64 MiB of VMEM.
VMEM_TOKENS = 2048
VMEM_LIMIT = 48 << 20
# Rows of cosines that are computed or looked at together.
ROWS = 128
# Rows that one copy from HBM takes: those of a tile.
FETCHED = 8
# Larger than any cosine and any distance.
FAR = 1e30


def max_min(
  features: Float[Array, 'F N D'],
  scale: Float[Array, 'F N'],
  weight: Float[Array, 'F N'],
  valid: Bool[Array, 'F N'],
  steps: int,
  again: bool = False,
  interpret: bool | pltpu.InterpretParams = False,
) -> Int[Array, 'F K']:
  """Greedy farthest points under D_w(i <- j) = w_i (1 - cos_ij).

  The first has the largest min over j of D_w(i <- j), each next one the largest
  min over those chosen before it. Ties go to the lowest index. No gradients.

  Args:
    features: tokens, bfloat16 or float32.
    scale: float32 1 / norm of each token, 0 for one that counts as zeros.
    weight: w, float32, of any sign.
    valid: tokens that can be chosen.
    steps: K, how many to choose of each frame.
    again: a token's distance to itself counts too, and a token may be chosen
      twice, as released for 'attn_div_v2'.
    interpret: as in `pl.pallas_call`.

  Returns:
    int32 tokens in the order in which they are chosen; 0 where none is left.
  """
  features, scale, weight = jax.lax.stop_gradient((features, scale, weight))
  if steps == 0:
    return jnp.zeros((features.shape[0], 0), jnp.int32)
  small = features.shape[1] <= VMEM_TOKENS
  run = _in_vmem if small else _in_hbm
  return run(features, scale, weight, valid, steps, again, interpret)


def _in_vmem(features, scale, weight, valid, steps, again, interpret):
  features = tiles.whole_lanes(features)
  frames, tokens, width = features.shape
  wide, chosen = tiles.padded(tokens), tiles.padded(steps)
  # Two buffers of at most 2 MiB.
  depth = tiles.width_tile(width, max(tiles.LANES, (1 << 19) // wide))
  row = pl.BlockSpec((None, 1, wide), lambda f, d: (f, 0, 0))
  picks = pl.pallas_call(
    functools.partial(_vmem_kernel, steps=steps, again=again),
    grid=(frames, width // depth),
    in_specs=[
      pl.BlockSpec((None, wide, depth), lambda f, d: (f, 0, d)),
      row,
      row,
      row,
    ],
    out_specs=pl.BlockSpec((None, 1, chosen), lambda f, d: (f, 0, 0)),
    out_shape=jax.ShapeDtypeStruct((frames, 1, chosen), jnp.int32),
    scratch_shapes=[pltpu.VMEM((wide, wide), jnp.float32)],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'arbitrary'),
      vmem_limit_bytes=VMEM_LIMIT,
    ),
    cost_estimate=_cost(features, steps),
    interpret=interpret,
    name='max_min',
  )(
    features,
    tiles.row(scale, wide, 0.0),
    tiles.row(weight, wide, 0.0),
    tiles.row(valid, wide, 0.0),
  )
  return picks[:, 0, :steps]


def _cost(features, steps):
  frames, tokens, width = features.shape
  return pl.CostEstimate(
    flops=2 * frames * tokens**2 * width + 4 * frames * steps * tokens,
    transcendentals=0,
    bytes_accessed=features.nbytes + 4 * frames * (3 * tokens + steps),
  )


def _vmem_kernel(
  features_ref, scale_ref, weight_ref, valid_ref, picks_ref, cosine, *, steps,
  again,
):  # fmt: skip
  step, wide = pl.program_id(1), cosine.shape[0]
  chunks = lambda body, start=None: jax.lax.fori_loop(
    0, wide // ROWS, lambda c, x: body(pl.multiple_of(c * ROWS, ROWS), x), start
  )

  def add(start, _):
    rows = pl.ds(start, ROWS)
    dots = tiles.products(features_ref[rows], features_ref[...])
    cosine[rows] = jnp.where(step == 0, dots, cosine[rows] + dots)

  chunks(add)

  @pl.when(step == pl.num_programs(1) - 1)
  def _choose_all():
    scale, valid = scale_ref[...], valid_ref[...] > 0

    def reduce(start, two):
      rows = pl.ds(start, ROWS)
      lengths = tiles.column(scale_ref[:, rows])
      # Past the last token a tile holds anything; a product may be NaN.
      used = (lengths > 0) & (scale > 0)
      value = jnp.where(used, cosine[rows] * lengths * scale, 0)
      cosine[rows] = value
      there = tiles.column(valid_ref[:, rows]) > 0
      return _extremes(value, there, start, two, again)

    none = jnp.full((1, wide), -FAR)
    near, far = _extreme_distances(chunks(reduce, (none,) * 4), again)
    picks_ref[...] = _choose(
      lambda pick: cosine[pl.ds(pick, 1)],
      weight_ref[...] * jnp.where(weight_ref[...] < 0, far, near),
      weight_ref[...],
      valid,
      picks_ref.shape,
      steps,
      again,
    )


def _in_hbm(features, scale, weight, valid, steps, again, interpret):
  frames, tokens, _ = features.shape
  wide, chosen = tiles.padded(tokens), tiles.padded(steps)
  row = pl.BlockSpec((1, wide), lambda: (0, 0))
  kernel = pl.pallas_call(
    functools.partial(_hbm_kernel, steps=steps, again=again),
    in_specs=[pl.BlockSpec(memory_space=pl.ANY), row, row, row],
    out_specs=pl.BlockSpec((1, chosen), lambda: (0, 0)),
    out_shape=jax.ShapeDtypeStruct((1, chosen), jnp.int32),
    scratch_shapes=[
      pltpu.VMEM((FETCHED, wide), jnp.float32),
      pltpu.SemaphoreType.DMA,
    ],
    cost_estimate=pl.CostEstimate(
      flops=4 * steps * tokens,
      transcendentals=0,
      bytes_accessed=4 * (FETCHED * steps + 4) * wide,
    ),
    interpret=interpret,
    name='max_min_rows',
  )

  def frame(inputs):
    features, *rows = inputs
    short = ((0, wide - tokens), (0, 0))
    features = jnp.pad(features, short)
    scale, weight, valid = rows
    used = (scale > 0) & (scale.T > 0)
    cosine = tiles.products(features, features) * scale.T * scale
    cosine = jnp.where(used, cosine, 0)
    none = jnp.full((1, wide), -FAR)
    two = _extremes(cosine, valid.T > 0, 0, (none,) * 4, again)
    near, far = _extreme_distances(two, again)
    first = weight * jnp.where(weight < 0, far, near)
    return kernel(cosine, first, weight, valid)[0, :steps]

  rows = (tiles.row(x, wide, 0.0) for x in (scale, weight, valid))
  return jax.lax.map(frame, (features, *rows))


def _hbm_kernel(
  cosine_ref, first_ref, weight_ref, valid_ref, picks_ref, rows, arrived, *,
  steps, again,
):  # fmt: skip
  def fetch(pick):
    tile = jax.lax.div(pick, FETCHED) * FETCHED
    source = cosine_ref.at[pl.ds(pl.multiple_of(tile, FETCHED), FETCHED)]
    copy = pltpu.make_async_copy(source, rows, arrived)
    copy.start()
    copy.wait()
    return rows[pl.ds(pick - tile, 1)]

  picks_ref[...] = _choose(
    fetch,
    first_ref[...],
    weight_ref[...],
    valid_ref[...] > 0,
    picks_ref.shape,
    steps,
    again,
  )


def _choose(row, first, weight, valid, shape, steps: int, again: bool):
  """Picks in order, int32 [1, steps or more].

  Args:
    row: reads the cosines [1, N] of a token.
    first: what the first pick has the largest of, [1, N].
    weight: [1, N].
    valid: [1, N].
    shape: of the result.
    steps: how many to pick.
    again: whether a token may be picked twice.
  """
  token = jax.lax.broadcasted_iota(jnp.int32, first.shape, 1)
  slot = jax.lax.broadcasted_iota(jnp.int32, shape, 1)

  def best(score):
    return jnp.where(score == score.max(), token, token.shape[1] - 1).min()

  def step(count, carry):
    picks, minimum, pick = carry
    picks = jnp.where(slot == count, pick, picks)
    minimum = jnp.minimum(minimum, weight * (1 - row(pick)))
    if not again:
      minimum = jnp.where(token == pick, -jnp.inf, minimum)
    return picks, minimum, best(minimum)

  start = (
    jnp.zeros(shape, jnp.int32),
    jnp.where(valid, jnp.inf, -jnp.inf),
    best(jnp.where(valid, first, -jnp.inf)),
  )
  return jax.lax.fori_loop(0, steps, step, start)[0]


def _extremes(cosine, valid, start, found, again: bool):
  """The two largest of each column's cosines, and of what is opposite to them.

  Args:
    cosine: [rows, N], of tokens start .. start + rows with all tokens.
    valid: [rows, 1].
    start: first row.
    found: the two largest cosines of earlier rows, and of -cosine, each [1, N];
      -FAR where there is none.
    again: a token's cosine with itself counts.
  """
  place = jax.lax.broadcasted_iota(jnp.int32, cosine.shape, 0)
  own = place + start == jax.lax.broadcasted_iota(jnp.int32, cosine.shape, 1)
  counts = valid if again else valid & ~own
  out = ()
  for value, (one, two) in zip((cosine, -cosine), (found[:2], found[2:])):
    value = jnp.where(counts, value, -FAR)
    largest = value.max(axis=0, keepdims=True)
    where = tiles.first_largest(value, place, axis=0)
    second = jnp.where(place == where, -FAR, value).max(axis=0, keepdims=True)
    second = jnp.maximum(second, jnp.minimum(one, largest))
    out += jnp.maximum(one, largest), jnp.maximum(two, second)
  return out


def _extreme_distances(found, again: bool):
  """The least and the largest distance that count for the first pick.

  Those to the other tokens; if `again`, the second of those to all tokens. A
  token that is alone has nothing to be far from.
  """
  near, far = found[again], found[2 + again]
  return (
    jnp.where(near == -FAR, 1, 1 - near),
    jnp.where(far == -FAR, 1, 1 + far),
  )
