"""Says how a checkpoint's tree differs from the model's, path by path."""

from collections.abc import Mapping
from typing import Any

import jax

SHOWN = 12


def check_same_structure(
  saved: Mapping[str, Any], expected: Mapping[str, Any], *, where: str
) -> None:
  """Compares two trees of things with shape and dtype.

  Args:
    saved: What the checkpoint holds.
    expected: What the model wants.
    where: Name of the checkpoint, for the message.

  Raises:
    ValueError: naming every path that is missing, extra, or of another shape
      or dtype.
  """
  saved, expected = _by_path(saved), _by_path(expected)
  lines = [
    f'missing  {p} {expected[p]}' for p in expected.keys() - saved.keys()
  ]
  lines += [f'extra    {p} {saved[p]}' for p in saved.keys() - expected.keys()]
  lines += [
    f'differs  {p}: checkpoint {saved[p]}, model {expected[p]}'
    for p in saved.keys() & expected.keys()
    if saved[p] != expected[p]
  ]
  if not lines:
    return
  lines.sort()
  more = [f'... and {len(lines) - SHOWN} more'] if len(lines) > SHOWN else []
  raise ValueError(
    f'The checkpoint {where} does not fit the model:\n  '
    + '\n  '.join(lines[:SHOWN] + more)
    + '\nUse the --config.model and --config.optimizer that wrote it.'
  )


def _by_path(tree: Mapping[str, Any]) -> dict[str, str]:
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): (
      f'{leaf.dtype}{list(leaf.shape)}'
    )
    for path, leaf in flat
  }
