"""The pre-norm transformer shared by the SigLIP and CLIP towers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vlm.models import functional, layers
from vlm.models.attention import attention
from vlm.models.functional import Runtime
from vlm.models.partition import constrain
from vlm.models.received import received


class Attention(nnx.Module):
  """Multi-head attention with biases; causal for text towers."""

  def __init__(self, width, heads, causal, runtime: Runtime, rngs: nnx.Rngs):
    shape = (heads, width // heads)
    make = dict(rngs=rngs, runtime=runtime)
    project = lambda: layers.Einsum(
      'BTD,DNH->BTNH', (width, *shape), bias=shape, **make
    )
    self.causal, self.impl = causal, runtime.attention
    self.q, self.k, self.v = project(), project(), project()
    self.o = layers.Einsum(
      'BTNH,NHD->BTD', (*shape, width), bias=(width,), **make
    )

  def __call__(self, x, with_received: bool = False, segments=None):
    q = constrain(self.q(x), 'batch', None, 'heads', None)
    k = constrain(self.k(x), 'batch', None, 'heads', None)
    v = constrain(self.v(x), 'batch', None, 'heads', None)
    out = self.o(
      attention(
        q, k, v, segment_ids=segments, causal=self.causal, impl=self.impl
      )
    )
    if not with_received:
      return out, None
    return out, received(q, k, impl=self.impl)


class MLP(nnx.Module):
  """fc2(act(fc1(x)))."""

  def __init__(self, width, mlp_width, act, runtime: Runtime, rngs: nnx.Rngs):
    make = dict(rngs=rngs, runtime=runtime)
    self.act = act
    self.fc1 = layers.Einsum(
      'BTD,DF->BTF', (width, mlp_width), bias=(mlp_width,), **make
    )
    self.fc2 = layers.Einsum(
      'BTF,FD->BTD', (mlp_width, width), bias=(width,), **make
    )

  def __call__(self, x: Float[Array, 'B T D']) -> Float[Array, 'B T D']:
    hidden = layers.ACTIVATIONS[self.act](self.fc1(x))
    return self.fc2(constrain(hidden, 'batch', None, 'ffn'))


class Block(nnx.Module):
  """x + attn(norm1(x)), then x + mlp(norm2(x))."""

  def __init__(self, config, causal, runtime: Runtime, rngs: nnx.Rngs):
    norm = lambda: layers.LayerNorm(
      config.width, config.norm_eps, runtime=runtime
    )
    self.norm1, self.norm2 = norm(), norm()
    self.attn = Attention(config.width, config.heads, causal, runtime, rngs)
    self.mlp = MLP(config.width, config.mlp_width, config.act, runtime, rngs)

  def __call__(self, x, with_received: bool = False):
    with jax.named_scope('attn'):
      out, attention_in = self.attn(self.norm1(x), with_received)
      x = constrain(x + out, 'batch', None, None)
    with jax.named_scope('mlp'):
      x = constrain(x + self.mlp(self.norm2(x)), 'batch', None, None)
    return x, attention_in


def encode(
  blocks: nnx.Module,
  x: Float[Array, 'B T D'],
  runtime: Runtime,
  with_received: bool = False,
) -> tuple[Float[Array, 'B T D'], Float[Array, 'B T'] | None]:
  """Runs stacked blocks.

  Args:
    blocks: what `stacked_blocks` returns.
    x: embeddings.
    runtime: execution choices.
    with_received: also return the attention each token receives in the last
      block, which then runs outside the scan.

  Returns:
    The last hidden states and the received attention or None.
  """
  last = None
  if with_received:
    blocks, last = split_last(blocks)
  run = lambda block, x, _: (block(x)[0], None)
  x, _ = functional.scan(blocks, run, x, None, runtime)
  return (x, None) if last is None else last(x, True)


def stacked_blocks(config, causal: bool, runtime: Runtime, rngs: nnx.Rngs):
  """`config.depth` blocks whose parameters share a leading axis.

  Args:
    config: anything with width, depth, heads, mlp_width, act, norm_eps.
    causal: whether a token sees only earlier ones.
    runtime: execution choices.
    rngs: parameter keys.
  """
  build = lambda rngs: Block(config, causal, runtime, rngs)
  return functional.stack(build, config.depth, rngs)


def split_last(blocks: nnx.Module) -> tuple[nnx.Module, nnx.Module]:
  """Stacked blocks without the last one, and the last one; copies both."""
  graphdef, state = nnx.split(blocks)
  return (
    nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[:-1], state)),
    nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[-1], state)),
  )


class PatchEmbed(layers.Einsum):
  """Cuts pixels into patches and projects each: [B, H, W, 3] -> [B, P, D]."""

  def __init__(self, patch, width, bias, runtime: Runtime, rngs: nnx.Rngs):
    self.patch = patch
    super().__init__(
      'BPijC,ijCD->BPD',
      (patch, patch, 3, width),
      bias=(width,) if bias else (),
      rngs=rngs,
      runtime=runtime,
    )

  def __call__(self, pixels: Float[Array, 'B H W 3']) -> Float[Array, 'B P D']:
    p = self.patch
    b, rows, columns = len(pixels), pixels.shape[1] // p, pixels.shape[2] // p
    # A border narrower than a patch is dropped, as a strided convolution does.
    x = pixels[:, : rows * p, : columns * p]
    x = x.reshape(b, rows, p, columns, p, 3)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * columns, p, p, 3)
    return super().__call__(x)


def normalise(pixels: jax.Array, mean, std) -> Float[Array, '... 3']:
  """(x / 255 - mean) / std for uint8 pixels; float pixels pass through."""
  if pixels.dtype != jnp.uint8:
    return pixels
  scaled = pixels.astype(jnp.float32) * (1 / 255)
  return (scaled - jnp.asarray(mean)) / jnp.asarray(std)


def square_size(config: dict[str, Any], key: str, default: int) -> int:
  """A side in HF's vision config, written as a number or as two equal ones.

  Raises:
    ValueError: if the two differ.
  """
  value = config.get(key, default)
  sides = {value} if isinstance(value, int) else set(value)
  if len(sides) != 1:
    raise ValueError(
      f'config.json: vision_config.{key} is {value}, supported: equal sides'
    )
  return sides.pop()
