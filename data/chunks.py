"""Things a few at a time, in batches of one static shape over all processes."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np


def chunks(things: Iterable[Any], size: int) -> Iterator[list[Any]]:
  """Lists of `size` things in their order; the last one may be shorter."""
  things = iter(things)
  while chunk := list(itertools.islice(things, size)):
    yield chunk


def filled(chunk: Sequence[Any], size: int) -> list[Any]:
  """One static shape: a short chunk repeats its last thing."""
  return [*chunk, *[chunk[-1]] * (size - len(chunk))]


def share(rows: Sequence[Any]) -> list[Any]:
  """What this process adds to a batch: every n-th row for n processes."""
  return list(rows[jax.process_index() :: jax.process_count()])


def in_order(found: np.ndarray) -> np.ndarray:
  """A batch's rows [B, ...] put back in order: they come by process."""
  processes = jax.process_count()
  dealt = found.reshape(processes, -1, *found.shape[1:])
  return dealt.swapaxes(0, 1).reshape(found.shape)
