"""Names of Qwen2 decoders; Llama, SmolLM2, Mistral are the same without biases.

Rows whose parameter a model lacks (biases, Qwen3's norms, an untied head) are
inactive.
"""

from vlm.convert.tables import (
  LINEAR,
  TABLE,
  Row,
  Table,
  linear,
  merge_heads,
  nest,
  split_heads,
)

_ATTENTION = 'layers.{i}.self_attn.'
_MLP = 'layers.{i}.mlp.'

# The stack below the head: `Qwen2Model`, `LlamaModel`.
STACK = Table(
  rows=(
    Row('embed/embedding', ('embed_tokens.weight',), TABLE),
    Row('layers/attn_norm/scale', ('layers.{i}.input_layernorm.weight',)),
    *split_heads('layers/attn/q', _ATTENTION + 'q_proj'),
    *split_heads('layers/attn/k', _ATTENTION + 'k_proj'),
    *split_heads('layers/attn/v', _ATTENTION + 'v_proj'),
    Row('layers/attn/q_norm/scale', (_ATTENTION + 'q_norm.weight',)),
    Row('layers/attn/k_norm/scale', (_ATTENTION + 'k_norm.weight',)),
    *merge_heads('layers/attn/o', _ATTENTION + 'o_proj'),
    Row(
      'layers/mlp_norm/scale', ('layers.{i}.post_attention_layernorm.weight',)
    ),
    *linear('layers/mlp/gate', _MLP + 'gate_proj', bias=False),
    *linear('layers/mlp/up', _MLP + 'up_proj', bias=False),
    *linear('layers/mlp/down', _MLP + 'down_proj', bias=False),
    Row('norm/scale', ('norm.weight',)),
  ),
  derived=(r'layers\.\d+\.self_attn\.rotary_emb\.inv_freq',),
)


def head(*published: str) -> Table:
  """The output head, absent where it is tied to the embedding."""
  row = Row('decoder/head/kernel', published, LINEAR, 'decoder/embed/embedding')
  return Table((row,))


QWEN2 = nest(STACK, 'decoder/', ('model.',)) + head('lm_head.weight')
