"""The miniature's scenes as region features, made once and kept on disk.

Three parts of one world: `knowledge`, scenes without held-out nouns, whose
regions are labelled; `paired`, scenes with all nouns, whose captions only the
supervised bound may read, and whose regions give the oracle its prototypes; and
`test`. Knowledge and test never share a scene.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from data.worlds import nouns, patch_code, scenes

PARTS = ('knowledge', 'paired', 'test')
FITTED = 400  # scenes of knowledge whose crops the code is fitted on
VERSION = 1  # of what is kept; part of the file's name


@dataclasses.dataclass(frozen=True)
class Part:
  """Scenes as arrays.

  Attributes:
    scenes: what they hold.
    features: float32 [n, I, M].
  """

  scenes: tuple[scenes.Scene, ...]
  features: np.ndarray

  @functools.cached_property
  def captions(self) -> list[str]:
    """All captions, those of a scene together."""
    return [text for scene in self.scenes for text in scene.captions]

  @functools.cached_property
  def owners(self) -> np.ndarray:
    """int [C], the scene of each caption."""
    counts = [len(scene.captions) for scene in self.scenes]
    return np.repeat(np.arange(len(self.scenes)), counts)

  def words(self) -> np.ndarray:
    """[n, I, 2] of str: the noun and the colour of each region."""
    return np.array(
      [[(t.noun, t.colour) for t in scene.things] for scene in self.scenes]
    )


def load(settings: Any) -> dict[str, Part]:
  """The world of `config.scenes`; made and kept if it is not there.

  Args:
    settings: with seed, appearance ('pixels' or 'features'), features, filters,
      cache, and the number of scenes of each of `PARTS`.

  Raises:
    ValueError: for another appearance.
  """
  if settings.appearance not in APPEARANCES:
    raise ValueError(
      f'--config.scenes.appearance={settings.appearance!r}, expected one of '
      f'{tuple(APPEARANCES)}'
    )
  composed = {part: compose(settings, part) for part in PARTS}
  arrays = _kept(settings, composed)
  return {part: Part(composed[part], arrays[part]) for part in PARTS}


def compose(settings: Any, part: str) -> tuple[scenes.Scene, ...]:
  """What the scenes of a part hold."""
  # Numbers go on where the part before ends: parts are different scenes.
  before = PARTS[: PARTS.index(part)]
  first = sum(settings[name] for name in before)
  return tuple(
    scenes.compose(settings.seed, first + number, part == 'knowledge')
    for number in range(settings[part])
  )


def crops(of: Sequence[scenes.Scene]) -> np.ndarray:
  """Region crops: uint8 [n, I, S, S, 3]."""
  return np.stack([scenes.regions(scenes.render(one), one) for one in of])


def _kept(settings: Any, composed) -> dict[str, np.ndarray]:
  path = epath.Path(settings.cache) / f'{_name(settings)}.npz'
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    made = APPEARANCES[settings.appearance](settings, composed)
    scratch = path.with_suffix('.partial')
    with scratch.open('wb') as file:
      np.savez(file, **made)
    scratch.rename(path)
  with np.load(path.open('rb')) as file:
    return {part: file[part] for part in PARTS}


def _name(settings: Any) -> str:
  facts = dict(settings) | {'cache': '', 'version': VERSION}
  text = json.dumps(facts, sort_keys=True)
  return 'scenes-' + hashlib.sha256(text.encode()).hexdigest()[:12]


def _from_pixels(settings: Any, composed) -> dict[str, np.ndarray]:
  fitted = crops(composed['knowledge'][:FITTED])
  code = patch_code.fit(
    fitted.reshape(-1, *fitted.shape[2:]),
    filters=settings.filters,
    features=settings.features,
    seed=settings.seed,
  )
  return {part: _encoded(code, of) for part, of in composed.items()}


def _encoded(code: patch_code.Code, of) -> np.ndarray:
  """float32 [n, I, M]; pictures are held for a few scenes at a time."""
  found = []
  for first in range(0, len(of), 256):
    shown = crops(of[first : first + 256])
    flat = patch_code.encode(code, shown.reshape(-1, *shown.shape[2:]))
    found.append(flat.reshape(*shown.shape[:2], -1))
  return np.concatenate(found)


def _from_codes(settings: Any, composed) -> dict[str, np.ndarray]:
  """Without pixels: ReLU(family + word + colour + pose + scene + clutter)."""
  rng = np.random.default_rng([settings.seed, 1])
  draw = lambda names: {
    name: rng.normal(size=settings.features) for name in names
  }
  tables = draw(nouns.FAMILIES), draw(nouns.NOUNS), draw(nouns.COLOURS)
  make = functools.partial(_coded, *tables, settings.features)
  return {
    part: np.stack([make(scene) for scene in of]).astype(np.float32)
    for part, of in composed.items()
  }


def _coded(families, words, colours, width: int, scene) -> np.ndarray:
  rng = np.random.default_rng([scene.seed, scene.number, 4])
  codes = np.stack(
    [
      1.2 * families[nouns.FAMILY[thing.noun]]
      + words[thing.noun] * (1 + 0.3 * rng.normal(size=width))
      + 0.8 * colours[thing.colour]
      for thing in scene.things
    ]
  )
  clutter = 0.5 * rng.normal(size=codes.shape)
  return np.maximum(codes + 0.5 * codes.mean(0) + clutter, 0)


APPEARANCES = {'pixels': _from_pixels, 'features': _from_codes}
