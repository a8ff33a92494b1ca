"""Export: bit-equal for untouched weights, and `transformers` loads it."""

import json

import jax
import numpy as np
import pytest

from vlm.convert.checkpoint import INDEX, Checkpoint
from vlm.convert.plan import flatten
from vlm.convert.reader import load_params
from vlm.convert.writer import save_params

pytestmark = pytest.mark.parity


def contents(folder):
  """Dtype and bytes of every tensor."""
  with Checkpoint(folder) as checkpoint:
    found = {}
    for key, entry in checkpoint.entries.items():
      rows, columns = (*entry.shape, 1, 1)[:2]
      value = checkpoint.read(entry, (0, rows), (0, columns))
      found[key] = entry.dtype, entry.shape, value.tobytes()
    return found


def assert_loads(source, folder, missing=()):
  """`from_pretrained` finds every tensor, bit-equal to the original model."""
  import torch

  model, report = type(source.torch).from_pretrained(
    folder, output_loading_info=True
  )
  assert set(report['missing_keys']) == set(missing)
  assert not report['unexpected_keys']
  assert not report['mismatched_keys']
  expected, got = source.torch.state_dict(), model.state_dict()
  assert expected.keys() == got.keys()
  for key, value in expected.items():
    assert got[key].dtype == value.dtype, key
    assert key in missing or torch.equal(got[key], value), key


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_round_trip(published, family, dtype, tmp_path):
  """torch -> disk -> ours -> disk -> torch, in shards."""
  source = published(family, dtype)
  model = source.model()
  params = load_params(source.folder, model)
  save_params(
    tmp_path,
    model,
    params,
    source.config,
    max_shard_bytes=20_000,
    source=source.folder,
  )
  assert (tmp_path / INDEX).exists()
  assert contents(tmp_path) == contents(source.folder)
  assert_loads(source, tmp_path)


def test_published_spelling_without_a_source(published, family, tmp_path):
  """What the hub's files look like; only never-used weights are absent."""
  source = published(family)
  model = source.model()
  params = load_params(source.folder, model)
  save_params(tmp_path, model, params, source.config)
  norm = 'model.vision_tower.post_layernorm'
  never_used = {
    'llava': (f'{norm}.weight', f'{norm}.bias'),
    'dinov2': ('embeddings.mask_token',),
    'internvl': ('model.vision_tower.embeddings.mask_token',),
  }
  assert_loads(source, tmp_path, never_used.get(family, ()))
  keys = contents(tmp_path).keys()
  if family == 'llava':
    assert 'language_model.model.norm.weight' in keys
    assert 'vision_tower.vision_model.embeddings.patch_embedding.bias' in keys
  if family in ('internvl', 'pixtral'):
    assert 'language_model.model.norm.weight' in keys
    assert not any(key.startswith('model.') for key in keys)
  if family.startswith('siglip'):
    assert all(key.startswith('vision_model.') for key in keys)


def test_bfloat16_file_trained_in_float32(published, tmp_path):
  """Read as float32 and written as its source: not one bit differs."""
  source = published('llama', 'bfloat16')
  model = source.model()
  params = load_params(source.folder, model, dtype='float32')
  save_params(tmp_path, model, params, source.config, source=source.folder)
  assert contents(tmp_path) == contents(source.folder)
  assert json.loads((tmp_path / 'config.json').read_text())['dtype'] == (
    'bfloat16'
  )


def test_sharded_parameters(published, largest_axis_sharding, tmp_path):
  source = published('qwen2')
  model = source.model()
  params = load_params(source.folder, model, largest_axis_sharding(model))
  save_params(tmp_path, model, params, source.config)
  assert contents(tmp_path) == contents(source.folder)


def test_numpy_parameters_and_a_changed_weight(published, tmp_path):
  """Exactly the touched tensor differs."""
  source = published('qwen2')
  model = source.model()
  params = jax.tree.map(np.asarray, load_params(source.folder, model))
  up = params['decoder']['layers']['mlp']['up']
  up['kernel'] = up['kernel'].copy()
  up['kernel'][1, 2, 3] += 1
  save_params(tmp_path, model, params, source.config)
  old, new = contents(source.folder), contents(tmp_path)
  changed = [key for key in old if old[key] != new[key]]
  assert changed == ['model.layers.1.mlp.up_proj.weight']


def test_dtype_is_a_choice_and_the_config_says_it(published, tmp_path):
  source = published('llama')
  model = source.model()
  params = load_params(source.folder, model)
  config = source.config | {'torch_dtype': 'float32'}
  save_params(tmp_path, model, params, config, dtype='bfloat16')
  written = json.loads((tmp_path / 'config.json').read_text())
  assert written['dtype'] == written['torch_dtype'] == 'bfloat16'
  again = load_params(tmp_path, model, dtype='bfloat16')
  for path, value in flatten(again).items():
    expected = flatten(params)[path].astype('bfloat16')
    assert (np.asarray(value) == np.asarray(expected)).all(), path


def test_never_overwrites(published, tmp_path):
  source = published('llama')
  model = source.model()
  params = load_params(source.folder, model)
  save_params(tmp_path, model, params, source.config)
  with pytest.raises(ValueError, match='already holds weights'):
    save_params(tmp_path, model, params, source.config)


def test_wrong_parameters_are_named(published, tmp_path):
  source = published('llama')
  model = source.model()
  params = load_params(source.folder, model)
  params['decoder']['norm'] = {'scale': np.ones(3, np.float32)}
  with pytest.raises(ValueError, match='decoder/norm/scale'):
    save_params(tmp_path, model, params, source.config)
