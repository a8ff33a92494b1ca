"""Stage 2 of RALI: basis vectors, each a way to be of some quality.

Embeddings are compressed by a PCA. The range of opinions is cut into N bins of
equal width; the embeddings of a bin are clustered; every cluster gives a basis
vector (its mean) and a basis score (the mean opinion of its images):

    mu_nj = sum_m r_mj e_m / sum_m r_mj    f_nj = sum_m r_mj s_m / sum_m r_mj

Bins keep clusters pure in quality, clusters keep several ways to be of it.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vlm.methods.rali import clusters, pca

SOURCES = ('image', 'text', 'both')


@dataclasses.dataclass(frozen=True)
class BasisSettings:
  """Choices of stage 2; defaults are the paper's (arXiv 2510.11369).

  Attributes:
    prototypes: K, basis vectors.
    bins: N, of the range of opinions; 0 clusters all embeddings at once.
    components: of the PCA; 0 leaves it out.
    source: embeddings of the images, of their descriptions, or of both, each
      with the opinion of its image.
    unit: bring embeddings to length 1 first.
    seed: of the clusters.
  """

  prototypes: int = 250
  bins: int = 240
  components: int = 512
  source: str = 'image'
  unit: bool = False
  seed: int = 0

  def __post_init__(self):
    for name, least in (('prototypes', 1), ('bins', 0), ('components', 0)):
      if getattr(self, name) < least:
        raise ValueError(
          f'basis.{name}={getattr(self, name)}, expected at least {least}'
        )
    if self.source not in SOURCES:
      raise ValueError(
        f'basis.source={self.source!r}, expected one of {SOURCES}'
      )


class Basis(NamedTuple):
  """What stage 2 makes, in float64.

  Attributes:
    pca: to the space of the vectors.
    vectors: [K, P].
    scores: [K], on the scale of the opinions.
    bins: how many there were after empty ones made them too many.
  """

  pca: pca.Pca
  vectors: np.ndarray
  scores: np.ndarray
  bins: int


def make_basis(
  settings: BasisSettings,
  opinions: Float[np.ndarray, 'S'],
  images: Float[np.ndarray, 'M E'] | None = None,
  texts: Float[np.ndarray, 'M E'] | None = None,
) -> Basis:
  """The basis of training images.

  Args:
    settings: choices.
    opinions: mean opinion score of each image.
    images: their embeddings, not of unit length.
    texts: embeddings of their descriptions.

  Raises:
    ValueError: embeddings missing for `settings.source`, numbers that are not
      finite, opinions that are all equal, or more prototypes than embeddings.
  """
  x, opinions = _chosen(settings, opinions, images, texts)
  if settings.unit:
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  compress = pca.identity(x.shape[1])
  if settings.components:
    compress = pca.fit(x, settings.components)
  owners, bins = _clustered(settings, compress(x), opinions)
  count = settings.prototypes
  return Basis(
    compress,
    clusters.means(compress(x), owners, count),
    clusters.means(opinions, owners, count),
    bins,
  )


def bin_of(opinions: Float[np.ndarray, 'M'], bins: int) -> Int[np.ndarray, 'M']:
  """The bin of each opinion: equal width from least to largest.

  A bin holds its left edge; the last one both.
  """
  low, high = opinions.min(), opinions.max()
  inside = np.floor((opinions - low) / (high - low) * bins)
  return np.minimum(inside.astype(np.int64), bins - 1)


def allotment(
  counts: Int[np.ndarray, 'N'], prototypes: int
) -> Int[np.ndarray, 'N']:
  """How many clusters each bin gets: k_n, summing to `prototypes`.

  One for every bin that holds anything; the rest one at a time to the bin with
  most members for each of its clusters (of equals the lowest), never more than
  it has members.

  Raises:
    ValueError: fewer prototypes than bins in use, or more than members.
  """
  given = (counts > 0).astype(np.int64)
  if not given.sum() <= prototypes <= counts.sum():
    raise ValueError(
      f'basis.prototypes={prototypes}, expected {given.sum()} (bins in use) to '
      f'{counts.sum()} (embeddings)'
    )
  while given.sum() < prototypes:
    room = given < counts
    load = np.where(room, counts / np.maximum(given, 1), -1.0)
    given[load.argmax()] += 1
  return given


def _clustered(settings, x, opinions) -> tuple[np.ndarray, int]:
  """The cluster of each embedding, and how many bins there were."""
  bins, count = settings.bins, settings.prototypes
  if count > len(x):
    raise ValueError(
      f'basis.prototypes={count}, but there are {len(x)} embeddings'
    )
  if not bins:
    rng = np.random.default_rng(settings.seed)
    return clusters.k_means(x, count, rng), 0
  while len(np.unique(bin_of(opinions, bins))) > count:
    bins -= 1
  inside = bin_of(opinions, bins)
  given = allotment(np.bincount(inside, minlength=bins), count)
  first = np.cumsum(given) - given
  owners = np.zeros(len(x), np.int64)
  for number in np.flatnonzero(given):
    rng = np.random.default_rng([settings.seed, int(number)])
    members = np.flatnonzero(inside == number)
    found = clusters.k_means(x[members], int(given[number]), rng)
    owners[members] = first[number] + found
  return owners, bins


def _chosen(settings, opinions, images, texts):
  """Embeddings of the source and their opinions, checked, float64."""
  wanted = {'image': ('images',), 'text': ('texts',)}
  wanted = wanted.get(settings.source, ('images', 'texts'))
  parts = {'images': images, 'texts': texts}
  opinions = np.asarray(opinions, np.float64)
  for name in wanted:
    if parts[name] is None:
      raise ValueError(
        f'basis.source={settings.source!r} needs embeddings of {name}'
      )
    if len(parts[name]) != len(opinions):
      raise ValueError(
        f'{len(parts[name])} embeddings of {name} and {len(opinions)} opinions'
      )
  x = np.concatenate([np.asarray(parts[name], np.float64) for name in wanted])
  opinions = np.tile(opinions, len(wanted))
  for name, values in (('embedding', x), ('opinion', opinions)):
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
      raise ValueError(f'{name} {int(bad.argmax())} is not finite')
  if opinions.min() == opinions.max():
    raise ValueError(
      f'all {len(opinions)} opinions are {opinions[0]:g}: nothing tells good '
      'from bad'
    )
  return x, opinions
