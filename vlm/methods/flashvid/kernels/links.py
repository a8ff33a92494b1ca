"""Best match of each token in the frame before, without N x N arrays in HBM.

The kernel form of `tstm.links`. Cosines of a tile of parents (rows) and a tile
of children (columns) are summed over the width in VMEM, and reduced to the best
parent so far.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int

from vlm.methods.flashvid.kernels import tiles

# Largest tiles: 1 MiB of float32 cosines, and as much of features.
TILE = 512


def links(
  features: Float[Array, 'F N D'],
  scale: Float[Array, 'F N'],
  free: Bool[Array, 'F N'],
  follows: Bool[Array, ' F'],
  interpret: bool | pltpu.InterpretParams = False,
) -> tuple[Float[Array, 'F N'], Int[Array, 'F N']]:
  """The best match of every token in the frame before; no gradients.

  Args:
    features: tokens, bfloat16 or float32.
    scale: float32 1 / norm of each token, 0 for one that counts as zeros.
    free: tokens that have matches and may be one.
    follows: frames that continue the segment of the frame before.
    interpret: as in `pl.pallas_call`.

  Returns:
    The largest cosine, float32, -1 where there is none; and the token of the
    frame before that it is of, int32, the lowest of equals.
  """
  features, scale = jax.lax.stop_gradient((features, scale))
  features = tiles.whole_lanes(features)
  frames, tokens, width = features.shape
  tile = tiles.row_tile(tokens, TILE)
  across, depth = pl.cdiv(tokens, tile), tiles.width_tile(width, TILE)
  # What is not free has a scale of -1, what is not there of -2.
  child = jnp.where(free, scale, -1)
  parent = jnp.where(follows[1:, None], child[:-1], -1)
  parent = jnp.concatenate([jnp.full_like(child[:1], -1), parent])
  before = lambda f: jnp.maximum(f - 1, 0)
  scales = lambda place: pl.BlockSpec((None, 1, tile), place)
  vectors = lambda place: pl.BlockSpec((None, tile, depth), place)
  found = pl.BlockSpec((None, 1, tile), lambda f, i, j, d: (f, 0, i))
  best, where = pl.pallas_call(
    _links_kernel,
    grid=(frames, across, across, width // depth),
    in_specs=[
      vectors(lambda f, i, j, d: (before(f), j, d)),
      vectors(lambda f, i, j, d: (f, i, d)),
      scales(lambda f, i, j, d: (f, 0, j)),
      scales(lambda f, i, j, d: (f, 0, i)),
    ],
    out_specs=[found, found],
    out_shape=[
      jax.ShapeDtypeStruct((frames, 1, across * tile), dtype)
      for dtype in (jnp.float32, jnp.int32)
    ],
    scratch_shapes=[pltpu.VMEM((tile, tile), jnp.float32)],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel', 'arbitrary', 'arbitrary')
    ),
    cost_estimate=pl.CostEstimate(
      flops=2 * frames * tokens**2 * width,
      transcendentals=0,
      bytes_accessed=2 * across * features.nbytes + 8 * frames * tokens,
    ),
    interpret=interpret,
    name='links',
  )(
    features,
    features,
    tiles.row(parent, across * tile, -2.0),
    tiles.row(child, across * tile, -2.0),
  )
  return best[:, 0, :tokens], where[:, 0, :tokens]


def _links_kernel(
  parents_ref, children_ref, parent_ref, child_ref, best_ref, where_ref, dots
):
  tile, last = pl.program_id(2), pl.num_programs(3) - 1
  step = pl.program_id(3)
  any_parent = parent_ref[...].max() >= 0

  @pl.when((tile == 0) & (step == 0))
  def _nothing_found():
    best_ref[...] = jnp.full_like(best_ref, -1)
    where_ref[...] = jnp.zeros_like(where_ref)

  @pl.when(any_parent & (step == 0))
  def _start():
    dots[...] = jnp.zeros_like(dots)

  # The first frame of a segment costs nothing.
  @pl.when(any_parent)
  def _add():
    dots[...] += tiles.products(parents_ref[...], children_ref[...])

  @pl.when(any_parent & (step == last))
  def _reduce():
    parent, child = tiles.column(parent_ref[...]), child_ref[...]
    cosine = _cosines(dots[...], parent, child)
    index = jax.lax.broadcasted_iota(jnp.int32, cosine.shape, 0)
    where = tiles.first_largest(cosine, index, axis=0) + tile * cosine.shape[0]
    best = cosine.max(axis=0, keepdims=True)
    # Of equal ones that of an earlier tile has the lower index.
    better = best > best_ref[...]
    best_ref[...] = jnp.where(better, best, best_ref[...])
    where_ref[...] = jnp.where(better, where, where_ref[...])


def _cosines(dots, parent, child):
  """Cosines of free pairs, -1 of others, -2 of rows past the last token."""
  # Past the last token a tile holds anything; a product with it may be NaN.
  used = (parent > 0) & (child > 0)
  cosine = jnp.where(used, dots * child * parent, 0)
  cosine = jnp.where((parent >= 0) & (child >= 0), cosine, -1)
  return jnp.where(parent == -2, -2, cosine)
