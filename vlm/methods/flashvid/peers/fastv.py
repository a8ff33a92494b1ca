"""FastV: prune by the last token's attention behind two layers."""

import dataclasses

from vlm.methods.flashvid.peers import budgets
from vlm.methods.flashvid.peers.peer import Peer
from vlm.models.prune import Prune


@dataclasses.dataclass(frozen=True)
class FastV(Peer):
  """FastV (arXiv 2403.06764): nothing before the decoder, one prune inside.

  As published R is the share that stays from layer 2 on, so the average over
  layers is higher than R; `aligned` solves for the share. Counts are ceilings,
  as `Prune` has them (FastV rounds).

  Attributes:
    layer: K, in front of which it prunes.
    share: of the tokens that stay; None for R.
  """

  layer: int = 2
  share: float | None = None

  def __post_init__(self):
    super().__post_init__()
    self._expect(self.layer >= 1, 'layer', 'at least 1')
    whole = self.share is None or 0 < self.share <= 1
    self._expect(whole, 'share', 'a share in (0, 1]')

  @classmethod
  def aligned(cls, retention: float, depth: int, layer: int = 2) -> 'FastV':
    """Share r with (K + (L - K) r) / L = R.

    Raises:
      ValueError: when R <= K / L, which layer=1 lowers to 1 / L.
    """
    whole = cls(retention, layer)
    if retention == 1:
      return whole
    share = budgets.share_after(retention, layer, depth)
    return cls(retention, layer, share)

  def prune(self, depth: int) -> Prune | None:
    share = self.retention if self.share is None else self.share
    if self.retention == 1 or share == 1:
      return None
    self._expect(self.layer < depth, 'layer', f'less than the {depth} layers')
    return Prune(self.layer, share)

  def _video(self, video):
    return video.x, video.live

  def _room(self, frames, tokens):
    return frames * tokens
