"""What is known of words: a folder with a prototype for each.

  knowledge.json         words, counts, where vectors and regions come from
  knowledge.safetensors  vectors [K, N], prototypes [K, Z], variance [K, Z]

With the region encoder's files beside them (data/region_encoder.py), prototypes
are means of its codes; without, of the features themselves, as in MACK.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from data.words.captions import KNOWN, OOD, UNKNOWN
from data.words.vectors import WordVectors
from vlm.methods.mask.reconstruct import PRESETS, Reconstruction, reconstruct

FACTS = 'knowledge.json'
ARRAYS = 'knowledge.safetensors'
# What is done about words that have a vector and no prototype.
DROP, CONSTANT, RECONSTRUCT = 'drop', 'constant', 'reconstruct'
OOD_MODES = (DROP, CONSTANT, RECONSTRUCT)
# Vectors of one source, read in different forms, differ by rounding alone.
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Knowledge:
  """Prototypes of K words.

  Attributes:
    words: all different, each with at least one region.
    vectors: float32 [K, N], of the words.
    prototypes: float32 [K, Z], means over each word's regions (Eq. 2).
    counts: int64 [K], regions of each word.
    variance: float32 [K, Z], of the regions of each word.
    vector_digest: of the file of the vectors; see `WordVectors`.
    meta: plain JSON values: where regions come from, what was left out.

  Raises:
    ValueError: for arrays that do not fit each other, that are not finite, or
      a word without a region.
  """

  words: tuple[str, ...]
  vectors: np.ndarray
  prototypes: np.ndarray
  counts: np.ndarray
  variance: np.ndarray
  vector_digest: str
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    k = len(self.words)
    rows = {name: len(getattr(self, name)) for name in _TABLES + ('counts',)}
    if not k or set(rows.values()) != {k} or len(set(self.words)) != k:
      raise ValueError(
        f'knowledge of {k} words ({len(set(self.words))} different) with rows '
        f'{rows}: expected as many as words, and at least one'
      )
    if self.variance.shape != self.prototypes.shape:
      raise ValueError(
        f'prototypes {self.prototypes.shape} and variance '
        f'{self.variance.shape}, expected equal shapes'
      )
    for name in _TABLES:
      odd = np.flatnonzero(~np.isfinite(getattr(self, name)).all(axis=1))
      if len(odd):
        raise ValueError(
          f'the {name} of {self.words[odd[0]]!r} are not finite ({len(odd)} of '
          f'{k} words)'
        )
    empty = np.flatnonzero(np.asarray(self.counts) < 1)
    if len(empty):
      raise ValueError(f'{self.words[empty[0]]!r} has a prototype of no region')

  @functools.cached_property
  def index(self) -> dict[str, int]:
    """Row of each word."""
    return {word: row for row, word in enumerate(self.words)}

  @property
  def width(self) -> int:
    """Z."""
    return self.prototypes.shape[1]

  def mean(self) -> np.ndarray:
    """The mean of all regions, each as often as it has words; float32 [Z]."""
    weights = np.asarray(self.counts, np.float64)
    return np.average(self.prototypes, axis=0, weights=weights).astype('f4')

  def save(self, folder: epath.PathLike) -> None:
    """Writes the folder, facts last: without them it is not there."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
      name: np.ascontiguousarray(getattr(self, name), np.float32)
      for name in _TABLES
    }
    (folder / ARRAYS).write_bytes(safetensors.numpy.save(arrays))
    facts = {
      'words': list(self.words),
      'counts': np.asarray(self.counts).tolist(),
      'vector_digest': self.vector_digest,
      'meta': dict(self.meta),
    }
    (folder / FACTS).write_text(json.dumps(facts))

  @classmethod
  def load(cls, folder: epath.PathLike) -> 'Knowledge':
    """Reads a folder, local or gs://.

    Raises:
      FileNotFoundError: naming what is missing.
      ValueError: naming the file that is broken, or what does not fit.
    """
    folder = epath.Path(folder)
    for name in (FACTS, ARRAYS):
      if not (folder / name).exists():
        raise FileNotFoundError(
          f'--knowledge={folder}: {name} is missing; launch.knowledge makes '
          'such a folder'
        )
    try:
      facts = json.loads((folder / FACTS).read_text())
      arrays = safetensors.numpy.load((folder / ARRAYS).read_bytes())
      return cls(
        tuple(facts['words']),
        *(arrays[name] for name in ('vectors', 'prototypes')),
        np.array(facts['counts'], np.int64),
        arrays['variance'],
        facts['vector_digest'],
        facts['meta'],
      )
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
      raise ValueError(f'--knowledge={folder}: {error}') from error

  def check_vectors(self, vectors: WordVectors) -> None:
    """Makes sure that words are compared in the space they were learnt in.

    The same file has the same digest; of another form of it, a subset say, the
    vectors of all common words must be equal.

    Raises:
      ValueError: for vectors of another dimension, or other vectors.
    """
    if vectors.size != self.vectors.shape[1]:
      raise ValueError(
        f'--vectors have {vectors.size} dimensions, the knowledge was built '
        f'with {self.vectors.shape[1]}; give the same vectors to both'
      )
    if vectors.digest == self.vector_digest:
      return
    common = [word for word in self.words if word in vectors.index]
    mine = self.vectors[[self.index[word] for word in common]]
    gap = np.abs(mine - vectors.rows(common)).max(initial=0)
    if not common or gap > TOLERANCE:
      raise ValueError(
        '--vectors are others than the knowledge was built with: '
        f'{len(common)} common words, whose vectors differ by up to {gap:.3g}; '
        'give the same vectors to both'
      )

  def table_for(
    self,
    words: Sequence[str],
    vectors: WordVectors,
    *,
    ood: str = RECONSTRUCT,
    reconstruction: Reconstruction = PRESETS['recommended'],
  ) -> tuple[np.ndarray, tuple[str, ...]]:
    """What a matcher needs to know of the distinct words of captions.

    Args:
      words: W words; those without a region take what `ood` says.
      vectors: those of the words.
      ood: 'drop' leaves them out, 'constant' gives them all the mean of the
        prototypes, 'reconstruct' the weighted mean of their neighbours'.
      reconstruction: of 'reconstruct'.

    Returns:
      float32 [W, Z], whose rows of words that cannot be matched are zero, and
      each word's status: 'known', 'ood' (there is a vector), or 'unknown'.

    Raises:
      ValueError: for another `ood`, or vectors that `check_vectors` refuses.
    """
    if ood not in OOD_MODES:
      raise ValueError(f'--ood={ood!r}, expected one of {OOD_MODES}')
    self.check_vectors(vectors)
    status = tuple(
      KNOWN if w in self.index else OOD if w in vectors.index else UNKNOWN
      for w in words
    )
    table = np.zeros((len(words), self.width), np.float32)
    known = [row for row, one in enumerate(status) if one == KNOWN]
    table[known] = self.prototypes[[self.index[words[row]] for row in known]]
    others = [row for row, one in enumerate(status) if one == OOD]
    if others and ood == CONSTANT:
      table[others] = self.prototypes.mean(axis=0, dtype=np.float64)
    elif others and ood == RECONSTRUCT:
      asked = jnp.asarray(vectors.rows([words[row] for row in others]))
      table[others] = np.asarray(
        reconstruct(
          asked,
          jnp.asarray(self.vectors),
          jnp.asarray(self.prototypes),
          **dataclasses.asdict(reconstruction),
        )
      )
    return table, status


_TABLES = ('vectors', 'prototypes', 'variance')
