"""Vectors by their direction alone: what a cosine compares."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# No vector is divided by less than this, so zero vectors stay zero.
SHORTEST = 1e-12


def unit(x: Float[Array, '... Z']) -> Float[Array, '... Z']:
  """Vectors of length 1, float32; a zero vector stays, its gradient is 0."""
  x = x.astype(jnp.float32)
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  # The root of a square that cannot be 0 has a gradient everywhere.
  return x / jnp.sqrt(jnp.maximum(square, SHORTEST**2))


def product(equation: str, *xs: Any) -> jax.Array:
  """An einsum in float32, which a TPU would else round to bfloat16."""
  return jnp.einsum(
    equation,
    *xs,
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )
