"""What the processes of a job tell each other about their prompts."""

import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def own(rows: int) -> slice:
  """This process's prompts among those of all: blocks, in order."""
  share = rows // jax.process_count()
  return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def rows(array: np.ndarray) -> np.ndarray:
  """The rows of every process, from each one's own."""
  if jax.process_count() == 1:
    return array
  return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def values(items: Sequence[Any]) -> list[Any]:
  """The JSON values of every process, from each one's own."""
  if jax.process_count() == 1:
    return list(items)
  text = np.frombuffer(json.dumps(list(items)).encode(), np.uint8)
  sizes = rows(np.array([len(text)], np.int32))
  padded = np.pad(text, (0, int(sizes.max()) - len(text)))
  texts = rows(padded[None])
  return [
    item
    for text, size in zip(texts, sizes, strict=True)
    for item in json.loads(bytes(text[:size]))
  ]


def fetched(array: Any) -> np.ndarray:
  """A global array whose rows are prompts, whole, on the host."""
  if array.is_fully_addressable:
    return np.asarray(array)
  return np.asarray(multihost_utils.process_allgather(array, tiled=True))
