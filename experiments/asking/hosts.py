"""What the processes of a job tell each other about a batch.

Every process reads its share of the rows; all must pad to one shape, and the
one that writes must know which videos the others could not show.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from data.chunks import in_order

LONGEST_TEXT = 4096  # bytes of a text that travels


def joined(own: Sequence[str]) -> list[str]:
  """The texts of all rows of a batch, from those of each process's share."""
  if jax.process_count() == 1:
    return list(own)
  sent = np.zeros((len(own), LONGEST_TEXT), np.uint8)
  for row, text in zip(sent, own):
    encoded = text.encode()[:LONGEST_TEXT]
    row[: len(encoded)] = np.frombuffer(encoded, np.uint8)
  flat = _gathered(sent).reshape(-1, LONGEST_TEXT)
  texts = [bytes(row).rstrip(b'\0').decode(errors='ignore') for row in flat]
  return [texts[place] for place in in_order(np.arange(len(texts)))]


def told(number: int) -> int:
  """Process 0's number, on every process."""
  if jax.process_count() == 1:
    return number
  return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def _gathered(array: np.ndarray) -> np.ndarray:
  """[processes, ...]."""
  if jax.process_count() == 1:
    return array[None]
  return np.asarray(multihost_utils.process_allgather(array))
