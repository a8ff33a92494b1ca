"""The one device mesh: axes ('data', 'fsdp', 'tensor'), from a config.

`data` replicates parameters, `fsdp` shards parameters and the batch, `tensor`
shards heads, ffn columns and the vocabulary. Slices of a multi-slice TPU job
(slow DCN links) extend the `data` axis only, because data parallelism is the
traffic that tolerates them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

AXES = ('data', 'fsdp', 'tensor')
BATCH_AXES = ('data', 'fsdp')
FLAG = '--config.mesh'


@dataclasses.dataclass(frozen=True)
class MeshShape:
  """Sizes of the mesh axes; one of the first three may be -1 (the rest).

  Attributes:
    data: replicas of the parameters inside one slice.
    fsdp: shards of every large parameter and of the batch.
    tensor: shards of heads, ffn columns and vocabulary.
    dcn_data: number of slices, joined over the data-centre network.
  """

  data: int = 1
  fsdp: int = -1
  tensor: int = 1
  dcn_data: int = 1

  @classmethod
  def of(cls, config: Any, flag: str = FLAG) -> 'MeshShape':
    """Reads a mapping (or passes a MeshShape through); refuses unknown keys."""
    if isinstance(config, cls):
      return config
    config = dict(config)
    known = {field.name for field in dataclasses.fields(cls)}
    for name in config:
      if name not in known:
        raise ValueError(
          f'{flag}.{name} is unknown, expected one of {sorted(known)}'
        )
    return cls(**{name: int(size) for name, size in config.items()})

  def resolve(self, device_count: int, flag: str = FLAG) -> 'MeshShape':
    """Replaces -1 by what the devices leave.

    Args:
      device_count: number of devices of all slices together.
      flag: what a person sets the sizes with, for errors.

    Returns:
      The shape with every size positive.

    Raises:
      ValueError: when sizes and devices do not divide, naming the flag.
    """
    for name, size in dataclasses.asdict(self).items():
      if size < 1 and (size != -1 or name == 'dcn_data'):
        allowed = 'a positive number'
        if name != 'dcn_data':
          allowed += ' or -1 (the remaining devices)'
        raise ValueError(f'{flag}.{name}={size}, expected {allowed}')
    if device_count % self.dcn_data:
      raise ValueError(
        f'{flag}.dcn_data={self.dcn_data}, expected a divisor of the '
        f'{device_count} devices'
      )
    per_slice = device_count // self.dcn_data
    sizes = {name: getattr(self, name) for name in AXES}
    open_axes = [name for name, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
      flags = ' and '.join(f'{flag}.{name}=-1' for name in open_axes)
      raise ValueError(
        f'{flags}: expected at most one axis that takes the rest'
      )
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    if per_slice % fixed or (not open_axes and per_slice != fixed):
      wanted = 'a divisor of' if open_axes else 'exactly'
      flags = ' '.join(f'{flag}.{name}={size}' for name, size in sizes.items())
      raise ValueError(
        f'{flags}: the fixed axes multiply to {fixed}, expected {wanted} the '
        f'{per_slice} devices ({device_count} in {self.dcn_data} slice(s)); '
        'set one axis to -1 to take the rest'
      )
    if open_axes:
      sizes[open_axes[0]] = per_slice // fixed
    return MeshShape(**sizes, dcn_data=self.dcn_data)


def make_mesh(
  config: Any, devices: Sequence[Any] | None = None, flag: str = FLAG
) -> Mesh:
  """Builds the mesh of a job.

  Args:
    config: mapping or MeshShape with `data`, `fsdp`, `tensor`, `dcn_data`.
    devices: devices to use, default all; may belong to an abstract topology.
    flag: what a person sets the sizes with, for errors.

  Returns:
    A mesh with Auto axes; `data` counts dcn_data times the config's `data`.

  Raises:
    ValueError: when shape, devices and slices disagree, naming the flag.
  """
  devices = list(jax.devices() if devices is None else devices)
  shape = MeshShape.of(config, flag).resolve(len(devices), flag)
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  if slices > 1 and shape.dcn_data != slices:
    raise ValueError(
      f'{flag}.dcn_data={shape.dcn_data}, expected {slices}: the devices lie '
      f'in {slices} slices'
    )
  ici = (shape.data, shape.fsdp, shape.tensor)
  if slices > 1:
    grid = mesh_utils.create_hybrid_device_mesh(
      ici, (shape.dcn_data, 1, 1), devices, allow_split_physical_axes=True
    )
  elif shape.dcn_data > 1:
    grid = np.asarray(devices).reshape(shape.dcn_data * shape.data, *ici[1:])
  else:
    grid = mesh_utils.create_device_mesh(
      ici, devices, allow_split_physical_axes=True
    )
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def reshaped(mesh: Mesh, config: Any, flag: str = FLAG) -> Mesh:
  """The devices of a mesh in the same order, in another shape.

  The order lets one jitted program take arrays from one mesh to the other.

  Args:
    mesh: the job's mesh.
    config: see `make_mesh`.
    flag: see `make_mesh`.

  Raises:
    ValueError: see `MeshShape.resolve`.
  """
  shape = MeshShape.of(config, flag).resolve(mesh.devices.size, flag)
  sizes = shape.dcn_data * shape.data, shape.fsdp, shape.tensor
  return Mesh(mesh.devices.reshape(sizes), AXES, axis_types=mesh.axis_types)


def batch_shards(mesh: Any) -> int:
  """Number of shards of a batch's leading axis."""
  return int(np.prod([mesh.shape[name] for name in BATCH_AXES]))


def check_batch_size(
  mesh: Any,
  batch_size: int,
  accumulate: int = 1,
  flag: str = '--config.batch_size',
) -> None:
  """Checks at start that every microbatch splits evenly over the devices.

  Args:
    mesh: the job's mesh.
    batch_size: global batch size in rows.
    accumulate: number of microbatches of one step.
    flag: what a person sets the rows with, for errors.

  Raises:
    ValueError: naming the flag, what divides, and the nearest sizes that do.
  """
  if accumulate < 1:
    raise ValueError(
      f'--config.accumulate={accumulate}, expected a positive number'
    )
  unit = batch_shards(mesh) * accumulate
  if batch_size < 1 or batch_size % unit:
    lower = batch_size // unit * unit
    near = f'{lower} or {lower + unit}' if lower > 0 else f'{unit}'
    raise ValueError(
      f'{flag}={batch_size}, expected a multiple of {unit} = data '
      f'{mesh.shape["data"]} x fsdp {mesh.shape["fsdp"]} x accumulate '
      f'{accumulate}, for example {near}'
    )
