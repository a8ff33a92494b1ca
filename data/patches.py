"""Rows of towers that see images at their own size: Qwen-VL, Pixtral.

A sample's pixels are patches [s, V] in their slots, in whole groups (a window,
or a block of patches that becomes one visual token). Its plan:

    position  int32 [s, 2]   row and column of the patch in its image
    frame     int32 [s]      1.. numbers the sample's frames, 0 is an empty slot
    token     int32 [m]      for each visual token, its block
    grid      int32 [m, 3]   (t, h, w) of each visual token

and whatever else the tower wants to know of a slot. In a row, frames and blocks
count on from sample to sample.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from data.pack import Fields, RowSpec, Sample


@dataclasses.dataclass(frozen=True)
class PatchRow(RowSpec):
  """Static shape of a row with patches.

  Attributes:
    patches: S, slots for patches per row.
    values: V, numbers of a patch.
    block: patches that become one visual token.
    group: slots that stay together; a multiple of `block`.
    extra: (name, trailing shape, dtype) of further arrays over the slots.
    pixel_dtype: 'uint8' (normalised on device) or 'float32'.
  """

  patches: int = 0
  values: int = 0
  block: int = 1
  group: int = 1
  extra: tuple[tuple[str, tuple[int, ...], str], ...] = ()
  pixel_dtype: str = 'uint8'

  units: ClassVar[str] = 'patches'

  def __post_init__(self):
    if self.patches % self.group or self.group % self.block:
      raise ValueError(
        f'a row of {self.patches} patches in groups of {self.group} and blocks '
        f'of {self.block}: expected whole groups of whole blocks; set '
        '--config.data.patches'
      )

  @property
  def capacity(self) -> int:
    return self.patches

  @property
  def _slots(self) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    return ('position', (2,), 'int32'), ('frame', (), 'int32'), *self.extra

  def fields(self) -> Fields:
    slots = {
      f'plan/{name}': ((self.patches, *shape), dtype)
      for name, shape, dtype in self._slots
    }
    return super().fields() | {
      'pixels': ((self.patches, self.values), self.pixel_dtype),
      **slots,
      'plan/token': ((self.visual,), 'int32'),
      'plan/valid': ((self.visual,), 'bool'),
      'plan/grid': ((self.visual, 3), 'int32'),
    }

  def place_visuals(self, row: Sample, samples: Sequence[Sample]) -> None:
    """Writes the patches of each sample behind those of the one before.

    Raises:
      ValueError: when patches have another form than the spec's.
    """
    slot = token = frame = 0
    plan = row['plan']
    for sample in samples:
      part, pixels = sample['plan'], sample['pixels']
      self._check(pixels, part)
      here = slice(slot, slot + len(pixels))
      row['pixels'][here] = pixels
      for name, _, _ in self._slots:
        plan[name][here] = part[name]
      plan['frame'][here] += np.where(part['frame'] > 0, frame, 0)
      there = slice(token, token + len(part['token']))
      plan['token'][there] = part['token'] + slot // self.block
      plan['valid'][there] = True
      plan['grid'][there] = part['grid']
      slot, token = here.stop, there.stop
      frame += int(part['frame'].max(initial=0))

  def check_plan(self, plan: Sample) -> None:
    token, blocks = plan['token'], self.patches // self.block
    if token.min(initial=0) < 0 or token.max(initial=0) >= max(blocks, 1):
      raise ValueError(
        f'plan/token spans [{token.min()}, {token.max()}], expected '
        f'[0, {blocks}) (S / block = {self.patches} / {self.block})'
      )

  def _check(self, pixels: np.ndarray, plan: Sample) -> None:
    if pixels.shape[1:] != (self.values,) or pixels.dtype != self.pixel_dtype:
      raise ValueError(
        f'patches are {pixels.dtype} {pixels.shape[1:]}, the row expects '
        f'{self.pixel_dtype} {(self.values,)}; is the processor of another '
        'checkpoint?'
      )
    if len(pixels) % self.group:
      raise ValueError(
        f'{len(pixels)} patches, expected whole groups of {self.group}'
      )
    missing = [name for name, _, _ in self._slots if name not in plan]
    if missing:
      raise ValueError(f'the plan has no {missing}, it has {sorted(plan)}')
