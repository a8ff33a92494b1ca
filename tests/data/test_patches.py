"""Rows of patches: what a model gathers is what each sample meant."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import assemble, pack, records
from data.patches import PatchRow
from vlm.models import mrope
from vlm.models.windows import WindowLayout, count_windows, plan_windows

HOLDER = 99
LAYOUT = WindowLayout(patch=2, merge=2, window=8)  # windows of 16 slots
SPEC = PatchRow(
  seq_len=40,
  visual=24,
  axes=3,
  placeholders=(HOLDER,),
  patches=10 * 16,
  values=3,
  block=4,
  group=16,
)


def make_sample(number, grids, length):
  """A sample whose patches tell its number and their place in it."""
  plan = plan_windows(grids, LAYOUT, count_windows(grids, LAYOUT))
  source = plan.pop('source')
  pixels = np.zeros((len(source), 3), np.uint8)
  there = source >= 0
  pixels[there, 0], pixels[there, 1] = number + 1, source[there]
  visual = [mrope.Span(t, h // 2, w // 2) for t, h, w in grids]
  tokens = [1000 + number] * length + [HOLDER] * sum(s.count for s in visual)
  tokens = np.array(tokens, np.int32)
  sample = {
    'tokens': tokens,
    'loss_mask': np.ones(len(tokens), np.float32),
    'positions': mrope.row_positions(tokens == HOLDER, visual),
    '_number': number,
  }
  return sample | ({'pixels': pixels, 'plan': plan} if grids else {})


def blocks(pixels, plan, number):
  """For each visual token: whose patches its block holds, and which."""
  for token in plan['token']:
    slots = slice(4 * token, 4 * token + 4)
    assert set(pixels[slots, 0]) == {number + 1}
    assert len(set(plan['frame'][slots])) == 1
    yield pixels[slots, 1].tolist()


grids = st.lists(
  st.tuples(st.integers(1, 2), st.sampled_from([2, 4]), st.sampled_from([2])),
  max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(grids, st.integers(1, 6)), min_size=1, max_size=12))
def test_packed_rows_point_at_their_own_patches(shapes):
  samples = [make_sample(n, *shape) for n, shape in enumerate(shapes)]
  packer, batches = assemble.Packing(SPEC).start(2), []
  for sample in samples:
    batches += packer.push(sample)
  batches += packer.flush()
  found = []
  for batch in batches:
    assert batch['positions'].shape == (2, 40, 3)
    for row in range(len(batch['_number'])):
      plan = {k: v[row] for k, v in batch['plan'].items()}
      start = frames = 0
      for segment, number in enumerate(batch['_number'][row], 1):
        sample, here = samples[number], batch['segment_ids'][row] == segment
        found.append(number)
        np.testing.assert_array_equal(
          batch['positions'][row][here], sample['positions']
        )
        if 'plan' not in sample:
          continue
        count = len(sample['plan']['token'])
        mine = plan | {'token': plan['token'][start : start + count]}
        assert list(blocks(batch['pixels'][row], mine, number)) == list(
          blocks(sample['pixels'], sample['plan'], number)
        )
        ids = {plan['frame'][4 * t] for t in mine['token']}
        own = set(sample['plan']['frame']) - {0}
        assert ids == {frames + i for i in own}
        start, frames = start + count, frames + len(own)
      assert plan['valid'].sum() == start
      assert plan['frame'].max() == frames
  assert sorted(found) == list(range(len(samples)))


def test_rows_that_cannot_hold_a_sample():
  with pytest.raises(ValueError, match='whole groups.*--config.data.patches'):
    PatchRow(seq_len=8, patches=40, values=3, block=4, group=16)
  sample = make_sample(0, [(1, 4, 2)] * 11, 1)
  with pytest.raises(records.BadRecord, match='too long: 176 patches'):
    pack.pad_sample(sample, SPEC)
  sample = make_sample(0, [(1, 4, 2)], 1)
  sample['pixels'] = sample['pixels'].astype(np.float32)
  with pytest.raises(ValueError, match='float32.*expects uint8'):
    pack.pad_sample(sample, SPEC)
  sample = make_sample(0, [(1, 4, 2)], 1)
  del sample['plan']['frame']
  with pytest.raises(ValueError, match=r"no \['frame'\]"):
    pack.pad_sample(sample, SPEC)


def test_a_plan_beyond_its_patches_is_an_error():
  row = pack.pad_sample(make_sample(0, [(1, 4, 4)], 1), SPEC)
  SPEC.check_plan(row['plan'])
  row['plan']['token'][0] = 40
  with pytest.raises(ValueError, match=r'\[0, 40\].*expected \[0, 40\)'):
    SPEC.check_plan(row['plan'])
