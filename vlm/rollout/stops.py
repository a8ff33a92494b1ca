"""Stop strings, matched on decoded text.

Tokens do not respect the borders of a string, so nothing is compared token by
token: a sample ends with the first token after which its decoded text holds a
stop string, and its text is cut in front of it. The host looks every few
tokens; what a sample said in the meantime is dropped, and since each draw has a
key of its own, nothing else changes.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

# Tokens between two looks at the text: fewer waste less, more wait less often.
EVERY = 16

Detokenize = Callable[[list[int]], str]


@dataclasses.dataclass
class StopWatch:
  """Where each sample of a batch meets a stop string.

  Attributes:
    stop: the strings.
    detokenize: token ids to text.
    ends: int64 [B, n], tokens up to and including the one that completed a
      stop string; 0 where none has.
  """

  stop: tuple[str, ...]
  detokenize: Detokenize
  ends: np.ndarray
  _seen: np.ndarray = dataclasses.field(init=False)

  def __post_init__(self):
    self._seen = np.zeros_like(self.ends)

  def look(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Looks at what is new.

    Args:
      tokens: [B, n, G].
      lengths: [B, n], without a closing EOS.

    Returns:
      bool [B, n], whether a sample has met a stop string.
    """
    for place in zip(*np.nonzero((self.ends == 0) & (lengths > self._seen))):
      ids = tokens[place][: lengths[place]].tolist()
      if first_stop(self.detokenize(ids), self.stop) >= 0:
        self.ends[place] = self._completing(ids, int(self._seen[place]))
      self._seen[place] = len(ids)
    return self.ends > 0

  def _completing(self, ids: list[int], seen: int) -> int:
    found = lambda count: first_stop(self.detokenize(ids[:count]), self.stop)
    return next(n for n in range(seen + 1, len(ids) + 1) if found(n) >= 0)


def first_stop(text: str, stop: Sequence[str]) -> int:
  """Where the first stop string begins, or -1."""
  found = [start for word in stop if (start := text.find(word)) >= 0]
  return min(found, default=-1)


def cut(text: str, stop: Sequence[str]) -> str:
  """The text in front of the first stop string."""
  start = first_stop(text, stop)
  return text if start < 0 else text[:start]


def held_back(text: str, stop: Sequence[str]) -> int:
  """Characters at the end that may turn out to begin a stop string."""
  longest = max((len(word) for word in stop), default=0)
  for count in range(min(longest - 1, len(text)), 0, -1):
    if any(word.startswith(text[-count:]) for word in stop):
      return count
  return 0
