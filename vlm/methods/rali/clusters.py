"""k-means that leaves no cluster empty and draws the same way every time."""

import numpy as np
from jaxtyping import Float, Int

ITERATIONS = 300


def k_means(
  points: Float[np.ndarray, 'M P'],
  count: int,
  rng: np.random.Generator,
  iterations: int = ITERATIONS,
) -> Int[np.ndarray, 'M']:
  """The cluster of each point: Lloyd's iterations from a k-means++ start.

  A point between two centres goes to the lower one. A cluster that loses all
  its points takes the one that lies farthest from its centre, of clusters that
  have others left; so there are `count` clusters even of equal points.

  Args:
    points: in float64.
    count: of clusters, at most M.
    rng: for the start.
    iterations: at most.

  Raises:
    ValueError: more clusters than points.
  """
  if not 1 <= count <= len(points):
    raise ValueError(f'{count} clusters of {len(points)} points')
  if count == 1:
    return np.zeros(len(points), np.int64)
  centres, owners = _start(points, count, rng), None
  for _ in range(iterations):
    before, owners = owners, _assign(points, centres)
    if before is not None and np.array_equal(before, owners):
      break
    centres = means(points, owners, count)
  return owners


def means(
  values: Float[np.ndarray, 'M *P'], owners: Int[np.ndarray, 'M'], count: int
) -> Float[np.ndarray, 'K *P']:
  """The mean of each cluster's values; none may be empty."""
  total = np.zeros((count, *values.shape[1:]), np.float64)
  np.add.at(total, owners, values)
  sizes = np.bincount(owners, minlength=count)
  return total / sizes.reshape(-1, *[1] * (values.ndim - 1))


def _distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
  """Squared distances [M, K]; by products, which need no [M, K, P]."""
  squares = (points**2).sum(1)[:, None] + (centres**2).sum(1)
  return np.maximum(squares - 2 * points @ centres.T, 0)


def _start(points, count, rng) -> np.ndarray:
  """Centres drawn with odds of their squared distance to the nearest one."""
  chosen = [int(rng.integers(len(points)))]
  nearest = ((points - points[chosen[0]]) ** 2).sum(1)
  while len(chosen) < count:
    total = nearest.sum()
    if total > 0:
      chosen.append(int(rng.choice(len(points), p=nearest / total)))
    else:
      chosen.append(int(rng.integers(len(points))))
    nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(1))
  return points[chosen]


def _assign(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
  distances = _distances(points, centres)
  owners = distances.argmin(axis=1)
  own = distances[np.arange(len(points)), owners]
  sizes = np.bincount(owners, minlength=len(centres))
  for empty in np.flatnonzero(sizes == 0):
    taken = int(np.where(sizes[owners] > 1, own, -1.0).argmax())
    sizes[owners[taken]] -= 1
    owners[taken], own[taken], sizes[empty] = empty, 0.0, 1
  return owners
