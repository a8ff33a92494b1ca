"""The one prune inside a decoder (FastV, arXiv 2403.06764; deep in FlashVID).

While a prompt fills its cache, the visual tokens that its last token attends to
least leave the sequence in front of layer `layer`. Attention is that of the
layer before, averaged over heads. Later layers, and every decode step in them,
see only the survivors.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vlm.models.attention import last_row
from vlm.models.inputs import Prunable, last_that_stay, taken


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

    A table, because a product in float32 is not the ceiling of the double's;
    and a share that was computed is not exact in its last digits either.
    """
    kept = np.arange(count + 1) * self.share
    return np.ceil(kept - 1e-9).astype(np.int32)

  def left(self, count: int) -> int:
    """How many of `count` tokens stay."""
    return int(self.kept(count)[count])


class Survivors(NamedTuple):
  """The tokens that go on into the later layers.

  Attributes:
    order: int32 [B, S], their slots in the row, ascending.
    segment_ids: int32 [B, S], 0 where a row has fewer.
  """

  order: jax.Array
  segment_ids: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Pruning:
  """A prune at work on the rows of a batch, which end together.

  Attributes:
    prune: where and how much.
    prunable: which tokens it may take.
  """

  prune: Prune
  prunable: Prunable

  def length(self, tokens: int) -> int:
    """S, of rows of `tokens` tokens when they leave."""
    most = self.prunable.most
    return tokens - most + self.prune.left(most)

  def survivors(
    self,
    q: Float[Array, 'B 1 N H'],
    k: Float[Array, 'B T K H'],
    segment_ids: Int[Array, 'B T'],
  ) -> Survivors:
    """The tokens that stay; of equally attended ones the earlier.

    Args:
      q: the last token's queries in layer K - 1, with their rotary phases.
      k: the row's keys there.
      segment_ids: of the row.
    """
    slots = self.prunable.slots
    scores = last_row(q, k, segment_ids).mean(axis=1)
    scores = jnp.where(slots, scores, -jnp.inf)
    rank = jnp.argsort(jnp.argsort(-scores, axis=1, stable=True), axis=1)
    table = jnp.asarray(self.prune.kept(slots.shape[1]))
    count = table[slots.sum(axis=1)]
    stay = jnp.where(slots, rank < count[:, None], True) & (segment_ids != 0)
    order = last_that_stay(stay, self.length(slots.shape[1]))
    ids = jnp.where(taken(stay, order), taken(segment_ids, order), 0)
    return Survivors(order, ids)
