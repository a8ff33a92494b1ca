"""Dynamic NTK scaling of rotary positions: a longer text turns more slowly.

Beyond the length L of the training, the base theta of the rotary angles grows
with the length S of the text, so that the slowest angle stays within what was
trained (the rule of transformers' rope type 'dynamic'):

    theta(S) = theta * (factor * max(S, L) / L - (factor - 1)) ^ (H / (H - 2))
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class DynamicNTK:
  """Facts of a checkpoint whose positions are scaled.

  Attributes:
    factor: how fast the base grows.
    length: L, up to which nothing changes (`max_position_embeddings`).
  """

  factor: float
  length: int

  def theta(
    self,
    theta: float,
    head_dim: int,
    positions: Int[Array, 'B T'],
    segment_ids: Int[Array, 'B T'],
    slots: int,
  ) -> float | Float[Array, 'B T 1']:
    """The base at every slot, for `layers.rope_angles`.

    S is the last position of the token's own sample, plus one: neither padding
    nor the other samples of a row or batch change a sample. A token that is
    decoded on its own sees the text up to itself, and keys in a cache keep the
    base they were written with; both are so in transformers' `generate`.

    Args:
      theta: the base of the checkpoint.
      head_dim: H.
      positions: of the slots at hand.
      segment_ids: which tell samples apart.
      slots: compiled length of the sequence, or of the cache: no position
        reaches it, so up to L nothing has to be computed.
    """
    if slots <= self.length:
      return theta
    length = (_last(positions, segment_ids) + 1).astype(jnp.float32)
    stretch = self.factor * jnp.maximum(length / self.length, 1)
    grown = theta * (stretch - (self.factor - 1)) ** (head_dim / (head_dim - 2))
    return grown[..., None]


def _last(positions, segment_ids):
  """The largest position of each slot's segment, [B, T]."""
  segments = positions.shape[1] + 1  # 0 is padding

  def row(positions, ids):
    last = jax.ops.segment_max(positions, ids, num_segments=segments)
    return last[ids]

  return jax.vmap(row)(positions, segment_ids)
