"""Rows go to devices once, host keys stay, nothing else moves."""

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from vlm.sharding.batch import to_global
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
