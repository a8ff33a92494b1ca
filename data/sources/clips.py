"""Procedural clips as rows of a random-access source."""

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
