"""The shared vocabulary of every model: einsum layers, norms, rope.

Legend of the einsum letters: B batch, T query, S key, N heads, K kv-heads,
G group, H head-dim, D width, F ffn, V vocab, P patches, M merged tokens.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vlm.models.functional import Runtime

# Up to so many rows a matrix goes to the left (see `OutputsFirst`).
FEW_ROWS = 64


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('array',),
  meta_fields=('inputs', 'outputs'),
)
@dataclasses.dataclass(frozen=True)
class OutputsFirst:
  """A kernel laid out [outputs, inputs], to meet few rows at a time.

  A CPU multiplies a large matrix from the left about twice as fast as from the
  right when the other side has only a few rows, as in decoding.

  Attributes:
    array: [F, D].
    inputs: how many axes of the input make up D.
    outputs: axes of the output that make up F.
  """

  array: Any  # a leaf of a pytree, which may be anything
  inputs: int
  outputs: tuple[int, ...]

  def __call__(self, x: jax.Array, dtype: Any = None) -> jax.Array:
    """x [..., *inputs] -> [..., *outputs], in `dtype` (x's by default)."""
    lead = x.shape[: x.ndim - self.inputs]
    rows = x.reshape(math.prod(lead), self.array.shape[1])
    y = jnp.einsum(
      'FD,MD->FM',
      self.array.astype(x.dtype),
      rows,
      preferred_element_type=dtype or x.dtype,
    )
    # Else the compiler swaps the operands back to be rid of the transpose.
    y = jax.lax.optimization_barrier(y)
    return y.T.reshape(*lead, *self.outputs)


class Einsum(nnx.Module):
  """A linear map written as its einsum, e.g. 'BTD,DNH->BTNH'.

  Args:
    equation: two operands, the second is the kernel.
    shape: kernel shape.
    bias: bias shape, or () for none.
    rngs: parameter keys.
    runtime: dtypes. The initial scale is 1/sqrt(number of summed inputs).
  """

  def __init__(
    self,
    equation: str,
    shape: tuple[int, ...],
    *,
    bias: tuple[int, ...] = (),
    rngs: nnx.Rngs,
    runtime: Runtime,
  ):
    self.equation = equation
    self.dtype = runtime.dtype
    left, right = equation.split('->')
    kernel_axes = left.split(',')[1]
    fan_in = math.prod(
      size
      for axis, size in zip(kernel_axes, shape, strict=True)
      if axis not in right
    )
    self.kernel = nnx.Param(
      jax.random.normal(rngs.params(), shape, runtime.param_dtype)
      * jnp.asarray(1 / math.sqrt(fan_in), runtime.param_dtype)
    )
    self.bias = (
      nnx.Param(jnp.zeros(bias, runtime.param_dtype)) if bias else None
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    kernel, x = self.kernel.get_value(), x.astype(self.dtype)
    if isinstance(kernel, OutputsFirst):
      y = kernel(x)
    else:
      y = jnp.einsum(self.equation, x, jnp.asarray(kernel, self.dtype))
    if self.bias is not None:
      y = y + jnp.asarray(self.bias[...], self.dtype)
    return y


class Embedding(nnx.Module):
  """A table of vectors [rows, width], drawn with standard deviation `std`."""

  def __init__(
    self,
    rows: int,
    width: int,
    *,
    rngs: nnx.Rngs,
    runtime: Runtime,
    std: float = 0.02,
  ):
    self.dtype = runtime.dtype
    self.embedding = nnx.Param(
      jax.random.normal(rngs.params(), (rows, width), runtime.param_dtype)
      * jnp.asarray(std, runtime.param_dtype)
    )

  def __call__(self, ids: Int[Array, '...']) -> Float[Array, '... D']:
    return jnp.asarray(self.embedding[ids], self.dtype)


class RMSNorm(nnx.Module):
  """x / sqrt(mean(x^2) + eps) * scale, computed in float32."""

  def __init__(self, width: int, eps: float, *, runtime: Runtime):
    self.eps = eps
    self.scale = nnx.Param(jnp.ones((width,), runtime.param_dtype))

  def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... D']:
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
    return (y * self.scale[...].astype(jnp.float32)).astype(x.dtype)


class LayerNorm(nnx.Module):
  """(x - mean) / sqrt(var + eps) * scale + bias, computed in float32."""

  def __init__(self, width: int, eps: float, *, runtime: Runtime):
    self.eps = eps
    self.scale = nnx.Param(jnp.ones((width,), runtime.param_dtype))
    self.bias = nnx.Param(jnp.zeros((width,), runtime.param_dtype))

  def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... D']:
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
    y = y * self.scale[...].astype(jnp.float32)
    return (y + self.bias[...].astype(jnp.float32)).astype(x.dtype)


def gelu(x: jax.Array) -> jax.Array:
  """The exact (erf) GELU."""
  return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: jax.Array) -> jax.Array:
  """The tanh approximation of GELU, as SigLIP uses it."""
  return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: jax.Array) -> jax.Array:
  """x * sigmoid(1.702 x), as OpenAI's CLIP was trained with."""
  return x * jax.nn.sigmoid(1.702 * x)


# Keys are the spellings of HF's `hidden_act`.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'gelu': gelu,
  'gelu_pytorch_tanh': gelu_tanh,
  'quick_gelu': quick_gelu,
  'silu': jax.nn.silu,
}


def rope_angles(
  positions: Int[Array, 'B T'] | Int[Array, 'B T 3'],
  head_dim: int,
  theta: float,
  sections: tuple[int, ...] = (),
) -> tuple[Float[Array, 'B T H2'], Float[Array, 'B T H2']]:
  """Cosines and sines of rotary position angles.

  Angle j at position p is p / theta^(2j / H); float32 throughout, since bf16
  cannot tell neighbouring positions apart beyond 256.

  Args:
    positions: one number per token, or (t, h, w).
    head_dim: H.
    theta: the base.
    sections: of three-part positions, how many angles turn with t, h and w
      (M-RoPE, arXiv 2409.12191, section 2.1); they sum to H / 2.
  """
  exponent = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
  positions = positions[..., None]
  if positions.ndim == 4:
    part = np.repeat(np.arange(3), sections)  # [H / 2]
    positions = positions[:, :, part, 0]
  angles = positions.astype(jnp.float32) * theta**-exponent
  return jnp.cos(angles), jnp.sin(angles)


def apply_rope(
  x: Float[Array, 'B T N H'],
  cos: Float[Array, 'B T H2'],
  sin: Float[Array, 'B T H2'],
) -> Float[Array, 'B T N H']:
  """Rotates the pairs (x[j], x[j + H/2]) by their angles (RoFormer, eq. 34)."""
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  cos, sin = cos[:, :, None], sin[:, :, None]
  rotated = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
