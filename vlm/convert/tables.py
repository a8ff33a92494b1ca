"""Declarative names: one row ties a published tensor to one of our parameters.

A family's table is a tuple of rows, read in both directions:

    Row('decoder/layers/attn/q/kernel',
        ('model.layers.{i}.self_attn.q_proj.weight',), SPLIT_HEADS)

says that the published [N*H, D] matrix of layer i is ours[i] with shape
[D, N, H]. A pattern with `{i}` names one tensor per layer; our parameter stacks
them on its leading axis. A row may list several spellings of the same tensor,
because published checkpoints keep the prefixes of the library version that
wrote them; the first one is what we write.

A transform is a spec such as '(N H) D -> D N H': brackets split a published
axis, the right side orders the axes as ours. From it follow the way forward,
the way back, the shapes, and which rows of the file a shard of ours needs.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Transform:
  """Axes of a published tensor and of one layer of our parameter.

  Attributes:
    name: what error messages call it.
    spec: 'published -> ours', axes as letters, split axes in brackets.
  """

  name: str
  spec: str

  @property
  def groups(self) -> tuple[str, ...]:
    """Published axes, each the letters it splits into: ('NH', 'D')."""
    left = self.spec.split('->')[0]
    found = re.findall(r'\(([^)]*)\)|(\w)', left)
    return tuple(''.join((group or axis).split()) for group, axis in found)

  @property
  def axes(self) -> str:
    """Our axes in order, one letter each: 'DNH'."""
    return ''.join(self.spec.split('->')[1].split())

  def sizes(self, shape: Sequence[int]) -> dict[str, int]:
    """Size of each letter, from the shape of one layer of our parameter."""
    if len(shape) != len(self.axes):
      raise ValueError(
        f'{self.name} ({self.spec}): expected {len(self.axes)} axes of our '
        f'parameter, got shape {tuple(shape)}'
      )
    return dict(zip(self.axes, shape))

  def published_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
    """Shape on disk of the tensor behind one layer of shape `shape`."""
    sizes = self.sizes(shape)
    return tuple(
      int(np.prod([sizes[axis] for axis in group])) for group in self.groups
    )

  def forward(self, tensor: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
    """Published layout to ours; `sizes` may be those of a slice."""
    letters = ''.join(self.groups)
    split = tensor.reshape([sizes[axis] for axis in letters])
    return split.transpose([letters.index(axis) for axis in self.axes])

  def backward(self, layer: np.ndarray) -> np.ndarray:
    """Our layout to the published one; a view wherever numpy allows."""
    shape = self.published_shape(layer.shape)
    letters = ''.join(self.groups)
    ordered = layer.transpose([self.axes.index(axis) for axis in letters])
    return ordered.reshape(shape)


SCALAR = Transform('scalar', '->')
VECTOR = Transform('vector', 'D -> D')
TABLE = Transform('table', 'V D -> V D')
LINEAR = Transform('linear', 'O I -> I O')
SPLIT_HEADS = Transform('split heads', '(N H) D -> D N H')
SPLIT_HEADS_BIAS = Transform('split heads of a bias', '(N H) -> N H')
MERGE_HEADS = Transform('merge heads', 'D (N H) -> N H D')
PATCH = Transform('patch convolution', 'D C p q -> p q C D')


@dataclasses.dataclass(frozen=True)
class Row:
  """One parameter of ours and the published tensors it is made of.

  Attributes:
    ours: path of the parameter, e.g. 'decoder/layers/mlp/up/kernel'.
    published: spellings of the published key, the one we write first; `{i}`
      stands for the layer, which our parameter stacks on its leading axis.
    transform: how one published tensor becomes one layer of ours.
    tied_to: the parameter that takes this one's place where the model ties
      them; the published tensor is then a duplicate and not read.
  """

  ours: str
  published: tuple[str, ...]
  transform: Transform = VECTOR
  tied_to: str = ''

  @property
  def stacked(self) -> bool:
    """Whether our parameter has a leading layer axis."""
    return '{i}' in self.published[0]

  def layer_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of what one published tensor fills, from the parameter's."""
    return tuple(shape[1:] if self.stacked else shape)

  def keys(self, spelling: int, layers: int) -> list[str]:
    """Published keys under one spelling, in layer order."""
    pattern = self.published[spelling]
    if not self.stacked:
      return [pattern]
    return [pattern.replace('{i}', str(i)) for i in range(layers)]


@dataclasses.dataclass(frozen=True)
class Table:
  """What a family's checkpoint holds.

  Attributes:
    rows: parameters of ours.
    unused: regular expressions of real weights that our models do not
      compute with (a pooling head, say); never read, but kept by an export
      that is given the source checkpoint.
    derived: regular expressions of buffers that follow from the config
      (rotary frequencies, position ids); neither read nor written.
  """

  rows: tuple[Row, ...]
  unused: tuple[str, ...] = ()
  derived: tuple[str, ...] = ()

  def __add__(self, other: 'Table') -> 'Table':
    return Table(
      self.rows + other.rows,
      self.unused + other.unused,
      self.derived + other.derived,
    )

  def active(self, shapes: Mapping[str, Sequence[int]]) -> Iterator[Row]:
    """Rows whose parameter the model has.

    Args:
      shapes: shape of every parameter of the model, by path.

    Raises:
      ValueError: if a parameter has no row or two rows; a fault of the table,
        not of a checkpoint.
    """
    rows = [row for row in self.rows if row.ours in shapes]
    names = [row.ours for row in rows]
    for path in shapes:
      if names.count(path) != 1:
        raise ValueError(
          f'parameter {path!r}: expected exactly one row in the name table, '
          f'got {names.count(path)}; fix the table in vlm/convert/names'
        )
    return iter(rows)


def nest(table: Table, ours: str, published: Sequence[str]) -> Table:
  """Puts a part's table under the prefixes it has inside a larger model.

  Args:
    table: names of the part, e.g. a vision tower.
    ours: prefix of our paths, e.g. 'vision/'.
    published: prefixes of the published keys, the one to write first; every
      spelling of a row is repeated under each of them.
  """
  rows = tuple(
    dataclasses.replace(
      row,
      ours=ours + row.ours,
      tied_to=row.tied_to and ours + row.tied_to,
      published=tuple(
        prefix + key for prefix in published for key in row.published
      ),
    )
    for row in table.rows
  )
  marks = '(?:' + '|'.join(re.escape(prefix) for prefix in published) + ')'
  return Table(
    rows,
    tuple(marks + pattern for pattern in table.unused),
    tuple(marks + pattern for pattern in table.derived),
  )


def linear(ours: str, published: str, bias: bool = True) -> tuple[Row, ...]:
  """Rows of a dense layer: kernel [I, O], bias [O]."""
  rows = [Row(f'{ours}/kernel', (f'{published}.weight',), LINEAR)]
  if bias:
    rows.append(Row(f'{ours}/bias', (f'{published}.bias',)))
  return tuple(rows)


def norm(ours: str, published: str) -> tuple[Row, ...]:
  """Rows of a layer norm: scale [D], bias [D]."""
  return (
    Row(f'{ours}/scale', (f'{published}.weight',)),
    Row(f'{ours}/bias', (f'{published}.bias',)),
  )


def split_heads(ours: str, published: str) -> tuple[Row, ...]:
  """Rows of a query, key or value projection: [D, N, H] and [N, H]."""
  return (
    Row(f'{ours}/kernel', (f'{published}.weight',), SPLIT_HEADS),
    Row(f'{ours}/bias', (f'{published}.bias',), SPLIT_HEADS_BIAS),
  )


def merge_heads(ours: str, published: str) -> tuple[Row, ...]:
  """Rows of an output projection: kernel [N, H, D], bias [D]."""
  return (
    Row(f'{ours}/kernel', (f'{published}.weight',), MERGE_HEADS),
    Row(f'{ours}/bias', (f'{published}.bias',)),
  )
