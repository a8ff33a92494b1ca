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
from vlm.models.lora import Lora, add
from vlm.models.partition import constrain

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

  def add_lora(self, lora: Lora, rngs: nnx.Rngs) -> None:
    """Gives the map an adapter (see `lora`), under leading layer axes too."""
    inward, outward = self._lora_equations()
    sizes = dict(zip(reversed(self._axes), reversed(self.kernel.shape)))
    sizes |= {'r': lora.rank}
    lead = self.kernel.shape[: self.kernel.ndim - len(self._axes)]
    shape_of = lambda equation: tuple(
      sizes[axis] for axis in equation.split('->')[0].split(',')[1]
    )
    a, b = shape_of(inward), shape_of(outward)
    drawn = jax.random.normal(rngs.params(), (*lead, *a), jnp.float32)
    self.lora_a = nnx.Param(drawn / math.sqrt(math.prod(a[:-1])))
    self.lora_b = nnx.Param(jnp.zeros((*lead, *b), jnp.float32))
    self.lora_scale = lora.scale

  def merged_kernel(self) -> jax.Array:
    """The kernel with its adapter, for those who multiply by it themselves."""
    if not hasattr(self, 'lora_a'):
      return self.kernel[...]
    return add(
      self.kernel[...], self.lora_a[...], self.lora_b[...], self.lora_scale
    )

  @property
  def _axes(self) -> str:
    """The kernel's letters."""
    return self.equation.split('->')[0].split(',')[1]

  def _lora_equations(self) -> tuple[str, str]:
    """'BTD,DNH->BTNH' becomes 'BTD,Dr->BTr' and 'BTr,rNH->BTNH'."""
    left, right = self.equation.split('->')
    x, kernel = left.split(',')
    inputs = ''.join(axis for axis in kernel if axis not in right)
    outputs = ''.join(axis for axis in kernel if axis in right)
    middle = ''.join(axis for axis in x if axis not in inputs) + 'r'
    return f'{x},{inputs}r->{middle}', f'{middle},r{outputs}->{right}'

  def _adapted(self, x: jax.Array) -> jax.Array:
    inward, outward = self._lora_equations()
    low = jnp.einsum(inward, x, jnp.asarray(self.lora_a[...], self.dtype))
    y = jnp.einsum(outward, low, jnp.asarray(self.lora_b[...], self.dtype))
    return y * jnp.asarray(self.lora_scale, self.dtype)

  def __call__(self, x: jax.Array) -> jax.Array:
    kernel, x = self.kernel.get_value(), x.astype(self.dtype)
    if isinstance(kernel, OutputsFirst):
      y = kernel(x)
    else:
      y = jnp.einsum(self.equation, x, jnp.asarray(kernel, self.dtype))
    if hasattr(self, 'lora_a'):
      y = y + self._adapted(x)
    if self.bias is not None:
      y = y + jnp.asarray(self.bias[...], self.dtype)
    return y


class GatedMLP(nnx.Module):
  """down(act(gate(x)) * up(x)), with biases on all three or on none."""

  def __init__(
    self,
    width: int,
    mlp_width: int,
    *,
    act: str = 'silu',
    bias: bool = False,
    rngs: nnx.Rngs,
    runtime: Runtime,
  ):
    make = dict(rngs=rngs, runtime=runtime)
    self.act = act
    inward = lambda: Einsum(
      'BTD,DF->BTF',
      (width, mlp_width),
      bias=(mlp_width,) if bias else (),
      **make,
    )
    self.gate, self.up = inward(), inward()
    self.down = Einsum(
      'BTF,FD->BTD', (mlp_width, width), bias=(width,) if bias else (), **make
    )

  def __call__(self, x: Float[Array, 'B T D']) -> Float[Array, 'B T D']:
    hidden = ACTIVATIONS[self.act](self.gate(x)) * self.up(x)
    return self.down(constrain(hidden, 'batch', None, 'ffn'))


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
  theta: float | Float[Array, 'B T 1'],
  sections: tuple[int, ...] = (),
  interleaved: bool = False,
) -> tuple[Float[Array, 'B T H2'], Float[Array, 'B T H2']]:
  """Cosines and sines of rotary position angles.

  Angle j at position p is p / theta^(2j / H); float32 throughout, since bf16
  cannot tell neighbouring positions apart beyond 256.

  Args:
    positions: one number per token, or (t, h, w).
    head_dim: H.
    theta: the base, or one per token.
    sections: of three-part positions, how many angles turn with t, h and w
      (M-RoPE, arXiv 2409.12191, section 2.1); they sum to H / 2.
    interleaved: deal the angles out as t h w t h w ..., so that each part gets
      high and low frequencies; otherwise they lie in three stretches.
  """
  exponent = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
  positions = positions[..., None]
  if positions.ndim == 4:
    positions = positions[:, :, _parts(sections, interleaved), 0]
  angles = positions.astype(jnp.float32) * theta**-exponent
  return jnp.cos(angles), jnp.sin(angles)


def _parts(sections: tuple[int, ...], interleaved: bool) -> np.ndarray:
  """Which of (t, h, w) each angle turns with, [H / 2].

  Interleaved sections (4, 2, 2) are t h w t h w t t: what h and w leave is t's.
  """
  if not interleaved:
    return np.repeat(np.arange(3), sections)
  parts = np.zeros(sum(sections), int)
  for part in (1, 2):
    parts[part : 3 * sections[part] : 3] = part
  return parts


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
