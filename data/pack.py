"""From samples of any size to rows of static shape: pad, bucket or pack.

A sample, as the last transform leaves it, is a dict of numpy arrays:

    tokens     int32 [t]      one placeholder id per visual token
    loss_mask  float32 [t]
    positions  int32 [t, 3]   absent where they are counted from 0
    pixels     [i, ...]       i tiles, frames or patches; absent without any
    plan       arrays over the i units or the m visual tokens, `grid` among
               them; absent together with pixels

What a plan holds depends on the tower: see `data/tiles.py` (every image is cut
into tiles of one size) and `data/patches.py` (every image keeps its own size).
A sample is never cut: one that fits nowhere is a bad row, 'too long'.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from data import records, videos

Sample = dict[str, Any]
Fields = dict[str, tuple[tuple[int, ...], str]]


@dataclasses.dataclass(frozen=True)
class RowSpec:
  """Static shape of one row of a batch; here of a row of text.

  Attributes:
    seq_len: T, tokens per row.
    visual: M, visual tokens per row.
    axes: numbers of a position, 3 with M-RoPE.
    placeholders: token ids that stand for one visual token each.
    clips: room for the videos of a row, where something reduces them.
  """

  seq_len: int
  visual: int = 0
  axes: int = 1
  placeholders: tuple[int, ...] = ()
  clips: videos.VideoSpec | None = None

  # What pixels count, and the field of the spec that limits them.
  units: ClassVar[str] = 'images'

  @property
  def capacity(self) -> int:
    """Tiles or patches per row."""
    return 0

  def fields(self) -> Fields:
    """(shape, dtype) of each array of a row; 'plan/...' lie in its plan."""
    positions = (self.seq_len,) + ((self.axes,) if self.axes > 1 else ())
    fields = {
      'tokens': ((self.seq_len,), 'int32'),
      'segment_ids': ((self.seq_len,), 'int32'),
      'positions': (positions, 'int32'),
      'loss_mask': ((self.seq_len,), 'float32'),
    }
    if self.clips is not None:
      fields['plan/frames'] = (self.clips.shape, 'int32')
      fields['plan/prunable'] = ((self.visual,), 'bool')
    return fields

  def place_visuals(self, row: Sample, samples: Sequence[Sample]) -> None:
    """Writes pixels and plans of samples into an empty row."""

  def check_plan(self, plan: Sample) -> None:
    """Raises ValueError where a batch's plan points outside its pixels."""


def sample_size(sample: Sample) -> tuple[int, int, int]:
  """Returns the numbers of tokens, units and visual tokens of a sample."""
  units = len(sample['pixels']) if 'pixels' in sample else 0
  visual = len(sample['plan']['grid']) if 'plan' in sample else 0
  return len(sample['tokens']), units, visual


def row_size(spec: RowSpec) -> tuple[int, int, int]:
  """Returns the numbers of tokens, units and visual tokens a row holds."""
  return spec.seq_len, spec.capacity, spec.visual


def check_sample(sample: Sample, spec: RowSpec) -> None:
  """Checks that a sample fits a row and that its placeholders have tokens.

  Raises:
    BadRecord: 'too long' when it is larger than the row in any dimension,
      'placeholder mismatch' when the placeholders in the text are not as many
      as the visual tokens of its images.
    ValueError: when loss_mask and tokens differ in length.
  """
  if len(sample['loss_mask']) != len(sample['tokens']):
    raise ValueError(
      f'loss_mask has {len(sample["loss_mask"])} entries for '
      f'{len(sample["tokens"])} tokens'
    )
  names = ('tokens', spec.units, 'visual tokens')
  fields = ('seq_len', spec.units, 'visual')
  sizes, limits = sample_size(sample), row_size(spec)
  for name, size, limit, field in zip(names, sizes, limits, fields):
    if size > limit:
      raise records.BadRecord(
        'too long', f'{size} {name}, at most {limit} fit (row.{field})'
      )
  if spec.placeholders:
    # np.isin would take half as long as all the rest of a small row.
    found = sum(
      int(np.count_nonzero(sample['tokens'] == name))
      for name in spec.placeholders
    )
    if found != sizes[2]:
      raise records.BadRecord(
        'placeholder mismatch',
        f'{found} placeholders in the text, {sizes[2]} visual tokens from the '
        'images',
      )


def check_videos(samples: Sequence[Sample], spec: RowSpec) -> None:
  """Checks that videos fit the row, and that it is long enough without them.

  Raises:
    BadRecord: 'too long' where they do not.
  """
  if spec.clips is None:
    return
  seen = [videos.frames_of(sample) for sample in samples]
  sizes = [size for frames in seen for size in videos.sizes(frames)]
  most = np.max([(0, 0), *sizes], axis=0)
  if len(sizes) > spec.clips.videos or np.any(most > spec.clips.shape[1:]):
    raise records.BadRecord(
      'too long',
      f'{len(sizes)} videos of up to {most[0]} x {most[1]} tokens, at most '
      f'{spec.clips.videos} of {spec.clips.frames} x {spec.clips.tokens} fit '
      '(--config.data.clips)',
    )
  left = sum(len(s['tokens']) for s in samples) - spec.clips.lost_of(sizes)
  if left > spec.seq_len - spec.clips.lost:
    raise records.BadRecord(
      'too long',
      f'{left} tokens are left of its videos and texts, at most '
      f'{spec.seq_len - spec.clips.lost} fit (row.seq_len {spec.seq_len})',
    )


KNOWN = ('tokens', 'loss_mask', 'positions', 'pixels', 'plan')


def pad_sample(sample: Sample, spec: RowSpec) -> Sample:
  """Turns one sample into one row; see `merge_samples`.

  Keys outside the sample's contract pass unchanged: such arrays must already
  have one shape for all samples.
  """
  row = merge_samples([sample], spec)
  row.update({k: v for k, v in sample.items() if k not in KNOWN})
  return row


def merge_samples(samples: Sequence[Sample], spec: RowSpec) -> Sample:
  """Lays samples one after another in one row of static shape.

  Args:
    samples: see the module's docstring; none gives an empty row.
    spec: the row's shape.

  Returns:
    The arrays of `spec.fields()`, those of the plan in 'plan'.

  Raises:
    BadRecord: when the samples do not fit the row.
    ValueError: when their arrays have another shape or type than the spec's.
  """
  for sample in samples:
    check_sample(sample, spec)
  used = np.sum([sample_size(s) for s in samples], axis=0, initial=0)
  if np.any(used > row_size(spec)):
    raise records.BadRecord(
      'too long',
      f'{used} tokens, {spec.units} and visual tokens in a row of '
      f'{row_size(spec)}',
    )
  check_videos(samples, spec)
  row = empty_row(spec)
  start = 0
  for segment, sample in enumerate(samples, 1):
    end = start + len(sample['tokens'])
    row['tokens'][start:end] = sample['tokens']
    row['loss_mask'][start:end] = sample['loss_mask']
    row['segment_ids'][start:end] = segment
    row['positions'][start:end] = _positions(sample, spec)
    start = end
  shown = [s for s in samples if 'pixels' in s]
  spec.place_visuals(row, shown)
  if spec.clips is not None:
    videos.place(row['plan'], spec.clips, [s['plan'] for s in shown])
  return row


def nested(fields: Fields, make: Callable[..., Any]) -> Sample:
  """`make(shape, dtype)` of every field; 'plan/...' lie in a dict of their own.

  With `jax.ShapeDtypeStruct` these are the shapes of a row.
  """
  row: Sample = {}
  for name, (shape, dtype) in fields.items():
    folder, _, key = name.rpartition('/')
    target = row.setdefault(folder, {}) if folder else row
    target[key] = make(shape, dtype)
  return row


def empty_row(spec: RowSpec) -> Sample:
  """Zeros in the shape of a row; the grid of no token is -1."""
  row = nested(spec.fields(), np.zeros)
  if 'plan' in row:
    row['plan']['grid'] -= 1
  return row


def _positions(sample: Sample, spec: RowSpec) -> np.ndarray:
  if 'positions' in sample:
    return sample['positions']
  counted = np.arange(len(sample['tokens']))
  return counted if spec.axes == 1 else counted[:, None]
