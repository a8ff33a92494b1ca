"""From samples of any size to rows of static shape: pad, bucket or pack.

A sample, as the last transform leaves it, is a dict of numpy arrays:

    tokens     int32 [t]      one placeholder id per visual token
    loss_mask  float32 [t]
    pixels     [i, S, S, 3]   i tiles or frames; absent when there are none
    plan       {index int32 [m, k], weight float32 [m, k], grid int32 [m, 3]},
               k at most K; absent together with pixels (see `plan_fields`)

`index` points into the sample's own tiles: tile * P + p for token p of a tile,
or `NEWLINE`. Here samples become rows of a batch, whose bank has the row's
static capacity of I tiles: tile indices move by the tiles before them and the
newline is at I * P. A sample is never cut: one that fits nowhere is a bad row,
'too long'.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from data import records
from vlm.models.plan import NEWLINE, RowPlan

Sample = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RowSpec:
  """Static shape of one row of a batch.

  Attributes:
    seq_len: T, tokens per row.
    tiles: I, tiles or frames per row; 0 for text without images.
    visual: M, visual tokens per row.
    points: K, bank entries a visual token is a weighted sum of (1 or 4).
    tile_tokens: P, tower tokens per tile.
    image_size: S, side of a tile in pixels.
    pixel_dtype: 'uint8' (normalised on device) or 'float32'.
    placeholders: token ids that stand for one visual token each.
  """

  seq_len: int
  tiles: int = 0
  visual: int = 0
  points: int = 1
  tile_tokens: int = 0
  image_size: int = 0
  pixel_dtype: str = 'uint8'
  placeholders: tuple[int, ...] = ()

  @property
  def newline(self) -> int:
    """Bank index of the newline vector, I * P."""
    return self.tiles * self.tile_tokens


def sample_size(sample: Sample) -> tuple[int, int, int]:
  """Returns the numbers of tokens, tiles and visual tokens of a sample."""
  tiles = len(sample['pixels']) if 'pixels' in sample else 0
  visual = len(sample['plan']['index']) if 'plan' in sample else 0
  return len(sample['tokens']), tiles, visual


def plan_fields(row: RowPlan) -> Sample:
  """Returns a row plan in the form that samples carry."""
  return {'index': row.index, 'weight': row.weight, 'grid': row.grid}


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
  names = ('tokens', 'tiles', 'visual tokens')
  limits = (spec.seq_len, spec.tiles, spec.visual)
  fields = ('seq_len', 'tiles', 'visual')
  sizes = sample_size(sample)
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


def pad_sample(sample: Sample, spec: RowSpec) -> Sample:
  """Turns one sample into one row; see `merge_samples`.

  Keys outside the sample's contract pass unchanged: such arrays must already
  have one shape for all samples.
  """
  row = merge_samples([sample], spec)
  known = ('tokens', 'loss_mask', 'pixels', 'plan')
  row.update({k: v for k, v in sample.items() if k not in known})
  return row


def merge_samples(samples: Sequence[Sample], spec: RowSpec) -> Sample:
  """Lays samples one after another in one row of static shape.

  Args:
    samples: see the module's docstring; none gives an empty row.
    spec: the row's shape.

  Returns:
    tokens, segment_ids, positions int32 [T], loss_mask float32 [T], and with
    tiles: pixels [I, S, S, 3] and plan (index, weight [M, K], valid [M],
    grid [M, 3]).

  Raises:
    BadRecord: when the samples do not fit the row.
  """
  T = spec.seq_len
  for sample in samples:
    check_sample(sample, spec)
  row = {
    'tokens': np.zeros(T, np.int32),
    'segment_ids': np.zeros(T, np.int32),
    'positions': np.zeros(T, np.int32),
    'loss_mask': np.zeros(T, np.float32),
  }
  start = 0
  for segment, sample in enumerate(samples, 1):
    end = start + len(sample['tokens'])
    if end > T:
      raise records.BadRecord('too long', f'{end} tokens in a row of {T}')
    row['tokens'][start:end] = sample['tokens']
    row['loss_mask'][start:end] = sample['loss_mask']
    row['segment_ids'][start:end] = segment
    row['positions'][start:end] = np.arange(end - start)
    start = end
  if spec.tiles:
    row.update(merge_visuals(samples, spec))
  return row


def merge_visuals(samples: Iterable[Sample], spec: RowSpec) -> Sample:
  """Merges tiles and plans of samples into one bank of I tiles.

  Example, P = 4, I = 5: the second sample's index [[0], [NEWLINE]] (first
  token of its only tile, newline) after a sample of two tiles becomes
  [[8], [20]].

  Returns:
    {'pixels': [I, S, S, 3], 'plan': {index, weight, valid, grid}}.

  Raises:
    BadRecord: 'too long' when tiles or visual tokens exceed the row.
    ValueError: when tiles or plan entries have another shape than the spec's.
  """
  S, I, M, K = spec.image_size, spec.tiles, spec.visual, spec.points
  pixels = np.zeros((I, S, S, 3), spec.pixel_dtype)
  plan = {
    'index': np.zeros((M, K), np.int32),
    'weight': np.zeros((M, K), np.float32),
    'valid': np.zeros(M, bool),
    'grid': np.full((M, 3), -1, np.int32),  # as in vlm.models.plan
  }
  tile = token = 0
  for sample in samples:
    if 'pixels' not in sample:
      continue
    part, tiles = sample['plan'], len(sample['pixels'])
    tokens, taps = part['index'].shape
    if tile + tiles > I or token + tokens > M:
      raise records.BadRecord(
        'too long',
        f'{tile + tiles} tiles and {token + tokens} visual tokens in a row of '
        f'{I} and {M}',
      )
    _check_visuals(sample['pixels'], part, spec)
    pixels[tile : tile + tiles] = sample['pixels']
    here = slice(token, token + tokens)
    plan['index'][here, :taps] = np.where(
      part['index'] == NEWLINE,
      spec.newline,
      part['index'] + tile * spec.tile_tokens,
    )
    plan['weight'][here, :taps] = part['weight']
    plan['valid'][here] = True
    plan['grid'][here] = part['grid']
    tile, token = tile + tiles, token + tokens
  return {'pixels': pixels, 'plan': plan}


def _check_visuals(pixels: np.ndarray, plan: Sample, spec: RowSpec) -> None:
  S = spec.image_size
  if pixels.shape[1:] != (S, S, 3) or pixels.dtype != spec.pixel_dtype:
    raise ValueError(
      f'tiles are {pixels.dtype} {pixels.shape[1:]}, the row expects '
      f'{spec.pixel_dtype} {(S, S, 3)}; set row.image_size, row.pixel_dtype'
    )
  index = plan['index']
  if index.shape[1] > spec.points:
    raise ValueError(
      f'the plan has {index.shape[1]} points per visual token, the row at most '
      f'{spec.points}; set row.points'
    )
  end = len(pixels) * spec.tile_tokens
  if index.size and not NEWLINE <= index.min() <= index.max() < end:
    raise ValueError(
      f'the plan points at {index.min()} to {index.max()}; {len(pixels)} tiles '
      f'of {spec.tile_tokens} tokens are 0 to {end - 1}, and the newline is '
      f'{NEWLINE}; set row.tile_tokens'
    )
