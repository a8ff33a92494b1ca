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


def share(
  rows: Sequence[Any], mesh: jax.sharding.Mesh | None = None
) -> list[Any]:
  """What this process adds to a batch: every n-th row for n processes.

  Args:
    rows: of the batch.
    mesh: whose processes there are; all of the job's if None.
  """
  processes = _processes(mesh)
  return list(rows[processes.index(jax.process_index()) :: len(processes)])


def in_order(
  found: np.ndarray, mesh: jax.sharding.Mesh | None = None
) -> np.ndarray:
  """A batch's rows [B, ...] put back in order: they come by process."""
  dealt = found.reshape(len(_processes(mesh)), -1, *found.shape[1:])
  return dealt.swapaxes(0, 1).reshape(found.shape)


def _processes(mesh: jax.sharding.Mesh | None) -> list[int]:
  if mesh is None:
    return list(range(jax.process_count()))
  return sorted({device.process_index for device in mesh.devices.flat})
