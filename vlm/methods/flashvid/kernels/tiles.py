"""What the kernels share: sizes of tiles, and rows turned into columns."""

import jax
import jax.numpy as jnp

# Lanes of a vector register.
LANES = 128


def padded(size: int) -> int:
  """The next whole number of lanes."""
  return -(-size // LANES) * LANES


def row_tile(tokens: int, largest: int) -> int:
  """The tile that pads `tokens` least, the largest of equals."""
  sizes = range(largest, 0, -LANES)
  return min(sizes, key=lambda tile: -(-tokens // tile) * tile)


def width_tile(width: int, largest: int) -> int:
  """The largest tile of whole lanes that divides a width of whole lanes."""
  fits = range(LANES, min(largest, width) + 1, LANES)
  return max(tile for tile in fits if width % tile == 0)


def whole_lanes(features: jax.Array) -> jax.Array:
  """Features with zeros up to whole lanes: sums run over whole tiles."""
  extra = -features.shape[-1] % LANES
  if extra == 0:
    return features
  return jnp.pad(features, [(0, 0)] * (features.ndim - 1) + [(0, extra)])


def row(x: jax.Array, tokens: int, fill: float) -> jax.Array:
  """float32 [F, N] as one row per frame [F, 1, tokens], with `fill` after N."""
  x = x.astype(jnp.float32)
  short = ((0, 0), (0, tokens - x.shape[1]))
  return jnp.pad(x, short, constant_values=fill)[:, None]


def column(x: jax.Array) -> jax.Array:
  """[1, N] along lanes -> [N, 1] along sublanes, N of whole lanes."""
  return jnp.broadcast_to(x, (LANES, x.shape[1])).T[:, :1]


def products(a: jax.Array, b: jax.Array) -> jax.Array:
  """Inner products of the rows of two tiles, float32 [len(a), len(b)].

  Those of bfloat16 are exact in one pass; float32 needs several.
  """
  exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
  return jax.lax.dot_general(
    a,
    b,
    (((1,), (1,)), ((), ())),
    precision=exact,
    preferred_element_type=jnp.float32,
  )


def first_largest(x: jax.Array, index: jax.Array, axis: int) -> jax.Array:
  """int32, the lowest of `index` where x is largest along an axis; kept."""
  largest = x.max(axis=axis, keepdims=True)
  none = jnp.iinfo(jnp.int32).max
  return jnp.where(x == largest, index, none).min(axis=axis, keepdims=True)
