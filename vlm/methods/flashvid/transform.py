"""A reducer of video tokens between tower and decoder, in any family.

The host says which visual tokens are a video's (plan/frames, see
data/pipeline.py); images, text and newlines are not touched.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vlm.methods.flashvid.reduced import Reducer
from vlm.models.prune import Prune
from vlm.models.visual import VisualTokens, frames_of


@dataclasses.dataclass(frozen=True)
class VideoReduction:
  """A `vlm.models.visual.VisualTransform`.

  A token that is left stands where its index says: its vector takes the place
  of the one there, all others leave the row. DeepStack features are those of
  the places that are left; they are not merged (as in the released code).

  Attributes:
    reducer: `FlashVID`, or one of its peers.
  """

  reducer: Reducer

  @property
  def needs_attention(self) -> bool:
    """Whether the tower has to say what each token receives."""
    return self.reducer.needs_attention

  def room(self, frames: int, tokens: int) -> int:
    """The most tokens it leaves of a video of frames x tokens."""
    return self.reducer.room(frames, tokens)

  def prune(self, depth: int) -> Prune | None:
    """What is pruned inside a decoder of `depth` layers."""
    return self.reducer.prune(depth)

  def __call__(
    self, visual: VisualTokens, plan: dict[str, jax.Array]
  ) -> VisualTokens:
    """Reduces every video of every row; a batch without any is untouched."""
    if 'frames' not in plan:
      return visual
    frames = plan['frames']  # [B, V, F, N]
    rows = len(frames)
    attention = visual.received_attention
    if attention is not None:
      attention = frames_of(attention, frames)
    valid = (frames >= 0).reshape(-1, *frames.shape[2:])
    features = frames_of(visual.tokens, frames)
    reduced = self.reducer.reduce(features, attention, valid)
    # Where each token that is left stands among the row's, M where nothing is.
    none = visual.tokens.shape[1]
    places = frames.reshape(len(valid), -1)
    index = jnp.minimum(reduced.index, places.shape[1] - 1)
    index = jnp.take_along_axis(places, index, axis=1)
    index = jnp.where(reduced.valid, index, none).reshape(rows, -1)
    new = reduced.tokens.reshape(rows, index.shape[1], -1)
    all_of = jnp.where(frames < 0, none, frames).reshape(rows, -1)
    tokens, kept = jax.vmap(_replaced)(visual.tokens, all_of, index, new)
    if visual.kept is not None:
      kept = kept & visual.kept
    return visual._replace(tokens=tokens, kept=kept)


def _replaced(tokens, all_of, index, new):
  """One row's tokens with the videos' replaced by what is left of them."""
  kept = jnp.ones(len(tokens), bool)
  kept = kept.at[all_of].set(False, mode='drop')
  kept = kept.at[index].set(True, mode='drop')
  tokens = tokens.at[index].set(new.astype(tokens.dtype), mode='drop')
  return tokens, kept
