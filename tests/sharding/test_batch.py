"""Rows go to devices once, host keys stay, wrong batches are named."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vlm.sharding.batch import check, to_global
from vlm.sharding.mesh import make_mesh


def example(rows=8, length=5):
  return {
    'tokens': np.arange(rows * length, dtype=np.int32).reshape(rows, length),
    'loss_mask': np.ones((rows, length), np.float32),
    'pixels': np.zeros((rows, 2, 4, 4, 3), np.uint8),
    'plan': {
      'index': np.zeros((rows, 3, 1), np.int32),
      'valid': np.ones((rows, 3), bool),
      '_why': ['host'],
    },
    'reward': np.zeros((rows,), np.float32),
    '_record': [{}] * rows,
  }


def test_to_global_splits_rows_and_drops_host_keys():
  batch = example()
  got = to_global(batch, make_mesh(dict(data=2, fsdp=2, tensor=2)))
  assert set(got) == {'tokens', 'loss_mask', 'pixels', 'plan', 'reward'}
  assert set(got['plan']) == {'index', 'valid'}
  assert got['tokens'].sharding.spec == P(('data', 'fsdp'))
  assert {s.data.shape for s in got['tokens'].addressable_shards} == {(2, 5)}
  np.testing.assert_array_equal(jax.device_get(got['tokens']), batch['tokens'])


def test_check_accepts_the_documented_batch():
  check(example(), rows=8)


def broken(key, value):
  batch = example()
  node = batch
  *branches, name = key.split('/')
  for branch in branches:
    node = node[branch]
  node[name] = value
  return batch


@pytest.mark.parametrize(
  ('key', 'value', 'words'),
  [
    ('tokens', np.zeros((8, 5), np.int64), ['dtype int32', 'got int64']),
    ('tokens', np.zeros((4, 5), np.int32), ['axis B', '8', 'batch_size']),
    ('loss_mask', np.ones((8, 6), np.float32), ['axis T', "'tokens'", '6']),
    ('loss_mask', np.ones((8,), np.float32), ['[B T]', '(8,)']),
    ('pixels', np.zeros((8, 2, 4, 5, 3), np.uint8), ['axis S', '4', '5']),
    ('pixels', np.zeros((8, 2, 4, 4, 1), np.uint8), ['axis 3', 'got 1']),
    ('plan/valid', np.ones((8, 4), bool), ['axis M', 'plan/index', '4']),
    ('reward', np.zeros((3,), np.float32), ['axis B', '8', '3']),
    ('names', ['a'] * 8, ['expected an array', 'list', "'_'"]),
    ('names', np.array(['a'] * 8), ['dtype <U1', "'_'"]),
  ],
)
def test_check_names_key_expected_and_got(key, value, words):
  with pytest.raises(ValueError) as error:
    check(broken(key, value), rows=8)
  for word in (f"batch['{key}']", *words):
    assert word in str(error.value)
