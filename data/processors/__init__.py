"""One file per family: what a checkpoint wants of images and videos."""

from typing import Any

from data.processors.llava import LlavaProcessor
from data.visual import Processor


def of_model(config: Any) -> Processor | None:
  """The processor of a model's frozen config, with its published settings.

  None for a model that only reads.
  """
  if hasattr(config, 'layout'):
    return LlavaProcessor(config.layout)
  return None
