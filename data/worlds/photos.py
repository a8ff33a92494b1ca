"""Procedural photographs with degradations and what five crowds say of them.

  photo = make_photo(seed=0, family='A', index=7)
  photo.rgb          uint8 [32, 32, 3]
  photo.severities   float64 [5] in [0, 1], of degradations.KINDS
  photo.quality      latent, in [0, 1]; what one family's crowd sees
  photo.mos          the crowd's mean opinion, on the crowd's own scale
  photo.caption      ((kind, severity word), ...), with mistakes

Photograph `index` of `family` and `seed` is a pure function of the three: not
of the batch, the process or the others. Content, degradations, opinions and
captions use separate random streams.

Families are domains with their own content, degradations, bias, scale and noise
(spec 9.1). A crowd's opinion is lo + (hi - lo) phi(q) + noise, where phi is
another monotone function for each, and q weighs the degradations by what this
crowd minds. Normalised by each set's own range, equal quality is then worth up
to 1.5 points more in one set than in another, which is what breaks training on
mixed scores.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from data.worlds import degradations
from data.worlds.degradations import KINDS
from data.worlds.photo_content import FAMILIES
from vlm.methods.rali.prompts import SEVERITIES

VERSION = 1  # grows when the same seed and index give other pixels
SIZE = 32
WEIGHTS = np.array([0.9, 0.8, 0.8, 0.55, 0.6])  # of KINDS, for every crowd
POWER = 0.8
CLEAN = 'clean'  # the word of a caption without degradation
_CONTENT, _DEGRADATION, _OPINION, _CAPTION = range(4)  # streams of a photograph
_BIAS_SEED = 20_251_011  # crowds are the same in every world


@dataclasses.dataclass(frozen=True)
class Crowd:
  """Who judges a family.

  Attributes:
    low, high: ends of the scale.
    law: latent quality to a share of the scale, monotone on [0, 1].
    noise: of a mean opinion, as a share of the scale.
    counts: probability of 0, 1, 2, ... degradations at once.
    mild: severities are of Beta(1.2, 2) instead of uniform.
  """

  low: float
  high: float
  law: Callable[[float], float]
  noise: float
  counts: tuple[float, ...]
  mild: bool = False


def _logistic(q: float) -> float:
  """From 0 to 1, steepest in the middle."""
  ends = 1 / (1 + np.exp(4.0)), 1 / (1 + np.exp(-4.0))
  return (1 / (1 + np.exp(-8 * (q - 0.5))) - ends[0]) / (ends[1] - ends[0])


CROWDS = {
  'A': Crowd(0, 100, lambda q: q, 0.05, (0.15, 0.5, 0.35), mild=True),
  'B': Crowd(1, 5, lambda q: q**1.6, 0.06, (0.15, 0.5, 0.35), mild=True),
  'C': Crowd(1, 5, np.sqrt, 0.04, (0.0, 1.0)),
  'D': Crowd(0, 9, _logistic, 0.08, (0.1, 0.45, 0.45)),
  'E': Crowd(-1, 1, lambda q: 1 - (1 - q) ** 1.5, 0.1, (0.1, 0.45, 0.45)),
}


@dataclasses.dataclass(frozen=True)
class Label:
  """All about a photograph but its pixels; see the module's docstring."""

  family: str
  index: int
  severities: np.ndarray
  quality: float
  mos: float
  caption: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Photo(Label):
  """A photograph."""

  rgb: np.ndarray


def stream(
  seed: int, family: str, index: int, purpose: int
) -> np.random.Generator:
  """The random stream of a photograph for one purpose."""
  if family not in FAMILIES or index < 0:
    raise ValueError(
      f'photograph {index} of family {family!r}, expected one from 0 of '
      f'{list(FAMILIES)}'
    )
  key = (list(FAMILIES).index(family), index, purpose)
  sequence = np.random.SeedSequence(seed, spawn_key=key)
  return np.random.Generator(np.random.Philox(sequence))


@functools.cache
def bias(family: str) -> np.ndarray:
  """How much this crowd minds each of KINDS: [5] in [0.5, 1.3]."""
  key = (list(FAMILIES).index(family),)
  sequence = np.random.SeedSequence(_BIAS_SEED, spawn_key=key)
  rng = np.random.Generator(np.random.Philox(sequence))
  return rng.uniform(0.5, 1.3, len(KINDS))


def quality_of(severities: np.ndarray, minds: np.ndarray | float) -> float:
  """q = clip(1 - sum_d w_d v_d s_d^0.8, 0, 1).

  Args:
    severities: [5], of KINDS.
    minds: v, as of `bias`; 1 for nobody's.
  """
  lost = (WEIGHTS * minds * severities**POWER).sum()
  return float(np.clip(1 - lost, 0, 1))


def severity_word(severity: float) -> str:
  """One of five words for equal parts of (0, 1]."""
  return SEVERITIES[min(int(np.ceil(severity * 5)), 5) - 1]


def draw_severities(rng: np.random.Generator, crowd: Crowd) -> np.ndarray:
  """Severities [5] as this family has them."""
  count = rng.choice(len(crowd.counts), p=crowd.counts)
  chosen = rng.choice(len(KINDS), count, replace=False)
  drawn = rng.beta(1.2, 2, count) if crowd.mild else rng.random(count)
  severities = np.zeros(len(KINDS))
  severities[chosen] = np.maximum(drawn, 0.02)
  return severities


def caption_of(
  severities: np.ndarray, rng: np.random.Generator | None = None
) -> tuple[tuple[str, str], ...]:
  """(kind, severity word) of every degradation, strongest first.

  Args:
    severities: [5].
    rng: makes mistakes: one in ten is overlooked, one in twenty called by
      another name, a quarter called one step too weak or too strong.
  """
  said = []
  for number in np.argsort(-severities, kind='stable'):
    if severities[number] == 0:
      break
    kind, word = KINDS[number], severity_word(severities[number])
    if rng is not None:
      kind, word = _mistaken(kind, word, rng)
    if kind and kind not in [before for before, _ in said]:
      said.append((kind, word))
  return tuple(said)


def _mistaken(kind: str, word: str, rng) -> tuple[str, str]:
  overlooked, renamed, stepped = rng.random(3) < (0.1, 0.05, 0.25)
  other, step = KINDS[rng.integers(len(KINDS))], rng.choice((-1, 1))
  if overlooked:
    return '', ''
  place = SEVERITIES.index(word) + (step if stepped else 0)
  word = SEVERITIES[int(np.clip(place, 0, len(SEVERITIES) - 1))]
  return (other if renamed else kind), word


def make_label(seed: int, family: str, index: int) -> Label:
  """Everything but the pixels.

  Raises:
    ValueError: an unknown family, or a negative index.
  """
  crowd = CROWDS.get(family)
  drawn = stream(seed, family, index, _DEGRADATION)
  severities = draw_severities(drawn, crowd)
  quality = quality_of(severities, bias(family))
  noise = stream(seed, family, index, _OPINION).standard_normal()
  span = crowd.high - crowd.low
  share = crowd.law(quality) + crowd.noise * noise
  captioned = stream(seed, family, index, _CAPTION)
  return Label(
    family,
    index,
    severities,
    quality,
    float(crowd.low + span * share),
    caption_of(severities, captioned),
  )


def make_photo(seed: int, family: str, index: int, size: int = SIZE) -> Photo:
  """A photograph with its label.

  Args:
    seed: of the world.
    family: 'A' to 'E'.
    index: from 0.
    size: side in pixels, a multiple of 8.
  """
  label = make_label(seed, family, index)
  content = stream(seed, family, index, _CONTENT)
  pixels = FAMILIES[family](content, size)
  # The sensor's noise goes on where the content's stream ends.
  pixels = degradations.degrade(pixels, label.severities, content)
  rgb = np.round(pixels * 255).astype(np.uint8)
  return Photo(**vars(label), rgb=rgb)
