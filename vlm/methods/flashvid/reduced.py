"""What every method that leaves out video tokens takes and gives.

FlashVID and the methods it is compared with are `Reducer`s: frozen settings and
a pure function of the features of whole videos. `transform.VideoReduction` puts
one between tower and decoder.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Bool, Float

from vlm.models.prune import Prune


class Forest(NamedTuple):
  """Which token went into which; tokens are numbered f * N + n.

  Attributes:
    parents: int32 [B, F, N], the token one frame earlier that a token was
      merged into, -1 for a token that was not.
    roots: int32 [B, F, N], where its features ended up in the output; -1 where
      they were left out.
  """

  parents: jax.Array
  roots: jax.Array


class Reduced(NamedTuple):
  """The tokens that are left of B videos of F frames of N tokens.

  Attributes:
    tokens: [B, K, D], in the dtype of the features.
    index: int32 [B, K], f * N + n of the place where each stands, ascending;
      F * N in unused slots, which come last.
    valid: bool [B, K].
    counts: int32 [B, F], tokens left of each frame.
    forest: where it was asked for.
  """

  tokens: jax.Array
  index: jax.Array
  valid: jax.Array
  counts: jax.Array
  forest: Forest | None = None


@runtime_checkable
class Reducer(Protocol):
  """A method that leaves out, or merges, tokens of a video."""

  @property
  def needs_attention(self) -> bool:
    """Whether `reduce` reads received attention."""

  def prune(self, depth: int) -> Prune | None:
    """What it does inside a decoder of `depth` layers, if anything."""

  def room(self, frames: int, tokens: int) -> int:
    """K, the most tokens it leaves of a video of frames x tokens; a host int.

    Monotonic in both arguments.
    """

  def reduce(
    self,
    features: Float[Array, 'B F N D'],
    attention: Float[Array, 'B F N'] | None = None,
    valid: Bool[Array, 'B F N'] | None = None,
  ) -> Reduced:
    """Reduces each video on its own.

    Args:
      features: visual tokens in the decoder's width, any float dtype.
      attention: what each token receives in the tower; any positive scale.
      valid: which tokens are there; None for all. Frames and the tokens of a
        frame are filled from the front, and all frames of a video have equally
        many. What is not there has no influence on the result.
    """
