"""DyCoke, stage 1: frames of a window keep what differs from a neighbour."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from vlm.methods.flashvid.peers import budgets, selection
from vlm.methods.flashvid.peers.peer import Peer

WINDOW = 4


@dataclasses.dataclass(frozen=True)
class DyCoke(Peer):
  """DyCoke (arXiv 2411.15024), its merging of frames before the decoder.

  In windows of four frames the first stays whole; the second and the fourth
  keep the tokens least similar to the frame before at equal places, the third
  those least similar to the first. Stage 2, which swaps cached keys in and out
  while decoding, is no reduction of the prompt and is left out.

  With W = ceil(F / 4) whole frames the others keep int((R F N - W N) / (F - W))
  tokens each, so the total is at most R F N, or W N where that is more (few
  frames). R = 0.475 is the released pruning rate k = 0.7 for whole windows.

  Raises:
    ValueError: for R < 1/4, which whole frames alone would exceed.
  """

  def __post_init__(self):
    super().__post_init__()
    self._expect(
      self.retention >= 1 / WINDOW,
      'retention',
      f'at least 1/{WINDOW}, the frames that stay whole',
    )

  def _video(self, video):
    total, count = video.live.shape
    frame = np.arange(total)
    place = frame % WINDOW
    reference = frame - np.array([0, 1, 2, 1])[place]
    unit = selection.unit(video.x)
    near = jnp.einsum('fnd,fnd->fn', unit, unit[reference], precision='highest')
    kept = budgets.at(self._kept(total, count), video.frames, video.tokens)
    kept = jnp.where(place == 0, video.tokens, kept)
    return video.x, selection.best(-near, video.live, kept)

  def _kept(self, frames: int, tokens: int) -> np.ndarray:
    """int32 [frames + 1, tokens + 1]: of a frame that is not whole."""
    frame = np.arange(frames + 1)
    whole = -(-frame // WINDOW)
    each = (self.retention * frame - whole) / np.maximum(frame - whole, 1)
    each = np.clip(each, 0, 1)[:, None] * np.arange(tokens + 1)
    return budgets.floored(1.0, each)

  def _room(self, frames, tokens):
    whole = -(-frames // WINDOW) * tokens
    return max(whole, int(budgets.floored(self.retention, frames * tokens)))
