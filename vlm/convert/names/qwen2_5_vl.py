"""Names of Qwen2.5-VL.

Hub files say `model.` and `visual.`; state_dict() since transformers 4.52 says
`model.language_model.` and `model.visual.`. The first is what we write.
"""

from vlm.convert.names import qwen2
from vlm.convert.tables import (
  Row,
  Table,
  Transform,
  linear,
  merge_heads,
  nest,
)

_BLOCK = 'blocks.{i}.'

PATCH = Transform('patch convolution over frames', 'D C t p q -> C t p q D')


def fused_heads(ours: str, published: str) -> tuple[Row, ...]:
  """Rows of a fused q, k and v projection: [D, 3, N, H] and [3, N, H]."""
  return (
    Row(
      f'{ours}/kernel',
      (f'{published}.weight',),
      Transform('split fused heads', '(C N H) D -> D C N H'),
    ),
    Row(
      f'{ours}/bias',
      (f'{published}.bias',),
      Transform('split fused heads of a bias', '(C N H) -> C N H'),
    ),
  )


TOWER = Table(
  rows=(
    Row('patch/kernel', ('patch_embed.proj.weight',), PATCH),
    Row('layers/norm1/scale', (_BLOCK + 'norm1.weight',)),
    *fused_heads('layers/attn/qkv', _BLOCK + 'attn.qkv'),
    *merge_heads('layers/attn/o', _BLOCK + 'attn.proj'),
    Row('layers/norm2/scale', (_BLOCK + 'norm2.weight',)),
    *linear('layers/mlp/gate', _BLOCK + 'mlp.gate_proj'),
    *linear('layers/mlp/up', _BLOCK + 'mlp.up_proj'),
    *linear('layers/mlp/down', _BLOCK + 'mlp.down_proj'),
    Row('merger/norm/scale', ('merger.ln_q.weight',)),
    *linear('merger/fc1', 'merger.mlp.0'),
    *linear('merger/fc2', 'merger.mlp.2'),
  ),
)

QWEN2_5_VL = (
  nest(TOWER, 'vision/', ('visual.', 'model.visual.'))
  + nest(qwen2.STACK, 'decoder/', ('model.', 'model.language_model.'))
  + qwen2.head('lm_head.weight')
)
