"""Principal components, exact and the same on every run."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Pca(NamedTuple):
  """A linear map to P numbers: components @ (x - mean).

  Attributes:
    mean: float64 [E].
    components: float64 [P, E], orthonormal rows, the largest variance first.
    variance: float64 [P], of the training embeddings along each row (ddof 1).
  """

  mean: np.ndarray
  components: np.ndarray
  variance: np.ndarray

  def __call__(self, x: Float[np.ndarray, 'M E']) -> Float[np.ndarray, 'M P']:
    """Projects embeddings, in float64."""
    return (np.asarray(x, np.float64) - self.mean) @ self.components.T


def fit(x: Float[np.ndarray, 'M E'], count: int) -> Pca:
  """The `count` directions of largest variance, by SVD in float64.

  A direction and its opposite explain as much; the one whose entry of largest
  magnitude is positive is taken, as scikit-learn does.

  Raises:
    ValueError: more components than the embeddings can have.
  """
  rows, width = x.shape
  most = min(rows - 1, width)
  if not 1 <= count <= most:
    raise ValueError(
      f'basis.components={count}, expected 1 to {most}: there are {rows} '
      f'embeddings of {width} numbers (0 leaves the PCA out)'
    )
  x = np.asarray(x, np.float64)
  mean = x.mean(axis=0)
  _, spread, components = np.linalg.svd(x - mean, full_matrices=False)
  components = components[:count]
  largest = np.abs(components).argmax(axis=1)
  signs = np.sign(components[np.arange(count), largest])
  variance = spread[:count] ** 2 / (rows - 1)
  return Pca(mean, components * signs[:, None], variance)


def identity(width: int) -> Pca:
  """The map that leaves embeddings as they are."""
  return Pca(np.zeros(width), np.eye(width), np.ones(width))
