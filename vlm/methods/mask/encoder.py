"""The region encoder and the two networks that train it (paper, Table 8).

    h  M -> Z, ReLU, 3 x attention, LayerNorm             mean and variance
    g  Z -> Z, ReLU, attention, Z -> M                    rebuilds a region
    f  Z -> N, ReLU, 2 x attention, N -> N, ReLU, attention, N -> N   its word

The attention has no feed-forward block: with Q, K, V and O of width Z and their
biases it has the parameters that the table gives it. What the paper does not
say, and is chosen here: x + attention(normalised x), for a stack without the
sum does not train; the normalisation has no parameters, so that the table's
count holds; the log variance is a linear map of the mean.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from vlm.models import functional, layers
from vlm.models.encoder import Attention
from vlm.models.functional import Params, Runtime

CONTEXTS = ('image', 'none')
NORM_EPS = 1e-5
LOG_VARIANCE_START = -2.0
LOG_VARIANCE_RANGE = (-8.0, 4.0)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """Sizes of the networks; defaults are the paper's.

  Attributes:
    features: M, numbers of a region's feature.
    latent: Z, of its code.
    words: N, of a word vector.
    depth: attention layers of h.
    heads: of h and g; divides `latent`.
    word_heads: of f; divides `words`.
    context: what a region attends to: the regions of its 'image', or itself
      alone ('none'), which makes its code independent of the others.
  """

  features: int = 2048
  latent: int = 512
  words: int = 300
  depth: int = 3
  heads: int = 8
  word_heads: int = 6
  context: str = 'image'

  def __post_init__(self):
    if self.context not in CONTEXTS:
      raise ValueError(
        f'encoder.context={self.context!r}, expected one of {CONTEXTS}'
      )
    for name in ('features', 'latent', 'words', 'depth'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'encoder.{name}={getattr(self, name)}, expected at least 1'
        )
    for name, width in (('heads', 'latent'), ('word_heads', 'words')):
      if getattr(self, name) < 1 or getattr(self, width) % getattr(self, name):
        raise ValueError(
          f'encoder.{name}={getattr(self, name)}, expected a divisor of '
          f'encoder.{width}={getattr(self, width)}'
        )


class _Stack(nnx.Module):
  """An inner map with ReLU, then attention layers with their sums."""

  def __init__(self, inputs, width, heads, depth, runtime, rngs):
    self.inner = _linear(inputs, width, runtime, rngs)
    self.layers = nnx.List(
      [Attention(width, heads, False, runtime, rngs) for _ in range(depth)]
    )

  def __call__(self, x, segments):
    x = jax.nn.relu(self.inner(x))
    for layer in self.layers:
      x = x + layer(_normalised(x), segments=segments)[0]
    return x


class _Modules(nnx.Module):
  def __init__(self, config: EncoderConfig, runtime: Runtime, rngs: nnx.Rngs):
    m, z, n = config.features, config.latent, config.words
    make = dict(runtime=runtime, rngs=rngs)
    self.code = _Stack(m, z, config.heads, config.depth, **make)
    self.norm = layers.LayerNorm(z, NORM_EPS, runtime=runtime)
    self.log_variance = _linear(z, z, **make)
    self.log_variance.bias[...] += LOG_VARIANCE_START
    self.rebuild = _Stack(z, z, config.heads, 1, **make)
    self.rebuilt = _linear(z, m, **make)
    self.word = _Stack(z, n, config.word_heads, 2, **make)
    self.word_again = _Stack(n, n, config.word_heads, 1, **make)
    self.worded = _linear(n, n, **make)


class RegionEncoder(functional.Model):
  """The three networks as pure functions of the parameters.

  Regions that are not valid change nothing of the others, whatever they hold.

  Args:
    config: sizes.
    runtime: execution choices.
  """

  modules = _Modules

  def __init__(self, config: EncoderConfig, runtime: Runtime | None = None):
    super().__init__(config, runtime or Runtime())

  def encode(
    self,
    params: Params,
    regions: Float[Array, 'B I M'],
    valid: Bool[Array, 'B I'],
  ) -> tuple[Float[Array, 'B I Z'], Float[Array, 'B I Z']]:
    """Mean and log variance of each region's code (network h), float32."""
    modules = self._description.bind(params)

    def run(x, segments):
      mean = modules.norm(modules.code(x, segments)).astype(jnp.float32)
      log_variance = modules.log_variance(mean).astype(jnp.float32)
      return mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE)

    return self._in_context(run, regions, valid)

  def rebuild(
    self,
    params: Params,
    latent: Float[Array, 'B I Z'],
    valid: Bool[Array, 'B I'],
  ) -> Float[Array, 'B I M']:
    """Regions as they are read from drawn codes (network g), float32."""
    modules = self._description.bind(params)
    run = lambda x, segments: modules.rebuilt(modules.rebuild(x, segments))
    return self._in_context(run, latent, valid).astype(jnp.float32)

  def to_words(
    self,
    params: Params,
    mean: Float[Array, 'B I Z'],
    valid: Bool[Array, 'B I'],
  ) -> Float[Array, 'B I N']:
    """The word vector that each code stands for (network f), float32."""
    modules = self._description.bind(params)

    def run(x, segments):
      x = modules.word(x, segments)
      return modules.worded(modules.word_again(x, segments))

    return self._in_context(run, mean, valid).astype(jnp.float32)

  def _in_context(self, run, x, valid):
    # Weights of masked keys are 0, and 0 times NaN would still be NaN.
    x = jnp.where(valid[..., None], x, 0)
    if self.config.context == 'image':
      segments = valid.astype(jnp.int32)
      return run(x, (segments, segments))
    b, i = valid.shape
    found = run(x.reshape(b * i, 1, -1), None)
    return jax.tree.map(lambda leaf: leaf.reshape(b, i, -1), found)


def _linear(inputs, outputs, runtime, rngs):
  return layers.Einsum(
    'BTD,DF->BTF',
    (inputs, outputs),
    bias=(outputs,),
    rngs=rngs,
    runtime=runtime,
  )


def _normalised(x):
  """Mean 0 and variance 1 over the width, in float32."""
  y = x.astype(jnp.float32)
  y = y - jnp.mean(y, axis=-1, keepdims=True)
  variance = jnp.mean(y * y, axis=-1, keepdims=True)
  return (y * jax.lax.rsqrt(variance + NORM_EPS)).astype(x.dtype)
