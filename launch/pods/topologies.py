"""Facts of Cloud TPU chips and slices, and abstract devices to compile for.

Peak rates, bandwidths and slice shapes are Google's published ones, read in
2026-11 (docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}):

  chip  bf16 peak   HBM            HBM rate    ICI, both ways, all links
  v4    275 TFLOP/s 32 GiB         1,228 GB/s  300 GB/s x 2
  v5e   197 TFLOP/s 16 GB          819 GB/s    400 GB/s
  v5p   459 TFLOP/s 95 GiB         2,765 GB/s  1,200 GB/s
  v6e   918 TFLOP/s 32 GB          1,640 GB/s  800 GB/s

`hbm` is what the compiler really offers a program: the figure libtpu 0.0.42
names when it refuses one that is too large.
"""

import dataclasses
import importlib.util
import math
import os

GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class Chip:
  """One TPU generation.

  Attributes:
    name: generation, as in the topology name before the colon.
    peak: bf16 FLOP/s per chip.
    hbm: bytes of HBM a program may use.
    hbm_rate: bytes/s between HBM and the core.
    link_rate: bytes/s over one ICI link, one way.
    prefix: accelerator type before the dash.
    cores: how many the accelerator type counts per chip.
    runtime: the TPU VM image for JAX.
    shapes: slices it is sold in, in chips.
    device_kinds: `jax.Device.device_kind` of this generation.
    options: extra arguments of libtpu's topology, as pairs.
  """

  name: str
  peak: float
  hbm: int
  hbm_rate: float
  link_rate: float
  prefix: str
  cores: int
  runtime: str
  shapes: tuple[tuple[int, ...], ...]
  device_kinds: tuple[str, ...]
  options: tuple[tuple[str, str], ...] = ()


_SQUARES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBES = (
  *((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8)),
  *((4, 8, 8), (8, 8, 8), (8, 8, 16), (8, 16, 16)),
)

CHIPS = {
  chip.name: chip
  for chip in (
    Chip(
      name='v4',
      peak=275e12,
      hbm=int(30.75 * GIB),
      hbm_rate=1228e9,
      link_rate=50e9,
      prefix='v4',
      cores=2,
      runtime='tpu-ubuntu2204-base',
      shapes=_CUBES,
      device_kinds=('TPU v4',),
      options=(('chip_config_name', 'megacore'),),
    ),
    Chip(
      name='v5e',
      peak=197e12,
      hbm=int(15.75 * GIB),
      hbm_rate=819e9,
      link_rate=50e9,
      prefix='v5litepod',
      cores=1,
      runtime='v2-alpha-tpuv5-lite',
      shapes=_SQUARES,
      device_kinds=('TPU v5 lite', 'TPU v5e'),
    ),
    Chip(
      name='v5p',
      peak=459e12,
      hbm=int(95.74 * GIB),
      hbm_rate=2765e9,
      link_rate=100e9,
      prefix='v5p',
      cores=2,
      runtime='v2-alpha-tpuv5',
      shapes=_CUBES,
      device_kinds=('TPU v5', 'TPU v5p'),
    ),
    Chip(
      name='v6e',
      peak=918e12,
      hbm=int(31.25 * GIB),
      hbm_rate=1640e9,
      link_rate=100e9,
      prefix='v6e',
      cores=1,
      runtime='v2-alpha-tpuv6e',
      shapes=_SQUARES,
      device_kinds=('TPU v6 lite', 'TPU v6e'),
    ),
  )
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips wired together, e.g. `v5e:8x8`."""

  chip: Chip
  shape: tuple[int, ...]

  @property
  def name(self) -> str:
    """Name of the topology, as libtpu writes it."""
    return f'{self.chip.name}:{"x".join(map(str, self.shape))}'

  @property
  def type(self) -> str:
    """Name of the slice as an accelerator type, e.g. `v5litepod-64`."""
    return f'{self.chip.prefix}-{self.chips * self.chip.cores}'

  @property
  def chips(self) -> int:
    """How many chips."""
    return math.prod(self.shape)

  @property
  def hosts(self) -> int:
    """How many workers; only v5e and v6e have hosts with 8 chips, alone."""
    if self.chip.cores == 1 and self.chips <= 8:
      return 1
    return max(1, self.chips // 4)

  def ring_rate(self, group: int) -> float:
    """Bytes/s that each chip of a collective can send and receive at once.

    A group is laid along as many axes of the slice as its size fills (a mesh
    of fsdp=64 on 8x8 uses both). The chip with the fewest links bounds it: one
    per axis in a corner of a mesh, two per axis in a torus.

    Args:
      group: chips that take part in the collective.
    """
    axes, filled = [], 1
    for length in sorted((n for n in self.shape if n > 1), reverse=True):
      if filled >= group:
        break
      filled *= length
      axes.append(length)
    links = sum(2 if self._wrapped(length) else 1 for length in axes)
    return self.chip.link_rate * links if links else math.inf

  def _wrapped(self, length: int) -> bool:
    """Whether the two ends of an axis are linked: full cubes, full pods."""
    if len(self.shape) == 3:
      return all(n % 4 == 0 for n in self.shape)
    return length == 16


SLICES = tuple(
  Slice(chip, shape) for chip in CHIPS.values() for shape in chip.shapes
)


def parse(topology: str) -> Slice:
  """Reads `v5e:8x8`.

  Raises:
    ValueError: the chip or the shape is unknown.
  """
  return _find('--topology', topology, {known.name: known for known in SLICES})


def from_type(accelerator: str) -> Slice:
  """Reads an accelerator type, e.g. `v5litepod-64` is `v5e:8x8`.

  Raises:
    ValueError: the type is unknown.
  """
  return _find('--type', accelerator, {known.type: known for known in SLICES})


def _find(flag: str, name: str, known: dict[str, Slice]) -> Slice:
  if name not in known:
    raise ValueError(
      f'{flag}={name!r} is not a TPU slice; expected one of {", ".join(known)}'
    )
  return known[name]


def of_device(device_kind: str) -> Chip | None:
  """The chip of a running device, or None where it is not a known TPU."""
  for chip in CHIPS.values():
    if device_kind in chip.device_kinds:
      return chip
  return None


def abstract_devices(wanted: Slice) -> list:
  """Devices of a slice that is not there, for ahead-of-time compilation.

  Args:
    wanted: the slice.

  Returns:
    One `jax.Device` per chip; programs can be compiled for them, not run.

  Raises:
    RuntimeError: libtpu, the TPU compiler, is not installed.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise RuntimeError(
      'compiling for a TPU needs libtpu, which is not installed: '
      "pip install 'libtpu>=0.0.40,<0.1', or pip install '.[test]'"
    )
  # A machine without a TPU has no metadata server to ask, and several
  # compilations may share it: the lock guards a device that is not there.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  from jax.experimental import topologies

  described = topologies.get_topology_desc(
    wanted.name, 'tpu', **dict(wanted.chip.options)
  )
  return list(described.devices)
