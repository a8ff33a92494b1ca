"""From a picture and its text to a row for contrastive training.

A text longer than the tower's context is cut after the last sentence that fits,
and the row says so. Texts that are equal token by token have equal `text_ids`,
so that a loss may count them as each other's match.
"""

import dataclasses
import functools
import re
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tokenizers
from etils import epath

from data.records import BadRecord

SENTENCE_END = re.compile(r'(?<=[.!?])\s+|(?<=[。！？])')


@dataclasses.dataclass(frozen=True)
class TextEncoder:
  """Texts as a text tower reads them.

  Attributes:
    tokenizer_json: contents of a tokenizer.json whose post-processor adds what
      stands before and after a text, at least the end token.
    context: T, positions of the tower.
  """

  tokenizer_json: str
  context: int

  @classmethod
  def load(cls, folder: epath.PathLike, context: int) -> 'TextEncoder':
    """The tokenizer of a checkpoint's folder.

    Raises:
      FileNotFoundError: when it has no tokenizer.json.
    """
    path = epath.Path(folder) / 'tokenizer.json'
    if not path.exists():
      raise FileNotFoundError(
        f'no tokenizer.json in {folder}; set --config.model.init_from'
      )
    return cls(path.read_text(), context)

  @functools.cached_property
  def tokenizer(self) -> tokenizers.Tokenizer:
    """The tokenizer; made on first use, so that an encoder can be pickled."""
    tokenizer = tokenizers.Tokenizer.from_str(self.tokenizer_json)
    # Cutting is done here, and padding is zeros.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer

  @functools.cached_property
  def end(self) -> int:
    """Id of the token that ends every text.

    Raises:
      ValueError: when the tokenizer adds none.
    """
    added = self.tokenizer.encode('').ids
    if not added:
      raise ValueError(
        'the tokenizer adds no token at the end of a text, where the tower '
        'reads it; expected a post-processor in tokenizer.json'
      )
    return added[-1]

  def __call__(self, text: str) -> tuple[np.ndarray, bool]:
    """Ids int32 [T], zeros after the end token; and whether text was cut.

    Raises:
      BadRecord: 'empty text' or 'wrong type'.
    """
    if not isinstance(text, str):
      raise BadRecord(
        'wrong type', f'the text is {type(text).__name__}, expected str'
      )
    if not text.strip():
      raise BadRecord('empty text', 'the text has no visible character')
    ids = self.tokenizer.encode(text.strip()).ids
    cut = len(ids) > self.context
    if cut:
      ids = self._cut(text.strip(), ids)
    row = np.zeros(self.context, np.int32)
    row[: len(ids)] = ids
    return row, cut

  def _cut(self, text: str, ids: list[int]) -> list[int]:
    """As many whole sentences as fit; of a first that does not, a part."""
    for stop in reversed(list(SENTENCE_END.finditer(text))):
      shorter = self.tokenizer.encode(text[: stop.start()]).ids
      if len(shorter) <= self.context:
        return shorter
    return [*ids[: self.context - 1], self.end]

  def __getstate__(self) -> dict[str, Any]:
    return {'tokenizer_json': self.tokenizer_json, 'context': self.context}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)


@dataclasses.dataclass(frozen=True)
class PairEncoder:
  """A picture and a text as one row of a batch.

  Attributes:
    picture: what `image.open_image` takes -> uint8 [1, S, S, 3]; see
      data/processors/towers.py.
    text: the text tower's encoder.
  """

  picture: Callable[[Any], np.ndarray]
  text: TextEncoder

  def __call__(self, picture: Any, text: str) -> dict[str, np.ndarray]:
    """The arrays of a pair, as documented in data/pipeline.py.

    Raises:
      BadRecord: an empty text, or a picture that cannot be shown.
    """
    tokens, cut = self.text(text)
    return {
      'pixels': self.picture(picture)[0],
      'tokens': tokens,
      'text_ids': text_id(tokens),
      'cut': np.float32(cut),
    }


def text_id(tokens: np.ndarray) -> np.int32:
  """A number from 1 to 2**31 - 1 that equal texts share.

  Among 16,384 different texts some two share theirs in one batch of 16.
  """
  return np.int32(zlib.crc32(tokens.tobytes()) % (2**31 - 1) + 1)
