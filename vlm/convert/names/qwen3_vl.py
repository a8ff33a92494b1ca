"""Names of Qwen3-VL, dense; hub files and state_dict() say the same."""

from vlm.convert.names import qwen2
from vlm.convert.names.qwen2_5_vl import PATCH, fused_heads
from vlm.convert.tables import (
  TABLE,
  Row,
  Table,
  linear,
  merge_heads,
  nest,
  norm,
)

_BLOCK = 'blocks.{i}.'
_INNER = 'deepstack_merger_list.{i}.'

TOWER = Table(
  rows=(
    Row('patch/kernel', ('patch_embed.proj.weight',), PATCH),
    Row('patch/bias', ('patch_embed.proj.bias',)),
    Row('position/embedding', ('pos_embed.weight',), TABLE),
    *norm('layers/norm1', _BLOCK + 'norm1'),
    *fused_heads('layers/attn/qkv', _BLOCK + 'attn.qkv'),
    *merge_heads('layers/attn/o', _BLOCK + 'attn.proj'),
    *norm('layers/norm2', _BLOCK + 'norm2'),
    *linear('layers/mlp/fc1', _BLOCK + 'mlp.linear_fc1'),
    *linear('layers/mlp/fc2', _BLOCK + 'mlp.linear_fc2'),
    *norm('merger/norm', 'merger.norm'),
    *linear('merger/fc1', 'merger.linear_fc1'),
    *linear('merger/fc2', 'merger.linear_fc2'),
    *norm('deepstack/layers/norm', _INNER + 'norm'),
    *linear('deepstack/layers/fc1', _INNER + 'linear_fc1'),
    *linear('deepstack/layers/fc2', _INNER + 'linear_fc2'),
  ),
)

QWEN3_VL = (
  nest(TOWER, 'vision/', ('model.visual.',))
  + nest(qwen2.STACK, 'decoder/', ('model.language_model.',))
  + qwen2.head('lm_head.weight')
)
