"""Processors that leave a picture's size alone.

A limit on pixels shrinks a large picture, and with it the focal length that
DepthLM has just made common: stock Pixtral limits a side to 1,024 pixels where
training crops are up to 1,400 wide.
"""

import dataclasses
from typing import Any

from data.processors.pixtral import PixtralProcessor
from data.processors.qwen_vl import Budget, QwenVL


def unshrinking(processor: Any, side: int) -> Any:
  """The processor with its limit raised to pictures of side x side pixels.

  Towers that see tiles come back as they are: the grid of tiles decides, and a
  picture of exactly that size is not resized (`SampleSettings.size`).
  """
  if isinstance(processor, PixtralProcessor):
    longest = max(processor.facts.longest, side)
    facts = dataclasses.replace(processor.facts, longest=longest)
  elif isinstance(processor, QwenVL):
    pixels = processor.facts.pixels
    budget = Budget(pixels.fewest, max(pixels.most, side * side))
    facts = dataclasses.replace(processor.facts, pixels=budget)
  else:
    return processor
  return dataclasses.replace(processor, facts=facts)
