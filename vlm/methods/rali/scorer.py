"""The arithmetic of RALI's scorer, as released (Q-Insight, folder RALI).

    z = ((x - mean) / |scale|) C^T
    s = sum_k softmax_k(cos(z, mu_k) / tau) f_k

x is CLIP's image embedding behind the projection, not of unit length. The
parameters are a dict under the released names, float32:

    pca_mean [E]  pca_scale [E]  pca_components [P, E]
    prototypes [K, P]  proto_scores [K]  logit_scale []: 1 / tau, not its log
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vlm.methods.rali.basis import Basis

NAMES = (
  'pca_mean',
  'pca_scale',
  'pca_components',
  'prototypes',
  'proto_scores',
  'logit_scale',
)
TAU = 0.07
# No vector is divided by less than this (torch's F.normalize).
SHORTEST = 1e-12
LEAST_SCALE = 1e-6


@dataclasses.dataclass(frozen=True)
class ScorerSettings:
  """What the arrays do not say.

  Attributes:
    unit: bring embeddings to length 1 first; released scorers do not.
  """

  unit: bool = False


def scores(
  params: Mapping[str, Any],
  embeddings: Float[Array, 'B E'],
  settings: ScorerSettings = ScorerSettings(),
) -> Float[Array, 'B']:
  """Quality of images on the scale of `proto_scores`, float32."""
  weights = memberships(params, embeddings, settings)
  return _product('BK,K->B', weights, params['proto_scores'])


def memberships(
  params: Mapping[str, Any],
  embeddings: Float[Array, 'B E'],
  settings: ScorerSettings = ScorerSettings(),
) -> Float[Array, 'B K']:
  """How much of each prototype an image is; rows sum to 1."""
  x = embeddings.astype(jnp.float32)
  if settings.unit:
    x = _unit(x)
  x = (x - params['pca_mean']) / jnp.abs(params['pca_scale'])
  z = _unit(_product('BE,PE->BP', x, params['pca_components']))
  similarity = _product('BP,KP->BK', z, _unit(params['prototypes']))
  tau = 1 / jnp.maximum(params['logit_scale'], LEAST_SCALE)
  return jax.nn.softmax(similarity / tau, axis=-1)


def initial_params(basis: Basis, tau: float = TAU) -> dict[str, np.ndarray]:
  """The parameters before any fit: stage 2's basis, nothing divided."""
  f32 = lambda x: np.asarray(x, np.float32)
  return {
    'pca_mean': f32(basis.pca.mean),
    'pca_scale': np.ones(len(basis.pca.mean), np.float32),
    'pca_components': f32(basis.pca.components),
    'prototypes': f32(basis.vectors),
    'proto_scores': f32(basis.scores),
    'logit_scale': f32(1 / tau),
  }


def check(params: Mapping[str, Any], embedding: int = 0) -> None:
  """Checks names, shapes and values of a scorer's parameters.

  Args:
    params: the parameters.
    embedding: E of the tower that feeds them; 0 takes any.

  Raises:
    ValueError: naming the array, what was expected and what it is.
  """
  if set(params) != set(NAMES):
    raise ValueError(f'scorer: expected {sorted(NAMES)}, got {sorted(params)}')
  shape = lambda name: tuple(params[name].shape)
  if len(shape('pca_components')) != 2 or len(shape('prototypes')) != 2:
    raise ValueError('scorer: pca_components and prototypes must be matrices')
  parts, width = shape('pca_components')
  count = shape('prototypes')[0]
  wanted = {
    'pca_mean': (embedding or width,),
    'pca_scale': (embedding or width,),
    'pca_components': (parts, embedding or width),
    'prototypes': (count, parts),
    'proto_scores': (count,),
    'logit_scale': (),
  }
  for name, expected in wanted.items():
    if shape(name) != expected:
      raise ValueError(
        f'scorer: {name} expected shape {expected}, got {shape(name)}'
      )
    if not np.isfinite(params[name]).all():
      raise ValueError(f'scorer: {name} holds NaN or infinity')
  if not np.all(params['pca_scale']):
    raise ValueError('scorer: pca_scale holds 0, by which it would divide')


def _product(equation: str, *xs: Any) -> jax.Array:
  return jnp.einsum(
    equation,
    *xs,
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=jnp.float32,
  )


def _unit(x):
  # The root of a square that cannot be 0 has a gradient everywhere.
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x / jnp.sqrt(jnp.maximum(square, SHORTEST**2))
