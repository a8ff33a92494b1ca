"""Procedural clips as rows of random-access sources."""

import dataclasses

import numpy as np

from data.worlds import clips
from data.worlds.clips import Clip, ClipSettings


@dataclasses.dataclass(frozen=True)
class ClipRows:
  """`count` clips; row i depends on `seed` and i alone.

  Attributes:
    seed: of the clips.
    count: how many there are.
    settings: of the world.
  """

  seed: int
  count: int
  settings: ClipSettings

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index: int) -> Clip:
    rng = np.random.default_rng([self.seed, index])
    return clips.draw(rng, self.settings)


@dataclasses.dataclass(frozen=True)
class Lessons:
  """`count` clips of several settings, mixed in one way and then another.

  To be read in order: what is easy comes first.

  Attributes:
    seed: of the clips.
    count: how many there are.
    settings: of the worlds.
    first: share of each of them in the first `warmup` rows.
    then: share of each of them afterwards.
    warmup: how many rows are mixed by `first`.
  """

  seed: int
  count: int
  settings: tuple[ClipSettings, ...]
  first: tuple[float, ...]
  then: tuple[float, ...]
  warmup: int

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index: int) -> Clip:
    rng = np.random.default_rng([self.seed, index])
    shares = self.first if index < self.warmup else self.then
    return clips.draw(rng, self.settings[rng.choice(len(shares), p=shares)])
