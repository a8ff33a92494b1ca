"""FlashVID as a `Reducer`: settings, and the compression that reads them."""

from jaxtyping import Array, Bool, Float

from vlm.methods.flashvid.compress import compress, unchanged
from vlm.methods.flashvid.reduced import Reduced
from vlm.methods.flashvid.settings import Settings


class FlashVID(Settings):
  __doc__ = Settings.__doc__

  def reduce(
    self,
    features: Float[Array, 'B F N D'],
    attention: Float[Array, 'B F N'] | None = None,
    valid: Bool[Array, 'B F N'] | None = None,
  ) -> Reduced:
    """Reduces each video on its own; see `Reducer.reduce`.

    A token with a feature that is not finite counts as zeros, attention that is
    not finite as 0.

    Raises:
      ValueError: the selection needs attention and there is none.
    """
    if self.changes_nothing:
      return unchanged(features, valid)
    return compress(features, attention, valid, self)
