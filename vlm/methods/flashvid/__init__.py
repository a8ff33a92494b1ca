"""FlashVID (arXiv 2602.08024): training-free merging of video tokens."""

from vlm.methods.flashvid.reducer import FlashVID

__all__ = ['FlashVID']
