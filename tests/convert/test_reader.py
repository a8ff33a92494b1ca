"""Reading by slice: right values, any sharding, only the bytes that count."""

import re

import jax
import numpy as np
import pytest

from vlm.convert import reader
from vlm.convert.checkpoint import Checkpoint
from vlm.convert.plan import flatten, plan
from vlm.convert.reader import load_params
from vlm.convert.writer import Tensor, write_folder

pytestmark = pytest.mark.parity


def tensors_of(folder):
  """All tensors of a folder, for writing them under other names."""
  with Checkpoint(folder) as checkpoint:
    for key, entry in checkpoint.entries.items():
      rows, columns = (*entry.shape, 1, 1)[:2]
      value = checkpoint.read(entry, (0, rows), (0, columns))
      yield key, value


def rewritten(source, folder, rename):
  """Copies a checkpoint with every key renamed."""
  write_folder(
    folder,
    [
      Tensor(rename(key), value.dtype, value.shape, lambda value=value: value)
      for key, value in tensors_of(source.folder)
    ],
    source.config,
  )
  return folder


def assert_same(left, right):
  left, right = flatten(left), flatten(right)
  assert left.keys() == right.keys()
  for path, value in left.items():
    assert value.dtype == right[path].dtype, path
    np.testing.assert_array_equal(
      np.asarray(value), np.asarray(right[path]), err_msg=path
    )


def test_values_of_a_decoder(published):
  source = published('qwen2')
  params = load_params(source.folder, source.model())['decoder']
  torch = {k: v.numpy() for k, v in source.torch.state_dict().items()}
  for i in range(3):
    at = f'model.layers.{i}.'
    q = torch[at + 'self_attn.q_proj.weight'].reshape(4, 16, 24)
    layer = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), params)
    attn = layer['layers']['attn']
    assert (attn['q']['kernel'] == q.transpose(2, 0, 1)).all()
    bias = torch[at + 'self_attn.k_proj.bias'].reshape(2, 16)
    assert (attn['k']['bias'] == bias).all()
    o = torch[at + 'self_attn.o_proj.weight'].reshape(24, 4, 16)
    assert (attn['o']['kernel'] == o.transpose(1, 2, 0)).all()
    up = torch[at + 'mlp.up_proj.weight'].T
    assert (layer['layers']['mlp']['up']['kernel'] == up).all()
  assert (params['head']['kernel'] == torch['lm_head.weight'].T).all()


@pytest.mark.parametrize('small', [0, 1 << 24], ids=['filled', 'whole'])
def test_sharded_equals_unsharded(
  published, largest_axis_sharding, monkeypatch, small
):
  """Onto 8 devices, built whole and filled layer by layer."""
  monkeypatch.setattr(reader, '_SMALL', small)
  monkeypatch.setattr(reader, '_CHUNK', 256)  # Several reads per tensor.
  source = published('llava')
  model = source.model()
  shardings = largest_axis_sharding(model)
  whole = load_params(source.folder, model)
  params = load_params(source.folder, model, shardings)
  assert_same(params, whole)
  for value, sharding in zip(
    jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True
  ):
    assert value.sharding == sharding


def test_layers_sharded_over_devices(published, monkeypatch):
  """The layer axis may be sharded too; then one shard is built at a time."""
  monkeypatch.setattr(reader, '_SMALL', 0)
  source = published('llama')
  model = source.model()
  kind = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((3,), ('x',), (*kind,), devices=jax.devices()[:3])
  place = lambda *spec: jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(*spec)
  )
  shardings = jax.tree.map(
    lambda leaf: place('x') if leaf.shape[0] == 3 else place(),
    model.abstract_params,
  )
  params = load_params(source.folder, model, shardings)
  assert_same(params, load_params(source.folder, model))


def test_only_needed_bytes_are_read(published):
  """What another process would hold is left on the disk."""
  source = published('qwen2')
  with Checkpoint(source.folder) as checkpoint:
    sources = plan(checkpoint, source.model()).sources

    def cost(path, *parts):
      before = checkpoint.bytes_read
      reader.read_blocks(checkpoint, sources[path], parts, np.dtype(np.float32))
      return checkpoint.bytes_read - before

    kernel = 'decoder/layers/attn/q/kernel'  # [L=3, D=24, N=4, H=16]
    some = ((1, 2), (0, 24), (1, 3), (0, 16))
    assert cost(kernel, some) == 4 * 24 * 2 * 16
    # Two devices that hold the same part, or parts of the same rows, cost one
    # pass.
    left = ((1, 2), (0, 12), (1, 3), (0, 16))
    right = ((1, 2), (12, 24), (1, 3), (0, 16))
    assert cost(kernel, some, left, right) == 4 * 24 * 2 * 16
    assert cost('decoder/embed/embedding', ((16, 24), (0, 24))) == 4 * 8 * 24


def test_columns_are_cut_where_that_saves_reading(tmp_path):
  """Rows of 3 pages, of which the middle one is wanted."""
  value = np.arange(4 * 3072, dtype=np.float32).reshape(4, 3072)
  write_folder(
    tmp_path, [Tensor('w', value.dtype, value.shape, lambda: value)], {}
  )
  with Checkpoint(tmp_path) as checkpoint:
    got = checkpoint.read(checkpoint.entries['w'], (1, 3), (1024, 2048))
    assert checkpoint.bytes_read == 2 * 4096
  assert (got == value[1:3, 1024:2048]).all()


def test_bfloat16_and_casts(published):
  """bf16 stays bit-equal; asking for float32 keeps the values."""
  source = published('llama', 'bfloat16')
  model = source.model()
  params = flatten(load_params(source.folder, model))
  embedding = params['decoder/embed/embedding']
  assert embedding.dtype == 'bfloat16'
  torch = source.torch.get_input_embeddings().weight.detach().float().numpy()
  assert (np.asarray(embedding, np.float32) == torch).all()
  wide = flatten(load_params(source.folder, model, dtype='float32'))
  assert wide['decoder/embed/embedding'].dtype == 'float32'
  assert (np.asarray(wide['decoder/embed/embedding']) == torch).all()


def _hub_2024(key):
  return re.sub(r'^vision_tower\.', 'vision_tower.vision_model.', key)


def _under_model(key):
  if key == 'language_model.lm_head.weight':
    return 'lm_head.weight'
  return 'model.' + key.replace('language_model.model.', 'language_model.')


def _authors(key):
  for old, new in (
    ('language_model.model.', 'model.'),
    ('language_model.lm_head', 'lm_head'),
    ('vision_tower.', 'model.vision_tower.vision_tower.vision_model.'),
    ('multi_modal_projector.linear_1', 'model.mm_projector.0'),
    ('multi_modal_projector.linear_2', 'model.mm_projector.2'),
    ('image_newline', 'model.image_newline'),
  ):
    if key.startswith(old):
      return new + key.removeprefix(old)
  raise AssertionError(key)


@pytest.mark.parametrize(
  'vlm,rename',
  [
    ('llava', _hub_2024),
    ('llava', _under_model),
    ('llava', _authors),
    ('internvl', _under_model),
    ('pixtral', _under_model),
  ],
)
def test_every_published_spelling_of_a_vlm(published, tmp_path, vlm, rename):
  source = published(vlm)
  model = source.model()
  folder = rewritten(source, tmp_path, rename)
  assert_same(load_params(folder, model), load_params(source.folder, model))


def test_prefixed_tower_and_position_ids(published, tmp_path):
  """SigLIP as on the hub: a prefix, a text tower beside it, id buffers."""
  source = published('siglip')
  model = source.model()
  extra = {
    'text_model.final_layer_norm.bias': np.ones(3, np.float32),
    'logit_bias': np.ones(1, np.float32),
    'vision_model.embeddings.position_ids': np.ones((1, 4), np.float32),
  }
  named = {f'vision_model.{k}': v for k, v in tensors_of(source.folder)}
  write_folder(
    tmp_path,
    [
      Tensor(key, value.dtype, value.shape, lambda value=value: value)
      for key, value in (named | extra).items()
    ],
    source.config,
  )
  assert_same(load_params(tmp_path, model), load_params(source.folder, model))


def test_wrong_tree_of_shardings(published):
  source = published('llama')
  with pytest.raises(ValueError, match='shardings: expected the tree'):
    load_params(source.folder, source.model(), {'decoder': {}})
