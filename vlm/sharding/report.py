"""What each device will hold: path, shape, dtype, spec, bytes per device."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from vlm.sharding.rules import flatten

MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Row:
  """One array: its global shape and what one device keeps of it."""

  path: str
  shape: tuple[int, ...]
  dtype: str
  spec: str
  bytes_per_device: int
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Report:
  """Rows in tree order, and totals in bytes.

  Attributes:
    rows: one per array.
    bytes_per_device: sum over rows of what one device holds.
    bytes_total: sum of the unsharded sizes.
  """

  rows: tuple[Row, ...]
  bytes_per_device: int
  bytes_total: int

  def text(self) -> str:
    """Renders the table as plain text, sizes in MiB."""
    head = ('path', 'shape', 'dtype', 'spec', 'MiB/device', 'note')
    body = [
      (
        row.path,
        'x'.join(map(str, row.shape)) or 'scalar',
        row.dtype,
        row.spec,
        f'{row.bytes_per_device / MIB:.3f}',
        row.note,
      )
      for row in self.rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *body)]
    lines = [
      '  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
      for line in (head, *body)
    ]
    lines.append(
      f'total {self.bytes_per_device / MIB:.3f} MiB per device, '
      f'{self.bytes_total / MIB:.3f} MiB unsharded'
    )
    return '\n'.join(lines)


def report(
  abstract: Any,
  shardings: Any,
  *,
  notes: Mapping[str, str] | None = None,
  limit: int = 64 * MIB,
) -> Report:
  """Tabulates a sharded tree and refuses large replicated arrays.

  Args:
    abstract: tree of anything with `shape` and `dtype` (params or a state).
    shardings: tree of NamedSharding of the same structure.
    notes: path -> remark, e.g. from `rules.relaxations`.
    limit: largest size in bytes of an array that every device may hold whole
      although the mesh has fsdp or tensor shards.

  Returns:
    The report.

  Raises:
    ValueError: naming each array above the limit and the rule to add.
  """
  notes = notes or {}
  rows, refused, total = [], [], 0
  placed = [sharding for _, sharding in flatten(shardings)]
  for (path, leaf), sharding in zip(flatten(abstract), placed, strict=True):
    size = leaf.dtype.itemsize
    local = math.prod(sharding.shard_shape(tuple(leaf.shape))) * size
    whole = math.prod(leaf.shape) * size
    total += whole
    rows.append(
      Row(
        path=path,
        shape=tuple(leaf.shape),
        dtype=leaf.dtype.name,
        spec=str(sharding.spec).replace('PartitionSpec', ''),
        bytes_per_device=local,
        note=notes.get(path, ''),
      )
    )
    sizes = sharding.mesh.shape
    if sizes['fsdp'] * sizes['tensor'] > 1 and whole == local > limit:
      refused.append(rows[-1])
  if refused:
    raise ValueError(_refusal(refused, limit))
  return Report(tuple(rows), sum(r.bytes_per_device for r in rows), total)


def _refusal(rows: list[Row], limit: int) -> str:
  lines = [
    f'{len(rows)} array(s) above {limit / MIB:.1f} MiB would be replicated on '
    'every device; add a sharding rule for each, for example:'
  ]
  for row in rows:
    axis = max(range(len(row.shape)), key=lambda i: row.shape[i])
    spec = ', '.join(['None'] * axis + ["'fsdp'"])
    lines.append(
      f"  (r'{row.path}', P({spec})),  # shape {row.shape}, "
      f'{row.bytes_per_device / MIB:.1f} MiB {row.note}'.rstrip()
    )
  return '\n'.join(lines)
