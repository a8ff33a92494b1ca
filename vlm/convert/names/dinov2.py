"""Names of DINOv2, with and without registers."""

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
_ATTENTION = _LAYER + 'attention.attention.'

TOWER = Table(
  rows=(
    Row(
      'patch/kernel',
      ('embeddings.patch_embeddings.projection.weight',),
      PATCH,
    ),
    Row('patch/bias', ('embeddings.patch_embeddings.projection.bias',)),
    Row('class_token', ('embeddings.cls_token',), _TOKENS),
    Row('position', ('embeddings.position_embeddings',), _TOKENS),
    Row('register_tokens', ('embeddings.register_tokens',), _TOKENS),
    *norm('layers/norm1', _LAYER + 'norm1'),
    *split_heads('layers/attn/q', _ATTENTION + 'query'),
    *split_heads('layers/attn/k', _ATTENTION + 'key'),
    *split_heads('layers/attn/v', _ATTENTION + 'value'),
    *merge_heads('layers/attn/o', _LAYER + 'attention.output.dense'),
    Row('layers/scale1/scale', (_LAYER + 'layer_scale1.lambda1',)),
    *norm('layers/norm2', _LAYER + 'norm2'),
    *linear('layers/mlp/fc1', _LAYER + 'mlp.fc1'),
    *linear('layers/mlp/fc2', _LAYER + 'mlp.fc2'),
    Row(
      'layers/mlp/gate_up/kernel',
      (_LAYER + 'mlp.weights_in.weight',),
      Transform('split gate and up', '(C F) D -> D C F'),
    ),
    Row(
      'layers/mlp/gate_up/bias',
      (_LAYER + 'mlp.weights_in.bias',),
      Transform('split gate and up of a bias', '(C F) -> C F'),
    ),
    *linear('layers/mlp/down', _LAYER + 'mlp.weights_out'),
    Row('layers/scale2/scale', (_LAYER + 'layer_scale2.lambda1',)),
    *norm('norm', 'layernorm'),
  ),
  unused=(r'embeddings\.mask_token',),  # of the pre-training's masked patches
)

DINOV2 = nest(TOWER, 'vision/', ('', 'dinov2.', 'dinov2_with_registers.'))
