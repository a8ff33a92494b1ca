"""The methods that the miniature compares, at equal cost per decoder layer."""

from collections.abc import Callable
from typing import Any

from vlm.methods.flashvid import FlashVID, peers

# M_s = 8 of 32 frames, as published, is 2 of 8.
SEGMENT_FRAMES = 4
EXPANSION = 1.2

Make = Callable[[float, int, int], Any]


def _flashvid(**settings: Any) -> Make:
  """R, depth, frames -> FlashVID that prunes in front of the last layer."""
  return lambda retention, depth, frames: FlashVID(
    retention,
    expansion=EXPANSION,
    layer=depth - 1,
    min_segments=max(1, frames // SEGMENT_FRAMES),
    **settings,
  )


def _peer(kind: Any, **settings: Any) -> Make:
  return lambda retention, depth, frames: kind.aligned(
    retention, depth, **settings
  )


FLASHVID = 'FlashVID'
# The method, and what it is made of.
PARTS: dict[str, Make] = {
  FLASHVID: _flashvid(),
  'FlashVID, sums over children': _flashvid(aggregation='children'),
  'ADTS only': _flashvid(alpha=1.0),
  'TSTM only': _flashvid(alpha=0.0),
  'ADTS + TTM': _flashvid(parents='same'),
  'attention only': _flashvid(alpha=1.0, selection='attn'),
  'diversity only': _flashvid(alpha=1.0, selection='div'),
}
PEERS: dict[str, Make] = {
  'random': _peer(peers.RandomTokens),
  'stride': _peer(peers.Stride),
  'pooling': _peer(peers.Pooling),
  'frame drop': _peer(peers.FrameDrop),
  'FastV': _peer(peers.FastV, layer=1),
  'VisionZip': _peer(peers.VisionZip),
  'ToMe': _peer(peers.ToMe),
  'DyCoke': _peer(peers.DyCoke),
  'PruneVID': _peer(peers.PruneVID),
  'FastVID': _peer(peers.FastVID),
  'HoliTom': _peer(peers.HoliTom),
  'FrameFusion': _peer(peers.FrameFusion),
}
METHODS = PARTS | PEERS


def make(name: str, retention: float, depth: int, frames: int) -> Any | None:
  """A method at a share of tokens; None where it has none for that share.

  Args:
    name: of `METHODS`.
    retention: R, the mean share of visual tokens per decoder layer.
    depth: L, layers of the decoder.
    frames: F, of a clip.
  """
  try:
    return METHODS[name](retention, depth, frames)
  except ValueError:
    return None
