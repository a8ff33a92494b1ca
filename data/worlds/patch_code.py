"""A frozen code of small crops: whitened patches as filters, then PCA.

Coates, Lee and Ng, "An analysis of single-layer networks in unsupervised
feature learning" (2011), with patches drawn at random as the dictionary. It is
fitted on crops alone: no label and no word is seen.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

PATCH, STRIDE = 6, 2
POOLED = 2  # cells along a side, whose responses are averaged
SOFTENED = 0.05  # added to the variances of patches, of colours in [0, 1]
FLOOR = 1e-2  # smallest share of the largest variance that PCA scales up

Code = dict[str, np.ndarray]


def fit(
  crops: np.ndarray,
  *,
  filters: int,
  features: int,
  seed: int = 0,
) -> Code:
  """The code's arrays.

  Args:
    crops: uint8 [N, S, S, 3], typical ones.
    filters: patches of the dictionary; each gives two responses.
    features: numbers a crop becomes.
    seed: of the patches that are drawn.

  Raises:
    ValueError: for more features than the pooled responses or the crops are.
  """
  most = min(len(crops) - 1, 2 * filters * POOLED**2)
  if features > most:
    raise ValueError(
      f'{features} features of {filters} filters and {len(crops)} crops, '
      f'expected at most {most}'
    )
  rng = np.random.default_rng(seed)
  patches = _patches(crops, 20 * filters, rng)
  mean = patches.mean(0)
  variance, axes = np.linalg.eigh(np.cov(patches - mean, rowvar=False))
  whiten = (axes / np.sqrt(np.maximum(variance, 0) + SOFTENED**2)) @ axes.T
  chosen = (patches[rng.permutation(len(patches))[:filters]] - mean) @ whiten
  chosen /= np.linalg.norm(chosen, axis=1, keepdims=True) + 1e-6
  kernel = whiten @ chosen.T  # [P * P * 3, F]
  code = {
    'kernel': kernel.reshape(PATCH, PATCH, 3, filters).astype(np.float32),
    'bias': (-mean @ kernel).astype(np.float32),
  }
  responses = _in_blocks(functools.partial(_respond, code), crops)
  centre = responses.mean(0)
  spread = np.cov(responses - centre, rowvar=False)
  variance, axes = np.linalg.eigh(spread)
  variance, axes = variance[::-1][:features], axes[:, ::-1][:, :features]
  scale = np.sqrt(np.maximum(variance, FLOOR * variance[0]))
  return code | {
    'centre': centre.astype(np.float32),
    'axes': (axes / scale).astype(np.float32),
  }


def encode(code: Code, crops: np.ndarray) -> np.ndarray:
  """What crops, uint8 [N, S, S, 3], become: float32 [N, M]."""

  def run(block):
    return (_respond(code, block) - code['centre']) @ code['axes']

  return _in_blocks(run, crops)


def _patches(crops, count: int, rng) -> np.ndarray:
  """float64 [count, P * P * 3], colours in [0, 1]."""
  side = crops.shape[1] - PATCH + 1
  which = rng.integers(len(crops), size=count)
  y, x = rng.integers(side, size=(2, count))
  around = np.arange(PATCH)
  rows, columns = y[:, None, None] + around[:, None], x[:, None, None] + around
  drawn = crops[which[:, None, None], rows, columns]
  return drawn.reshape(count, -1) / 255


def _respond(code: Code, crops: jax.Array) -> jax.Array:
  """Both signs of every filter, averaged in each cell: [B, cells * 2 F]."""
  found = jax.lax.conv_general_dilated(
    crops.astype(jnp.float32) / 255,
    jnp.asarray(code['kernel']),
    (STRIDE, STRIDE),
    'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  found = found + code['bias']
  signs = jnp.concatenate([jax.nn.relu(found), jax.nn.relu(-found)], -1)
  edges = np.linspace(0, signs.shape[1], POOLED + 1).round().astype(int)
  spans = list(itertools.pairwise(edges))
  cells = [
    signs[:, top:low, left:right].mean((1, 2))
    for top, low in spans
    for left, right in spans
  ]
  return jnp.concatenate(cells, -1)


def _in_blocks(run, crops: np.ndarray, block: int = 256) -> np.ndarray:
  """`run` over all crops, in blocks of one shape."""
  run, found = jax.jit(run), []
  for first in range(0, len(crops), block):
    part = crops[first : first + block]
    filled = np.zeros((block, *crops.shape[1:]), crops.dtype)
    filled[: len(part)] = part
    found.append(np.asarray(run(filled))[: len(part)])
  return np.concatenate(found)
