"""Names of Pixtral in HF's LLaVA wrapper.

Hub files say `vision_tower.`, `multi_modal_projector.`, `language_model.model.`
and `language_model.lm_head.`; state_dict() since transformers 4.52 puts all but
the head under `model.`. The first is what we write.
"""

from vlm.convert.names import qwen2
from vlm.convert.tables import (
  PATCH,
  Row,
  Table,
  linear,
  merge_heads,
  nest,
  split_heads,
)

_LAYER = 'transformer.layers.{i}.'
_ATTENTION = _LAYER + 'attention.'
_MLP = _LAYER + 'feed_forward.'

TOWER = Table(
  rows=(
    Row('patch/kernel', ('patch_conv.weight',), PATCH),
    Row('pre_norm/scale', ('ln_pre.weight',)),
    Row('layers/norm1/scale', (_LAYER + 'attention_norm.weight',)),
    *split_heads('layers/attn/q', _ATTENTION + 'q_proj'),
    *split_heads('layers/attn/k', _ATTENTION + 'k_proj'),
    *split_heads('layers/attn/v', _ATTENTION + 'v_proj'),
    *merge_heads('layers/attn/o', _ATTENTION + 'o_proj'),
    Row('layers/norm2/scale', (_LAYER + 'ffn_norm.weight',)),
    *linear('layers/mlp/gate', _MLP + 'gate_proj', bias=False),
    *linear('layers/mlp/up', _MLP + 'up_proj', bias=False),
    *linear('layers/mlp/down', _MLP + 'down_proj', bias=False),
  ),
  derived=(r'patch_positional_embedding\.inv_freq',),
)

PROJECTOR = Table(
  (*linear('linear_1', 'linear_1'), *linear('linear_2', 'linear_2'))
)

PIXTRAL = (
  nest(TOWER, 'vision/', ('vision_tower.', 'model.vision_tower.'))
  + nest(
    PROJECTOR,
    'projector/',
    ('multi_modal_projector.', 'model.multi_modal_projector.'),
  )
  + nest(
    qwen2.STACK,
    'decoder/',
    ('language_model.model.', 'model.language_model.'),
  )
  + qwen2.head('language_model.lm_head.weight', 'lm_head.weight')
)
