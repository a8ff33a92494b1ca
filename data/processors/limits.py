"""Processors with another limit on a picture's size.

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


def capped(processor: Any, pixels: int) -> Any:
  """The processor with pictures of at most so many pixels.

  Rows have room for the largest picture, and a prompt is never cut: a corpus
  with a few huge photographs would make every row as long as theirs.

  Towers that see tiles come back as they are: their canvas is the limit.
  """
  if not isinstance(processor, QwenVL):
    return processor
  budget = processor.facts.pixels
  most = max(budget.fewest, min(budget.most, pixels))
  facts = dataclasses.replace(
    processor.facts, pixels=Budget(budget.fewest, most)
  )
  return dataclasses.replace(processor, facts=facts)
