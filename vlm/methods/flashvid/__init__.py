"""FlashVID (arXiv 2602.08024): training-free merging of video tokens."""
