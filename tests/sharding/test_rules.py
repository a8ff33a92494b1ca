"""One table places every array; nothing is replicated without a word."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from vlm.models import registry
from vlm.models.qwen2 import Qwen2Config
from vlm.sharding import rules
from vlm.sharding.mesh import make_mesh
from vlm.sharding.report import MIB, report


def shape(*sizes, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(sizes, dtype)


def nest(flat: dict) -> dict:
  tree = {}
  for path, leaf in flat.items():
    *branches, name = path.split('/')
    node = tree
    for branch in branches:
      node = node.setdefault(branch, {})
    node[name] = leaf
  return tree


@pytest.fixture(scope='module')
def mesh():
  return make_mesh(dict(data=1, fsdp=2, tensor=4))


def test_match_takes_the_first_whole_match():
  table = ((r'a/.*', 1), (r'a/b', 2), (r'b', 3))
  assert rules.match('a/b', table) == 1
  assert rules.match('a/b', table[1:]) == 2
  assert rules.match('a/b', table[2:]) is None  # 'b' is only a part of it
  assert rules.match('c', table, default=4) == 4


def test_every_parameter_of_a_decoder_has_its_place(mesh):
  config = Qwen2Config(
    vocab_size=64, width=16, depth=2, heads=4, kv_heads=4, head_dim=4,
    mlp_width=32, tied_head=False,
  )  # fmt: skip
  got = dict(
    rules.flatten(rules.specs(mesh, registry.build(config).abstract_params))
  )
  prefix = 'decoder/layers/'
  assert got == {
    'decoder/embed/embedding': P('tensor', 'fsdp'),
    'decoder/head/kernel': P('fsdp', 'tensor'),
    'decoder/norm/scale': P(),
    f'{prefix}attn_norm/scale': P(),
    f'{prefix}mlp_norm/scale': P(),
    **{
      f'{prefix}attn/{name}/kernel': P(None, 'fsdp', 'tensor', None)
      for name in 'qkv'
    },
    **{f'{prefix}attn/{name}/bias': P(None, 'tensor', None) for name in 'qkv'},
    f'{prefix}attn/o/kernel': P(None, 'tensor', None, 'fsdp'),
    f'{prefix}mlp/gate/kernel': P(None, 'fsdp', 'tensor'),
    f'{prefix}mlp/up/kernel': P(None, 'fsdp', 'tensor'),
    f'{prefix}mlp/down/kernel': P(None, 'tensor', 'fsdp'),
  }


def test_towers_and_projector(mesh):
  tree = nest(
    {
      'vision/layers/attn/k/kernel': shape(3, 16, 4, 4),
      'vision/layers/mlp/fc1/bias': shape(3, 32),
      'vision/layers/mlp/fc2/kernel': shape(3, 32, 16),
      'vision/layers/attn/o/bias': shape(3, 16),
      'projector/linear_1/kernel': shape(16, 8),
      'projector/linear_2/kernel': shape(8, 8),
      'newline': shape(7),
    }
  )
  got = dict(rules.flatten(rules.specs(mesh, tree)))
  assert got == {
    'vision/layers/attn/k/kernel': P(None, 'fsdp', 'tensor', None),
    'vision/layers/mlp/fc1/bias': P(None, 'tensor'),
    'vision/layers/mlp/fc2/kernel': P(None, 'tensor', 'fsdp'),
    'vision/layers/attn/o/bias': P(),
    'projector/linear_1/kernel': P('fsdp', 'tensor'),
    'projector/linear_2/kernel': P('tensor', 'fsdp'),
    'newline': P(),
  }


def test_unlisted_arrays_fall_back_by_size(mesh):
  tree = {
    'small': shape(512, 512),
    'large': shape(3, 1000, 1024),
    'odd': shape(1025, 1025),
  }
  assert rules.specs(mesh, tree) == {
    'small': P(),
    'large': P(None, None, 'fsdp'),
    'odd': P(),
  }
  notes = rules.relaxations(mesh, tree)
  assert notes == {'odd': 'replicated over fsdp: no axis divisible by 2'}


def test_an_axis_that_does_not_divide_is_an_error(mesh):
  tree = nest({'decoder/layers/attn/q/kernel': shape(2, 16, 6, 4)})
  with pytest.raises(ValueError) as error:
    rules.shardings(mesh, tree)
  for word in (
    'decoder/layers/attn/q/kernel',
    'axis 2 of size 6',
    'tensor',
    'multiple of 4',
    '--config.mesh.tensor=4',
  ):
    assert word in str(error.value)
  with pytest.raises(ValueError, match='change --config.rollout.mesh.tensor=4'):
    rules.shardings(mesh, tree, flag='--config.rollout.mesh')


def test_few_kv_heads_are_replicated_and_said_so(mesh):
  path = 'decoder/layers/attn/k/kernel'
  tree = nest({path: shape(2, 16, 2, 4)})
  placed = rules.shardings(mesh, tree)
  assert dict(rules.flatten(placed))[path].spec == P(None, 'fsdp', None, None)
  notes = rules.relaxations(mesh, tree)
  assert notes == {path: 'replicated over tensor: 2 not divisible by 4'}
  assert notes[path] in report(tree, placed, notes=notes).text()
  # Only the declared axis is relaxed.
  with pytest.raises(ValueError, match='mesh axis fsdp'):
    rules.specs(mesh, nest({path: shape(2, 15, 2, 4)}))


def test_an_odd_vocabulary_stays_whole_over_tensor(mesh):
  tree = nest(
    {
      'decoder/embed/embedding': shape(151674, 16),
      'decoder/head/kernel': shape(16, 151674),
    }
  )
  got = dict(rules.flatten(rules.specs(mesh, tree)))
  assert got == {
    'decoder/embed/embedding': P(None, 'fsdp'),
    'decoder/head/kernel': P('fsdp', None),
  }
  note = 'replicated over tensor: 151674 not divisible by 4'
  assert rules.relaxations(mesh, tree) == dict.fromkeys(got, note)


@pytest.mark.parametrize(
  'name', [n for n in registry.PRESETS if not n.endswith(('0.5b', '1b'))]
)
def test_every_preset_has_its_place(mesh, name):
  """On 2 x 4 chips; the smallest decoders have 14 heads."""
  params = registry.build(registry.preset(name)).abstract_params
  placed = dict(rules.flatten(rules.shardings(mesh, params)))
  for path, leaf in rules.flatten(params):
    whole = math.prod(leaf.shape)
    if path.endswith('kernel') and whole > rules.LARGE:
      held = math.prod(placed[path].shard_shape(leaf.shape))
      assert held * 2 <= whole, path


def test_a_rule_must_fit_the_array_and_the_mesh(mesh):
  with pytest.raises(ValueError, match="'model'"):
    rules.specs(mesh, {'a': shape(8)}, ((r'a', P('model')),))
  with pytest.raises(ValueError, match='names 2 axes'):
    rules.specs(mesh, {'a': shape(8)}, ((r'a', P('fsdp', 'tensor')),))


def test_report_adds_up(mesh):
  tree = {'a': shape(8, 4), 'b': shape(6, dtype=jnp.bfloat16)}
  placed = rules.shardings(mesh, tree, ((r'a', P('fsdp', 'tensor')),))
  got = report(tree, placed)
  # a: 32 float32 over 8 devices = 16 bytes; b: 6 bfloat16 on each = 12 bytes.
  assert [row.bytes_per_device for row in got.rows] == [16, 12]
  assert (got.bytes_per_device, got.bytes_total) == (28, 128 + 12)
  assert [row.spec for row in got.rows] == ["P('fsdp', 'tensor')", 'P()']
  # The measure is what a device really holds.
  arrays = jax.device_put(
    jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), tree), placed
  )
  assert arrays['a'].addressable_shards[0].data.nbytes == 16
  assert arrays['b'].addressable_shards[0].data.nbytes == 12


def test_large_replicated_arrays_are_refused(mesh):
  tree = nest({'tower/table': shape(1025, 1027)})
  placed = rules.shardings(mesh, tree)
  report(tree, placed)
  with pytest.raises(ValueError) as error:
    report(tree, placed, limit=4 * MIB, notes=rules.relaxations(mesh, tree))
  for word in (
    "(r'tower/table', P(None, 'fsdp'))",
    '(1025, 1027)',
    '4.0 MiB',
    'no axis divisible by 2',
  ):
    assert word in str(error.value)
  # A data-only mesh replicates by choice.
  data = make_mesh(dict(data=8, fsdp=1))
  report(tree, rules.shardings(data, tree), limit=4 * MIB)
