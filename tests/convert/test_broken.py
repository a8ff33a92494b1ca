"""A broken checkpoint fails before any weight is read, and names the tensor."""

import json
import types

import jax
import numpy as np
import pytest

from vlm.convert import checkpoint as checkpoint_module
from vlm.convert.checkpoint import INDEX, SINGLE, Checkpoint, CheckpointError
from vlm.convert.reader import load_params
from vlm.convert.writer import Tensor, write_folder

WIDTH, HEADS, HEAD_DIM, FFN, VOCAB, LAYERS = 6, 2, 4, 5, 7, 2


def llama():
  """A tied decoder without biases, as a stand-in for a registry model."""
  leaf = lambda *shape: jax.ShapeDtypeStruct(shape, 'float32')
  heads = lambda: {'kernel': leaf(LAYERS, WIDTH, HEADS, HEAD_DIM)}
  layers = {
    'attn_norm': {'scale': leaf(LAYERS, WIDTH)},
    'mlp_norm': {'scale': leaf(LAYERS, WIDTH)},
    'attn': {
      **{name: heads() for name in 'qkv'},
      'o': {'kernel': leaf(LAYERS, HEADS, HEAD_DIM, WIDTH)},
    },
    'mlp': {
      'gate': {'kernel': leaf(LAYERS, WIDTH, FFN)},
      'up': {'kernel': leaf(LAYERS, WIDTH, FFN)},
      'down': {'kernel': leaf(LAYERS, FFN, WIDTH)},
    },
  }
  decoder = {
    'embed': {'embedding': leaf(VOCAB, WIDTH)},
    'layers': layers,
    'norm': {'scale': leaf(WIDTH)},
  }
  return types.SimpleNamespace(
    config=types.SimpleNamespace(model_type='llama'),
    abstract_params={'decoder': decoder},
  )


def tensors() -> dict[str, np.ndarray]:
  """The published tensors of `llama()`."""
  inner = HEADS * HEAD_DIM
  shapes = {
    'model.embed_tokens.weight': (VOCAB, WIDTH),
    'model.norm.weight': (WIDTH,),
  }
  for i in range(LAYERS):
    at = f'model.layers.{i}.'
    for name in 'qkv':
      shapes[f'{at}self_attn.{name}_proj.weight'] = (inner, WIDTH)
    shapes[f'{at}self_attn.o_proj.weight'] = (WIDTH, inner)
    shapes[f'{at}mlp.gate_proj.weight'] = (FFN, WIDTH)
    shapes[f'{at}mlp.up_proj.weight'] = (FFN, WIDTH)
    shapes[f'{at}mlp.down_proj.weight'] = (WIDTH, FFN)
    shapes[f'{at}input_layernorm.weight'] = (WIDTH,)
    shapes[f'{at}post_attention_layernorm.weight'] = (WIDTH,)
  random = np.random.default_rng(0)
  return {
    key: random.normal(size=shape).astype(np.float32)
    for key, shape in shapes.items()
  }


def write(folder, values, **keywords):
  write_folder(
    folder,
    [Tensor(k, v.dtype, v.shape, lambda v=v: v) for k, v in values.items()],
    {},
    **keywords,
  )
  return folder


@pytest.fixture(autouse=True)
def no_reads(monkeypatch):
  """Broken folders must be refused from their headers alone."""

  def read(*_):
    raise AssertionError('a weight was read')

  monkeypatch.setattr(Checkpoint, 'read', read)


def refuse(folder) -> str:
  with pytest.raises(CheckpointError) as caught:
    load_params(folder, llama())
  return str(caught.value)


def test_missing_tensors_are_all_named(tmp_path):
  values = tensors()
  del values['model.norm.weight'], values['model.layers.1.mlp.up_proj.weight']
  message = refuse(write(tmp_path, values))
  assert "missing 'model.norm.weight' (for decoder/norm/scale)" in message
  assert "missing 'model.layers.1.mlp.up_proj.weight'" in message
  assert message.count("missing '") == 2


@pytest.mark.parametrize(
  'key',
  [
    'model.layers.2.mlp.up_proj.weight',  # a layer too many
    'model.layers.0.self_attn.q_proj.bias',  # a bias the model lacks
    'vision_tower.embeddings.patch_embedding.weight',
  ],
)
def test_unexpected_tensor_is_named(tmp_path, key):
  message = refuse(write(tmp_path, tensors() | {key: np.ones(3, np.float32)}))
  assert f'unexpected {key!r}' in message


def test_wrong_shape_says_expected_and_got(tmp_path):
  key = 'model.layers.1.self_attn.o_proj.weight'
  values = tensors()
  values[key] = values[key].T.copy()
  message = refuse(write(tmp_path, values))
  assert repr(key) in message
  assert 'expected shape (6, 8)' in message
  assert 'got (8, 6)' in message


def test_wrong_kind_of_dtype(tmp_path, monkeypatch):
  """An int8 tensor: what a quantised checkpoint would hold."""
  values = tensors()
  key = 'model.layers.0.mlp.up_proj.weight'
  values[key] = values[key].astype(np.int8)
  names = checkpoint_module.DTYPE_NAMES | {np.dtype(np.int8): 'I8'}
  monkeypatch.setattr('vlm.convert.writer.DTYPE_NAMES', names)
  message = refuse(write(tmp_path, values))
  assert repr(key) in message
  assert 'got I8' in message


def _span(folder, key):
  raw = (folder / SINGLE).read_bytes()
  length = int.from_bytes(raw[:8], 'little')
  begin, end = json.loads(raw[8 : 8 + length])[key]['data_offsets']
  return 8 + length + begin, 8 + length + end


@pytest.mark.parametrize('place', ['first', 'middle', 'last'])
def test_truncated_data_names_the_cut_tensors(tmp_path, place):
  write(tmp_path, tensors())
  keys = list(tensors())
  key = {'first': keys[0], 'middle': keys[len(keys) // 2], 'last': keys[-1]}
  begin, end = _span(tmp_path, key[place])
  raw = (tmp_path / SINGLE).read_bytes()
  for cut in (begin, (begin + end) // 2, end - 1):
    (tmp_path / SINGLE).write_bytes(raw[:cut])
    message = refuse(tmp_path)
    assert 'truncated' in message
    assert repr(key[place]) in message


def test_truncated_anywhere_is_never_loaded(tmp_path):
  """Every 97th byte position, header included, and around its borders."""
  write(tmp_path, tensors())
  raw = (tmp_path / SINGLE).read_bytes()
  header = 8 + int.from_bytes(raw[:8], 'little')
  cuts = {*range(0, len(raw), 97), 1, 7, 8, 9, header - 1, header, len(raw) - 1}
  for cut in sorted(cuts):
    (tmp_path / SINGLE).write_bytes(raw[:cut])
    assert SINGLE in refuse(tmp_path)


@pytest.mark.parametrize(
  'damage',
  [
    lambda raw: raw + b'x',
    lambda raw: raw[:8] + b'[' + raw[9:],
    lambda raw: (1 << 60).to_bytes(8, 'little') + raw[8:],
    lambda raw: raw.replace(b'"F32"', b'"F64"', 1),
    lambda raw: raw.replace(b'"shape":[7,6]', b'"shape":[7,5]', 1),
    lambda raw: raw.replace(b'offsets":[0,', b'offsets":[8,', 1),
    lambda raw: raw.replace(b'"dtype"', b'"dtypo"', 1),
    lambda raw: raw[:8] + b'\xff' + raw[9:],
  ],
)
def test_corrupt_file(tmp_path, damage):
  write(tmp_path, tensors())
  raw = (tmp_path / SINGLE).read_bytes()
  damaged = damage(raw)
  assert damaged != raw
  (tmp_path / SINGLE).write_bytes(damaged)
  message = refuse(tmp_path)
  assert 'corrupt' in message
  assert SINGLE in message


def test_index_that_names_an_absent_file(tmp_path):
  write(tmp_path, tensors(), max_shard_bytes=500)
  lost = sorted(tmp_path.glob('*.safetensors'))[1]
  index = json.loads((tmp_path / INDEX).read_text())['weight_map']
  key = max(k for k, file in index.items() if file == lost.name)
  lost.unlink()
  message = refuse(tmp_path)
  assert lost.name in message
  assert repr(key) in message


def test_index_that_disagrees_with_its_files(tmp_path):
  write(tmp_path, tensors(), max_shard_bytes=500)
  index = json.loads((tmp_path / INDEX).read_text())
  key = 'model.norm.weight'
  kept = index['weight_map'].pop(key)
  (tmp_path / INDEX).write_text(json.dumps(index))
  message = refuse(tmp_path)
  assert f'{key!r}: in {kept}, not in the index' in message
  index['weight_map'] |= {key: kept, 'ghost': kept}
  (tmp_path / INDEX).write_text(json.dumps(index))
  assert "'ghost'" in refuse(tmp_path)
  (tmp_path / INDEX).write_text('{"weight_map": ')
  assert 'not valid JSON' in refuse(tmp_path)


def test_pickles_are_refused(tmp_path):
  (tmp_path / 'pytorch_model.bin').write_bytes(b'\x80\x04')
  message = refuse(tmp_path)
  assert 'pickled' in message
  assert 'safetensors' in message


def test_nothing_there(tmp_path):
  assert 'no such folder' in refuse(tmp_path / 'typo')
  assert SINGLE in refuse(tmp_path)


def test_many_problems_are_counted(tmp_path):
  message = refuse(write(tmp_path, {'other': np.ones(1, np.float32)}))
  assert '... and 1 more' in message


def test_unknown_family_is_named(tmp_path):
  model = llama()
  model.config.model_type = 'gpt5'
  write(tmp_path, tensors())
  with pytest.raises(ValueError, match="model_type 'gpt5'.*known"):
    load_params(tmp_path, model)


def test_a_tied_duplicate_head_is_accepted(tmp_path, monkeypatch):
  """Some tied checkpoints still hold lm_head.weight; the embedding counts."""
  monkeypatch.undo()
  values = tensors()
  values['lm_head.weight'] = values['model.embed_tokens.weight']
  params = load_params(write(tmp_path, values), llama())
  assert (
    np.asarray(params['decoder']['embed']['embedding'])
    == values['lm_head.weight']
  ).all()


def test_a_tied_model_with_a_head_of_its_own_is_refused(tmp_path, monkeypatch):
  monkeypatch.undo()
  values = tensors()
  values['lm_head.weight'] = values['model.embed_tokens.weight'] + 1
  write(tmp_path, values)
  with pytest.raises(CheckpointError) as error:
    load_params(tmp_path, llama())
  for word in ("'lm_head.weight'", 'tie_word_embeddings', 'text_config'):
    assert word in str(error.value)
