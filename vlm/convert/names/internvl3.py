"""Names of InternVL3 in the layout of transformers (the '-hf' checkpoints).

Hub files say `vision_tower.`, `multi_modal_projector.`, `language_model.model.`
and `language_model.lm_head.`; state_dict() since transformers 4.52 puts all but
the head under `model.`. The first is what we write.
"""

from vlm.convert.names import qwen2
from vlm.convert.tables import (
  PATCH,
  Row,
  Table,
  Transform,
  linear,
  merge_heads,
  nest,
  norm,
  split_heads,
)

_TOKENS = Transform('tokens', 'A V D -> A V D')
_LAYER = 'encoder.layer.{i}.'
_ATTENTION = _LAYER + 'attention.'
_PATCH = 'embeddings.patch_embeddings.projection.'

TOWER = Table(
  rows=(
    Row('patch/kernel', (_PATCH + 'weight',), PATCH),
    Row('patch/bias', (_PATCH + 'bias',)),
    Row('class_token', ('embeddings.cls_token',), _TOKENS),
    Row('position', ('embeddings.position_embeddings',), _TOKENS),
    *norm('layers/norm1', _LAYER + 'layernorm_before'),
    *split_heads('layers/attn/q', _ATTENTION + 'q_proj'),
    *split_heads('layers/attn/k', _ATTENTION + 'k_proj'),
    *split_heads('layers/attn/v', _ATTENTION + 'v_proj'),
    Row('layers/attn/q_norm/scale', (_ATTENTION + 'q_norm.weight',)),
    Row('layers/attn/k_norm/scale', (_ATTENTION + 'k_norm.weight',)),
    *merge_heads('layers/attn/o', _ATTENTION + 'projection_layer'),
    Row('layers/scale1/scale', (_LAYER + 'lambda_1',)),
    *norm('layers/norm2', _LAYER + 'layernorm_after'),
    *linear('layers/mlp/fc1', _LAYER + 'mlp.fc1'),
    *linear('layers/mlp/fc2', _LAYER + 'mlp.fc2'),
    Row('layers/scale2/scale', (_LAYER + 'lambda_2',)),
  ),
  unused=(r'embeddings\.mask_token',),  # of the pre-training's masked patches
)

PROJECTOR = Table(
  (
    *norm('norm', 'layer_norm'),
    *linear('linear_1', 'linear_1'),
    *linear('linear_2', 'linear_2'),
  )
)

INTERNVL3 = (
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
