"""Asks about marked pixels: a picture is rescaled once, then marked anew."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from data import pack
from data.assistant import Assistant, user_turn
from data.processors.pixtral import PixtralProcessor
from data.processors.qwen2_5_vl import Qwen25VLProcessor
from data.processors.qwen3_vl import Qwen3VLProcessor
from experiments.depthlm.queries import Query
from vlm.methods.depthlm import parser, sample
from vlm.methods.depthlm.sample import SampleSettings

MAX_NEW_TOKENS = 128  # an answer takes about 30


class Pictures:
  """Queries about pictures; see `experiments.asking.ask.Subject`.

  Args:
    assistant: who is asked.
    sources: the rows of each set, by number: `source[row]` is decoded.
    settings: how rows become queries.
    max_new_tokens: longest answer.
    reading: 'strict' or 'official'; see `vlm.methods.depthlm.parser`.
  """

  def __init__(
    self,
    assistant: Assistant,
    sources: Sequence[Any],
    settings: SampleSettings,
    max_new_tokens: int = MAX_NEW_TOKENS,
    reading: str = 'strict',
  ):
    self._encoder = assistant.encoder
    self._sources, self._settings = sources, settings
    self.max_new_tokens, self._reading = max_new_tokens, reading

  def shared(self, question: Query) -> Hashable:
    """The picture."""
    return question.source, question.row

  def open(self, question: Query) -> np.ndarray:
    """The picture at the common focal length, uint8 [h, w, 3]."""
    row = self._sources[question.source][question.row]
    return sample.picture(row, self._settings)

  def show(self, question: Query, opened: np.ndarray) -> pack.Sample:
    """The marked picture, then the words."""
    image = sample.marked(opened, question.pixels, self._settings)
    turn = user_turn(question.question, [image])
    return self._encoder.prompt({'messages': [turn], 'images': [image]})

  def blank(self, question: Query) -> pack.Sample:
    """The words alone."""
    turn = user_turn(question.question)
    return self._encoder.prompt({'messages': [turn], 'images': []})

  def record(
    self, question: Query, said: str | None, problem: str, grid: Any
  ) -> dict[str, Any]:
    """See breakdown.py."""
    read = lambda how: None if said is None else how(said, self._reading)
    return {
      'id': question.id,
      'dataset': question.dataset,
      'image': f'{question.source}/{question.row}',
      'task': question.task,
      'pixel': list(question.pixels[0]),
      'source_pixel': list(question.source_pixel),
      'size': list(question.size),
      'focal': question.focal,
      'depth': question.depth,
      'z': question.z,
      'value': question.value,
      'prediction': said,
      'number': read(parser.parse),
      'failure': read(parser.failure),
      'problem': problem,
      'grid': grid,
    }


def focal_scales(
  processor: Any, records: Sequence[dict[str, Any]]
) -> np.ndarray:
  """What a processor's own resize makes of the common focal length.

  Rounding to whole patches costs up to 2 %; a budget of pixels, far more.

  Returns:
    One factor per record that was shown, the root of that of the area; empty
    for processors that cut tiles, which fit a canvas instead.
  """
  if isinstance(processor, Qwen25VLProcessor | Qwen3VLProcessor):
    side = processor.facts.factor
  elif isinstance(processor, PixtralProcessor):
    side = processor.facts.patch
  else:
    return np.zeros(0)
  shown = [record for record in records if record['grid']]
  tokens = np.array([np.prod(record['grid']) for record in shown], float)
  areas = np.array([np.prod(record['size']) for record in shown], float)
  return side * np.sqrt(tokens / areas)
