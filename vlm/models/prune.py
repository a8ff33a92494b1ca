"""The one prune inside a decoder (FastV, arXiv 2403.06764; deep in FlashVID).

While a prompt fills its cache, the visual tokens that its last token attends to
least leave the sequence in front of layer `layer`. Attention is that of the
layer before, averaged over heads. Later layers, and every decode step in them,
see only the survivors.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Prune:
  """Which layer prunes, and how much stays.

  Attributes:
    layer: K >= 1; layers 0 .. K - 1 see every token.
    share: r in (0, 1), of the visual tokens that stay: ceil(M r) of M.
  """

  layer: int
  share: float

  def __post_init__(self):
    if self.layer < 1 or not 0 < self.share < 1:
      raise ValueError(
        f'{self}: expected layer at least 1 and share between 0 and 1'
      )

  def kept(self, count: int) -> np.ndarray:
    """int32 [count + 1]: how many of 0, 1, ... count tokens stay.

    A table, because a product in float32 is not the ceiling of the double's.
    """
    return np.ceil(np.arange(count + 1) * self.share).astype(np.int32)
