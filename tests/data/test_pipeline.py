"""Order, sharing, mixing and resumption of batches."""

import dataclasses
import json

import grain
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from data import assemble, pipeline, records
from data.tiles import TileRow

SPEC = TileRow(seq_len=16, tiles=3, visual=6, tile_tokens=4, image_size=64)
SKIP = records.BadRowPolicy('skip', 1.0)


class Numbers:
  """Rows {'n': first}, {'n': first + 1}, ...; every seventh is unreadable."""

  def __init__(self, count, first=0, bad=True):
    self.count, self.first, self.bad = count, first, bad
    self.name = f'numbers-{first}'

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    if self.bad and index % 7 == 3:
      raise records.BadRecord('malformed json', f'row {index}')
    return {'n': self.first + index}


class Draw(grain.transforms.RandomMap):
  """A sample of random length with tiles large enough for shared memory."""

  def random_map(self, row, rng):
    length, tiles = int(rng.integers(2, 9)), int(rng.integers(0, 3))
    if length == 8:
      raise records.BadRecord('too long', 'drawn so')
    sample = {
      'tokens': np.full(length, 1 + row['n'], np.int32),
      'loss_mask': rng.random(length).astype(np.float32),
      '_n': row['n'],
    }
    if tiles:
      shape = (tiles, 64, 64, 3)
      sample['pixels'] = rng.integers(0, 255, shape).astype(np.uint8)
      sample['plan'] = {
        'index': np.arange(tiles, dtype=np.int32)[:, None],
        'weight': np.ones((tiles, 1), np.float32),
        'grid': np.zeros((tiles, 3), np.int32),
      }
    return sample


def number(row):
  return {'x': np.int32(row['n']), '_n': row['n']}


def build(workers=0, source=None, transforms=None, **options):
  defaults = dict(batch_size=2, seed=3, policy=SKIP)
  defaults |= options
  return pipeline.build(
    Numbers(60) if source is None else source,
    transforms or [Draw()],
    workers=workers,
    **defaults,
  )


def packed(workers=0, **options):
  return build(workers, rows=assemble.Packing(SPEC, 3), **options)


def plain(batch_size=4, source=None, **options):
  source = Numbers(60, bad=False) if source is None else source
  return build(0, source, [number], batch_size=batch_size, **options)


def take(batches, count):
  return [next(batches) for _ in range(count)]


def assert_equal(mine, theirs):
  assert len(mine) == len(theirs)
  for a, b in zip(mine, theirs):
    assert list(a) == list(b)
    for key in a:
      if key == 'plan':
        assert_equal([a[key]], [b[key]])
      elif key.startswith('_'):
        assert a[key] == b[key]
      else:
        assert a[key].dtype == b[key].dtype
        np.testing.assert_array_equal(a[key], b[key], key)


def numbers(batches):
  return [n for batch in batches for n in batch['_n']]


@pytest.fixture(scope='module')
def reference():
  """Batches, states and counts of one run without workers."""
  batches, states, stats = packed(), [], []
  seen = []
  for _ in range(12):
    seen.append(next(batches))
    states.append(json.loads(json.dumps(batches.get_state())))
    stats.append(batches.stats())
  return seen, states, stats


def test_batches_do_not_depend_on_workers(reference):
  seen, states, stats = reference
  batches = packed(3)
  assert_equal(take(batches, 6), seen[:6])
  assert batches.get_state() == states[5]
  assert batches.stats()['bad'] == stats[5]['bad']
  batches.close()


def test_resume_in_the_middle_with_workers(reference):
  seen, states, _ = reference
  batches = packed(2)
  assert_equal(take(batches, 4), seen[:4])
  state = batches.get_state()
  batches.close()
  # With as many workers, and, since the state is a place in the stream, none.
  for workers in (2, 0):
    again = packed(workers)
    again.set_state(state)
    assert_equal(take(again, 4), seen[4:8])
    assert again.get_state() == states[7]
    again.close()


@pytest.mark.parametrize('k', range(11))
def test_resume_after_any_batch(reference, k):
  seen, states, stats = reference
  batches = packed()
  batches.set_state(states[k])
  assert_equal(take(batches, 11 - k), seen[k + 1 :])
  assert batches.get_state() == states[-1]
  final = batches.stats()
  for name in ('seen', 'bad', 'batches', 'padding_share'):
    assert final[name] == stats[-1][name], name


@pytest.mark.parametrize(
  'rows',
  [
    assemble.Packing(SPEC, 3),
    assemble.Buckets(
      tuple(dataclasses.replace(SPEC, seq_len=t) for t in (4, 8))
    ),
    None,
  ],
)
def test_resume_to_the_end_of_finite_data(rows):
  transforms = [Draw(), assemble.Pad(SPEC)] if rows is None else [Draw()]
  options = dict(source=Numbers(25), transforms=transforms, epochs=2, rows=rows)
  batches, states = build(**options), []
  seen = []
  for batch in batches:
    seen.append(batch)
    states.append(batches.get_state())
  assert len(seen) > 5
  for k in (0, 3, len(seen) - 2, len(seen) - 1):
    again = build(**options)
    again.set_state(states[k])
    assert_equal(list(again), seen[k + 1 :])


def test_the_state_holds_no_more_than_places(reference):
  _, states, _ = reference
  assert all(len(json.dumps(state)) < 1500 for state in states)


def test_resume_with_other_settings_names_the_difference():
  state = plain().get_state()
  with pytest.raises(ValueError, match='batch_size=4, this run has .*=8'):
    plain(8).set_state(state)
  with pytest.raises(ValueError, match='source_lengths'):
    plain(source=Numbers(61, bad=False)).set_state(state)


def test_orbax_saves_and_restores_it(tmp_path):
  batches = packed()
  take(batches, 3)
  ocp.save_checkpointables(tmp_path / 'step', {'data': batches})
  again = packed()
  ocp.load_checkpointables(tmp_path / 'step', {'data': again})
  assert_equal(take(again, 3), take(batches, 3))


def test_processes_share_each_epoch_without_overlap():
  shares = [
    numbers(plain(epochs=1, process_index=i, process_count=2)) for i in (0, 1)
  ]
  assert sorted(shares[0] + shares[1]) == list(range(60))
  assert len(shares[0]) == len(shares[1]) == 30


def test_shares_of_processes_are_the_rows_of_one_stream():
  whole = [b['x'] for b in take(plain(), 6)]
  parts = [
    [b['x'] for b in take(plain(process_index=i, process_count=2), 6)]
    for i in (0, 1)
  ]
  for batch, first, second in zip(whole, *parts):
    assert sorted(batch) == sorted([*first, *second])


def test_epochs_are_complete_and_shuffled_anew():
  stream = numbers(take(plain(10), 12))
  first, second = stream[:60], stream[60:]
  assert sorted(first) == sorted(second) == list(range(60))
  assert first != second and first != sorted(first)
  assert stream == numbers(take(plain(10), 12))
  assert stream != numbers(take(plain(10, seed=4), 12))
  assert numbers(take(plain(10, shuffle=False), 6)) == list(range(60))


def test_last_batch_is_filled_and_processes_stay_in_step():
  source = Numbers(13)  # rows 3 and 10 are bad; process 1 of 2 has row 3
  options = dict(source=source, epochs=1, shuffle=False, process_count=2)
  for index, own in enumerate(([0, 2, 4, 6, 8, 12], [1, 5, 7, 9, 11])):
    batches = list(plain(4, process_index=index, **options))
    assert numbers(batches) == own
    assert [len(batch['x']) for batch in batches] == [2, 2, 2, 2]
    assert batches[-1]['_n'] == [] and not batches[-1]['x'].any()


def test_packing_finite_data_over_processes_is_refused():
  with pytest.raises(ValueError, match='epochs=None'):
    packed(epochs=1, process_count=2)


def test_mixing_follows_the_weights():
  sources = [Numbers(50, 0, False), Numbers(20, 1000, False)]
  batches = plain(10, source=sources, weights=(3, 1))
  stream = np.array(numbers(take(batches, 40)))
  assert np.sum(stream >= 1000) == 100
  # The share holds everywhere, not only on the whole.
  for start in range(0, 400, 20):
    assert np.sum(stream[start : start + 20] >= 1000) == 5


def test_sources_without_weights_are_concatenated():
  sources = [Numbers(50, 0, False), Numbers(20, 1000, False)]
  stream = numbers(plain(10, source=sources, epochs=1))
  assert sorted(stream) == [*range(50), *range(1000, 1020)]
  assert max(stream[:10]) >= 1000  # shuffled across the sources


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(batch_size=3, process_count=2), '--config.batch_size'),
    (dict(process_index=2, process_count=2), 'process_index=2'),
    (dict(weights=(1, 2)), '--config.data.weights'),
    (dict(source=Numbers(0)), 'has no rows.*--config.data.path'),
    (
      dict(source=[Numbers(5), Numbers(6)], weights=(1, 2), epochs=1),
      'epochs=None',
    ),
  ],
)
def test_contradicting_settings_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    plain(**options)


def divide(row):
  return {'x': 1 // (row['n'] - 5)}


def test_an_error_in_a_transform_names_its_row():
  batches = build(
    0, Numbers(9, bad=False), [divide], batch_size=9, shuffle=False
  )
  with pytest.raises(ZeroDivisionError) as caught:
    next(batches)
  assert 'while transforming numbers-0[5]' in caught.value.__notes__


def test_stats_report_padding_and_waiting():
  batches = packed()
  seen = take(batches, 5)
  filled = np.mean([np.mean(b['segment_ids'] > 0) for b in seen])
  stats = batches.stats()
  assert stats['padding_share'] == pytest.approx(1 - filled)
  assert stats['batches'] == 5 and stats['wait_seconds'] > 0


def test_check_batch_names_key_expected_and_found():
  (batch,) = take(packed(), 1)
  pipeline.check_batch(batch, SPEC)
  plan = batch['plan']
  broken = [
    ({'positions': None}, "no 'positions'"),
    ({'tokens': batch['tokens'].astype(np.int64)}, "'tokens'.*int64.*int32"),
    ({'pixels': batch['pixels'][:, :1]}, "'pixels'.*1, 64.*3, 64"),
    ({'plan': plan | {'index': plan['index'] + 99}}, r'\[0, 12\]'),
    ({'loss_mask': np.ones_like(batch['loss_mask'])}, 'segment_ids is 0'),
    ({'reward': np.zeros(1, np.float32)}, r"'reward'.*\(1,\), expected 2 rows"),
    ({'names': ['a', 'b']}, "'names'.*list, which has no place on a device"),
    ({'names': np.array(['a', 'b'])}, "'names'.*<U1.*start with '_'"),
  ]
  for change, message in broken:
    wrong = {k: v for k, v in (batch | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
      pipeline.check_batch(wrong, SPEC)
  with pytest.raises(ValueError, match=r'tokens.*(2, 17)'):
    pipeline.check_batch(batch, dataclasses.replace(SPEC, seq_len=17))
  held = dataclasses.replace(SPEC, placeholders=(12345,))
  with pytest.raises(ValueError, match=r'row \d has 0 placeholders and [1-6]'):
    pipeline.check_batch(batch, held)


def test_the_first_batch_is_checked():
  wrong = dataclasses.replace(SPEC, visual=5)
  batches = build(
    source=Numbers(25),
    transforms=[Draw(), assemble.Pad(SPEC)],
    rows=None,
    specs=[wrong],
  )
  with pytest.raises(ValueError, match=r'plan/index.*6, 1\), expected'):
    next(batches)
