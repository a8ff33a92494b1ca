"""Rows of static shape: nothing lost, cut, duplicated or pointed elsewhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import assemble, pack, records, tiles
from vlm.models import plan as plans

P, S, HOLDER = 4, 2, 99
SPEC = tiles.TileRow(
  seq_len=24,
  tiles=5,
  visual=14,
  points=2,
  tile_tokens=P,
  image_size=S,
  placeholders=(HOLDER,),
)


def make_sample(number, length, count, rng):
  """A sample whose tokens, tiles and plan all tell its number."""
  visual = int(rng.integers(1, 3 * count + 1)) if count else 0
  tokens = np.full(length + visual, 1000 + number, np.int32)
  places = rng.choice(length + visual, visual, replace=False)
  tokens[places] = HOLDER
  sample = {
    'tokens': tokens,
    'loss_mask': rng.integers(0, 2, length + visual).astype(np.float32),
    '_number': number,
  }
  if count:
    taps = int(rng.integers(1, 3))
    pixels = rng.integers(0, 255, (count, S, S, 3)).astype(np.uint8)
    sample['pixels'] = pixels
    sample['plan'] = {
      'index': rng.integers(-1, count * P, (visual, taps)).astype(np.int32),
      'weight': rng.random((visual, taps)).astype(np.float32),
      'grid': rng.integers(0, 9, (visual, 3)).astype(np.int32),
    }
  return sample


def features(pixels, newline):
  """A stand-in tower: P features per tile, then the newline."""
  flat = pixels.reshape(len(pixels), -1).astype(np.float64)
  bank = (flat[:, None] * np.arange(1, P + 1)[None, :, None]).reshape(
    -1, S * S * 3
  )
  return np.concatenate([bank, np.full((1, S * S * 3), newline)])


def visual_oracle(sample):
  """Visual tokens of one sample alone, one by one."""
  if 'plan' not in sample:
    return []
  bank = features(sample['pixels'], -7.0)
  return [
    sum(w * bank[i] for i, w in zip(index, weight))  # NEWLINE is the last
    for index, weight in zip(sample['plan']['index'], sample['plan']['weight'])
  ]


def unpack(batch):
  """Samples as a model would see them: {number: (tokens, mask, visuals)}."""
  found = {}
  for row in range(len(batch['_number'])):
    part = {k: v[row] for k, v in batch.items() if k not in ('_number', 'plan')}
    plan = {k: v[row] for k, v in batch['plan'].items()}
    bank = features(part['pixels'], -7.0)
    tokens = np.einsum('mk,mkd->md', plan['weight'], bank[plan['index']])
    tokens = list(tokens[plan['valid']])
    for segment, number in enumerate(batch['_number'][row], 1):
      here = part['segment_ids'] == segment
      count = int(np.sum(part['tokens'][here] == HOLDER))
      mine, tokens = tokens[:count], tokens[count:]
      assert part['positions'][here].tolist() == list(range(here.sum()))
      assert number not in found
      found[number] = (part['tokens'][here], part['loss_mask'][here], mine)
    assert not tokens
    padding = part['segment_ids'] == 0
    for key in ('tokens', 'positions', 'loss_mask'):
      assert not part[key][padding].any()
  return found


shapes = st.lists(
  st.tuples(st.integers(1, 9), st.integers(0, 4)), min_size=1, max_size=25
)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(1, 4), st.integers(0, 5), st.integers(0, 1 << 30))
def test_packing_loses_cuts_and_duplicates_nothing(sizes, rows, wait, seed):
  rng = np.random.default_rng(seed)
  samples = [make_sample(n, *size, rng) for n, size in enumerate(sizes)]
  recipe = assemble.Packing(SPEC, lookahead=wait)
  packer, batches = recipe.start(rows), []
  for sample in samples:
    recipe.check(sample)
    batches += packer.push(sample)
  batches += packer.flush()
  found = {}
  for batch in batches:
    assert batch['tokens'].shape == (rows, SPEC.seq_len)
    assert batch['pixels'].shape == (rows, 5, S, S, 3)
    assert batch['plan']['index'].shape == (rows, 14, 2)
    found |= unpack(batch)
  assert sorted(found) == list(range(len(samples)))
  for number, sample in enumerate(samples):
    tokens, mask, visuals = found[number]
    np.testing.assert_array_equal(tokens, sample['tokens'])
    np.testing.assert_array_equal(mask, sample['loss_mask'])
    expected = visual_oracle(sample)
    assert len(visuals) == len(expected)
    for mine, theirs in zip(visuals, expected):
      np.testing.assert_allclose(mine, theirs, rtol=1e-5)


def tiles_sample(tokens, count, index):
  index = np.array(index, np.int32)
  return {
    'tokens': np.array(tokens, np.int32),
    'loss_mask': np.ones(len(tokens), np.float32),
    'pixels': np.full((count, S, S, 3), count, np.uint8),
    'plan': {
      'index': index,
      'weight': np.ones(index.shape, np.float32),
      'grid': np.zeros((len(index), 3), np.int32),
    },
  }


def test_merging_by_hand():
  first = tiles_sample([7, HOLDER, HOLDER], 2, [[5], [plans.NEWLINE]])
  second = tiles_sample([HOLDER, 8], 1, [[0]])
  row = pack.merge_samples([first, second], SPEC)
  tail = [0] * 19
  assert row['tokens'].tolist() == [7, 99, 99, 99, 8, *tail]
  assert row['segment_ids'].tolist() == [1, 1, 1, 2, 2, *tail]
  assert row['positions'].tolist() == [0, 1, 2, 0, 1, *tail]
  # Five tiles of four tokens: the newline is entry 20, whoever uses it.
  assert row['plan']['index'][:3].tolist() == [[5, 0], [20, 0], [8, 0]]
  assert row['plan']['weight'][:3].tolist() == [[1, 0], [1, 0], [1, 0]]
  assert row['plan']['valid'].tolist() == [True] * 3 + [False] * 11
  assert row['pixels'][:, 0, 0, 0].tolist() == [2, 2, 1, 0, 0]


def test_plan_of_a_real_layout_pads_as_the_model_does():
  layout = plans.Layout(tile=S, side=2, resolutions=((2, 4), (4, 2), (4, 4)))
  planned = plans.plan_row(layout, [plans.Still(4, 7), plans.Still(9, 3)])
  theirs = plans.pack_plans([planned], layout, 5, 14, 2)
  sample = {
    'tokens': np.full(sum(planned.spans), HOLDER, np.int32),
    'loss_mask': np.zeros(sum(planned.spans), np.float32),
    'pixels': np.zeros((planned.tiles, S, S, 3), np.uint8),
    'plan': tiles.plan_fields(planned),
  }
  mine = pack.pad_sample(sample, SPEC)['plan']
  for key, value in theirs.items():
    np.testing.assert_array_equal(mine[key], value[0], key)


@pytest.mark.parametrize(
  'tokens, count, visual, message',
  [
    (25, 1, 0, '25 tokens, at most 24 .*row.seq_len'),
    (9, 6, 3, '6 tiles, at most 5 .*row.tiles'),
    (24, 5, 15, '15 visual tokens, at most 14 .*row.visual'),
  ],
)
def test_too_large_a_sample_is_never_cut(tokens, count, visual, message):
  sample = tiles_sample([1] * tokens, count, np.zeros((visual, 1)))
  for refuse in (
    lambda: pack.pad_sample(sample, SPEC),
    lambda: assemble.Packing(SPEC).check(sample),
    lambda: assemble.Buckets((SPEC,)).check(sample),
  ):
    with pytest.raises(records.BadRecord, match=f'too long: {message}'):
      refuse()


def test_placeholders_must_equal_visual_tokens():
  sample = tiles_sample([HOLDER, HOLDER, 1], 1, [[0]])
  with pytest.raises(
    records.BadRecord, match='placeholder mismatch: 2 .* 1 visual'
  ):
    pack.pad_sample(sample, SPEC)


def test_plan_beyond_its_tiles_is_an_error():
  with pytest.raises(ValueError, match='row.tile_tokens'):
    pack.pad_sample(tiles_sample([HOLDER], 1, [[4]]), SPEC)


def test_tiles_of_another_size_are_an_error():
  sample = tiles_sample([HOLDER], 1, [[0]])
  sample['pixels'] = np.zeros((1, 3, 3, 3), np.uint8)
  with pytest.raises(ValueError, match='row.image_size'):
    pack.pad_sample(sample, SPEC)


def text_sample(length):
  return {
    'tokens': np.full(length, 5, np.int32),
    'loss_mask': np.ones(length, np.float32),
    '_length': length,
  }


def test_text_rows_have_no_pixels():
  row = pack.pad_sample(text_sample(3), pack.RowSpec(seq_len=4))
  assert sorted(row) == [
    '_length',
    'loss_mask',
    'positions',
    'segment_ids',
    'tokens',
  ]


def test_buckets_choose_the_smallest_shape_and_fill_the_rest():
  recipe = assemble.Buckets(tuple(pack.RowSpec(n) for n in (4, 8, 16)))
  bucketing, shapes = recipe.start(2), []
  for length in (3, 16, 5, 4, 8, 9, 2):
    shapes += [b['tokens'].shape for b in bucketing.push(text_sample(length))]
  assert shapes == [(2, 4), (2, 8), (2, 16)]
  (rest,) = bucketing.flush()
  assert rest['segment_ids'].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
  assert rest['_length'] == [2]


def test_lookahead_wastes_less():
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, 17, 400)

  def filled(lookahead):
    packer = assemble.Packing(pack.RowSpec(16), lookahead).start(4)
    batches = [b for n in lengths for b in packer.push(text_sample(n))]
    return np.mean([np.mean(b['segment_ids'] > 0) for b in batches])

  assert filled(8) > filled(0) + 0.05
  assert filled(8) > 0.9


def test_rows_of_unequal_shape_name_the_remedy():
  stacker = assemble.Stacked().start(2)
  stacker.push(text_sample(3))
  with pytest.raises(ValueError, match="'tokens' have shapes.*Pad"):
    stacker.push(text_sample(4))


def test_unknown_arrays_cannot_be_packed():
  sample = text_sample(3) | {'label': np.zeros(2)}
  with pytest.raises(ValueError, match="'label'"):
    assemble.Packing(pack.RowSpec(8)).check(sample)
