"""Which published tensors a model's parameters come from, checked up front.

Needs headers only, so a checkpoint that does not fit fails within a second.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from absl import logging

from vlm.convert.checkpoint import (
  DTYPES,
  Entry,
  Readable,
  raise_all,
)
from vlm.convert.names import table_for
from vlm.convert.tables import Row, Table

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Source:
  """Where one parameter comes from.

  Attributes:
    row: its row of the name table.
    entries: its tensors in layer order; a single one if it is not stacked.
    layer_shape: shape of what one of them fills.
  """

  row: Row
  entries: tuple[Entry, ...]
  layer_shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
  """A checkpoint that fits a model.

  Attributes:
    sources: by path of the parameter.
    unused: tensors of the files that the model does not compute with.
    twins: of a tied model, each tensor that is left aside as a duplicate, and
      the one that counts.
  """

  sources: dict[str, Source]
  unused: tuple[Entry, ...]
  twins: tuple[tuple[Entry, Entry], ...]


def flatten(tree: Any) -> dict[str, Any]:
  """A nested dict as {'a/b/c': leaf}."""
  leaves = jax.tree.leaves_with_path(tree)
  return {
    '/'.join(str(step.key) for step in path): leaf for path, leaf in leaves
  }


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flatten`."""
  tree: dict[str, Any] = {}
  for path, leaf in flat.items():
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree


def shapes_of(tree: Any) -> dict[str, tuple[int, ...]]:
  """Shape of every leaf by path."""
  return {path: tuple(leaf.shape) for path, leaf in flatten(tree).items()}


def plan(checkpoint: Readable, model: Any) -> Plan:
  """Finds every parameter's tensors and accounts for every tensor.

  Args:
    checkpoint: an opened folder.
    model: a registry model; only its `config.model_type` and
      `abstract_params` are used.

  Raises:
    CheckpointError: listing each missing, unexpected, mis-shaped or non-float
      tensor by name.
  """
  table, shapes = table_for(model), shapes_of(model.abstract_params)
  problems: list[str] = []
  sources = {}
  for row in table.active(shapes):
    keys = _keys_in(checkpoint, row, shapes[row.ours])
    entries = [checkpoint.entries.get(key) for key in keys]
    problems += [
      f'missing {key!r} (for {row.ours})'
      for key, entry in zip(keys, entries)
      if entry is None
    ]
    found = tuple(entry for entry in entries if entry is not None)
    source = Source(row, found, row.layer_shape(shapes[row.ours]))
    problems += _misfits(source)
    sources[row.ours] = source
  twins = tuple(_twins(checkpoint, table, shapes, sources))
  unused, extra = _leftover(checkpoint, table, sources, twins)
  problems += [f'unexpected {key!r}' for key in extra]
  raise_all(
    problems,
    f'{checkpoint.folder} does not fit the model '
    f'({model.config.model_type} of its config):',
  )
  if unused:
    logging.info(
      '%s: %d tensors not used by this model, e.g. %s',
      checkpoint.folder,
      len(unused),
      unused[0].key,
    )
  return Plan(sources, unused, twins)


def _keys_in(
  checkpoint: Readable, row: Row, shape: tuple[int, ...]
) -> list[str]:
  """The row's keys in the spelling of which the checkpoint has most."""
  layers = shape[0] if row.stacked else 1
  spellings = [row.keys(i, layers) for i in range(len(row.published))]
  return max(
    spellings, key=lambda keys: sum(key in checkpoint.entries for key in keys)
  )


def _misfits(source: Source) -> list[str]:
  row = source.row
  expected = row.transform.published_shape(source.layer_shape)
  problems = []
  for entry in source.entries:
    if entry.shape != expected:
      problems.append(
        f'{entry.key!r} in {entry.file}: expected shape {expected} (for '
        f'{row.ours}), got {entry.shape}'
      )
    if entry.dtype not in DTYPES:
      problems.append(
        f'{entry.key!r} in {entry.file}: expected a float tensor '
        f'({", ".join(DTYPES)}), got {entry.dtype}; quantised checkpoints '
        f'must be dequantised first'
      )
  return problems


def _twins(
  checkpoint: Readable,
  table: Table,
  shapes: Shapes,
  sources: Mapping[str, Source],
) -> Iterator[tuple[Entry, Entry]]:
  """Tensors whose parameter is tied to another one, and that one's."""
  for row in table.rows:
    if row.tied_to in shapes and row.ours not in shapes:
      for key in row.published:
        if key in checkpoint.entries:
          for kept in sources[row.tied_to].entries:
            yield checkpoint.entries[key], kept


def _leftover(
  checkpoint: Readable,
  table: Table,
  sources: Mapping[str, Source],
  twins: tuple[tuple[Entry, Entry], ...],
) -> tuple[tuple[Entry, ...], list[str]]:
  """Tensors that no parameter takes: declared unused ones, and the rest."""
  taken = {entry.key for source in sources.values() for entry in source.entries}
  taken |= {twin.key for twin, _ in twins}
  unused, extra = [], []
  for key, entry in checkpoint.entries.items():
    if key in taken:
      continue
    if _matches(table.unused, key) and entry.dtype in DTYPES:
      unused.append(entry)
    elif not _matches(table.derived, key):
      extra.append(key)
  return tuple(unused), extra


def _matches(patterns: tuple[str, ...], key: str) -> bool:
  return any(re.fullmatch(pattern, key) for pattern in patterns)
