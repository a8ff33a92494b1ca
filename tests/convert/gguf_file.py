"""Writes a tiny GGUF file from a torch llama, as llama.cpp's converter does."""

from pathlib import Path

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

SPECIALS = ('<|endoftext|>', '<|im_start|>', '<|im_end|>')
MERGES = ('a b', 'ab c', 'Ġ ab')
TEMPLATE = (
  "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] "
  "+ '<|im_end|>\n'}}{% endfor %}"
  "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)
NAMES = {
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  'lm_head': 'output',
  'input_layernorm': 'attn_norm',
  'post_attention_layernorm': 'ffn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}


def tokens() -> list[str]:
  """Specials, the 256 byte units, then what the merges make."""
  made = [pair.replace(' ', '') for pair in MERGES]
  return [*SPECIALS, *sorted(ByteLevel.alphabet()), *made]


def torch_llama(tied: bool = True):
  """A random llama with that vocabulary."""
  import torch
  import transformers

  torch.manual_seed(0)
  model = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=len(tokens()),
      hidden_size=32,
      intermediate_size=64,
      num_hidden_layers=2,
      num_attention_heads=4,
      num_key_value_heads=2,
      max_position_embeddings=128,
      tie_word_embeddings=tied,
      rope_theta=5000.0,
      rms_norm_eps=1e-5,
      bos_token_id=1,
      eos_token_id=2,
      pad_token_id=2,
    )
  )
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.copy_(torch.randn(parameter.shape) * 0.3)
  return model.eval()


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
  """Published row order -> GGUF's: row (n, half, j) goes to (n, j, half)."""
  out = np.empty_like(weight)
  head_dim = len(weight) // heads
  for n in range(heads):
    for half in range(2):
      for j in range(head_dim // 2):
        source = n * head_dim + half * head_dim // 2 + j
        out[n * head_dim + 2 * j + half] = weight[source]
  return out


def write(path: Path, model, **changes) -> Path:
  """Writes `model`; `changes` override metadata, e.g. architecture='gpt2'."""
  import gguf

  config = model.config
  writer = gguf.GGUFWriter(path, changes.get('architecture', 'llama'))
  writer.add_block_count(config.num_hidden_layers)
  writer.add_context_length(config.max_position_embeddings)
  writer.add_embedding_length(config.hidden_size)
  writer.add_feed_forward_length(config.intermediate_size)
  writer.add_head_count(config.num_attention_heads)
  writer.add_head_count_kv(config.num_key_value_heads)
  writer.add_rope_freq_base(5000.0)
  writer.add_layer_norm_rms_eps(config.rms_norm_eps)
  writer.add_tokenizer_model('gpt2')
  writer.add_tokenizer_pre(changes.get('pre', 'smollm'))
  writer.add_token_list(tokens())
  kinds = [3 if token in SPECIALS else 1 for token in tokens()]
  writer.add_token_types(kinds)
  writer.add_token_merges(list(MERGES))
  writer.add_bos_token_id(1)
  writer.add_eos_token_id(2)
  writer.add_pad_token_id(2)
  writer.add_chat_template(TEMPLATE)
  for key, tensor in model.state_dict().items():
    if key == 'lm_head.weight' and config.tie_word_embeddings:
      continue
    value = tensor.numpy()
    if 'q_proj' in key:
      value = permute(value, config.num_attention_heads)
    if 'k_proj' in key:
      value = permute(value, config.num_key_value_heads)
    name = _name(key)
    if name == changes.get('quantised'):
      kind = gguf.GGMLQuantizationType.Q8_0
      value = gguf.quants.quantize(value, kind)
      writer.add_tensor(name, value, raw_dtype=kind)
    else:
      writer.add_tensor(changes.get('rename', {}).get(name, name), value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def _name(key: str) -> str:
  stem = key.removesuffix('.weight')
  if stem.startswith('model.layers.'):
    _, _, layer, *rest = stem.split('.')
    return f'blk.{layer}.{NAMES[".".join(rest)]}.weight'
  return NAMES[stem] + '.weight'
