"""Name tables: both ways, complete, unambiguous."""

import math

import numpy as np
import pytest

from vlm.convert import tables
from vlm.convert.checkpoint import Checkpoint
from vlm.convert.names import TABLES, table_for
from vlm.convert.plan import flatten, plan, shapes_of, unflatten
from vlm.convert.tables import Row, Table

# In one order, which a set would not have: pytest's workers compare notes.
TRANSFORMS = list(
  dict.fromkeys(
    row.transform for table in TABLES.values() for row in table.rows
  )
)


def test_transforms_element_by_element():
  """Each against the index formula that defines it."""
  n, h, d = 2, 3, 5
  q = np.arange(n * h * d).reshape(n * h, d)
  ours = tables.SPLIT_HEADS.forward(q, dict(N=n, H=h, D=d))
  o = np.arange(n * h * d).reshape(d, n * h)
  merged = tables.MERGE_HEADS.forward(o, dict(N=n, H=h, D=d))
  bias = tables.SPLIT_HEADS_BIAS.forward(np.arange(n * h), dict(N=n, H=h))
  for i in range(n):
    for j in range(h):
      assert bias[i, j] == i * h + j
      for k in range(d):
        assert ours[k, i, j] == q[i * h + j, k]
        assert merged[i, j, k] == o[k, i * h + j]
  kernel = np.arange(4 * 3 * 2 * 2).reshape(4, 3, 2, 2)
  patch = tables.PATCH.forward(kernel, dict(D=4, C=3, p=2, q=2))
  for index in np.ndindex(patch.shape):
    row, column, channel, out = index
    assert patch[index] == kernel[out, channel, row, column]
  weight = np.arange(6).reshape(2, 3)
  assert (tables.LINEAR.forward(weight, dict(O=2, I=3)) == weight.T).all()


@pytest.mark.parametrize('transform', TRANSFORMS, ids=lambda t: t.name)
def test_back_and_forth_is_identity(transform):
  shape = tuple(range(2, 2 + len(transform.axes)))
  ours = np.arange(math.prod(shape)).reshape(shape)
  there = transform.backward(ours)
  assert there.shape == transform.published_shape(shape)
  back = transform.forward(there, transform.sizes(shape))
  assert back.shape == shape
  assert (back == ours).all()


@pytest.mark.parity
def test_every_tensor_has_one_place(published, family):
  """On disk -> ours -> on disk reaches each name once, and no other."""
  source, model = published(family), published(family).model()
  with Checkpoint(source.folder) as checkpoint:
    found = plan(checkpoint, model)
  assert found.sources.keys() == flatten(model.abstract_params).keys()
  read = [e.key for s in found.sources.values() for e in s.entries]
  unused = [entry.key for entry in found.unused]
  assert len(read) == len(set(read))
  assert sorted(read + unused) == sorted(checkpoint.entries)
  # All that a model leaves aside is what it never computes with.
  norm = 'vision_tower.post_layernorm'
  expected = {
    'llava': [f'{norm}.bias', f'{norm}.weight'],
    'dinov2': ['embeddings.mask_token'],
    'internvl': ['vision_tower.embeddings.mask_token'],
  }
  assert sorted(unused) == expected.get(family, [])


@pytest.mark.parity
def test_spellings_never_collide(published, family):
  model = published(family).model()
  shapes = shapes_of(model.abstract_params)
  keys = [
    key
    for row in table_for(model).active(shapes)
    for spelling in range(len(row.published))
    for key in row.keys(spelling, shapes[row.ours][0] if row.stacked else 1)
  ]
  assert len(keys) == len(set(keys))


@pytest.mark.parametrize('name', TABLES)
def test_rows_are_consistent(name):
  for row in TABLES[name].rows:
    assert all('{i}' in key for key in row.published) == row.stacked
    assert row.stacked == ('layers/' in row.ours)


def test_a_parameter_without_a_row_is_named():
  table = Table((Row('a/scale', ('a',)),))
  with pytest.raises(ValueError, match="'b/scale'.*exactly one row.*got 0"):
    table.active({'a/scale': (2,), 'b/scale': (2,)})
  twice = table + table
  with pytest.raises(ValueError, match="'a/scale'.*got 2"):
    twice.active({'a/scale': (2,)})


def test_nested_dicts_flatten_and_back():
  tree = {'a': {'b': 1, 'c': {'d': 2}}, 'e': 3}
  assert flatten(tree) == {'a/b': 1, 'a/c/d': 2, 'e': 3}
  assert unflatten(flatten(tree)) == tree
