"""Names of SigLIP's vision tower.

The published files say `vision_model.`, whether they hold both towers or one;
transformers 5 writes the single tower without the prefix and reads both.
"""

from vlm.convert.tables import (
  PATCH,
  TABLE,
  Row,
  Table,
  Transform,
  linear,
  merge_heads,
  nest,
  norm,
  split_heads,
)


def encoder_layers() -> tuple[Row, ...]:
  """Rows of the pre-norm transformer that SigLIP and both CLIP towers use."""
  attention = 'encoder.layers.{i}.self_attn.'
  return (
    *norm('layers/norm1', 'encoder.layers.{i}.layer_norm1'),
    *split_heads('layers/attn/q', attention + 'q_proj'),
    *split_heads('layers/attn/k', attention + 'k_proj'),
    *split_heads('layers/attn/v', attention + 'v_proj'),
    *merge_heads('layers/attn/o', attention + 'out_proj'),
    *norm('layers/norm2', 'encoder.layers.{i}.layer_norm2'),
    *linear('layers/mlp/fc1', 'encoder.layers.{i}.mlp.fc1'),
    *linear('layers/mlp/fc2', 'encoder.layers.{i}.mlp.fc2'),
  )


def pooling_head() -> tuple[Row, ...]:
  """Rows of the attention pooling, whose q, k and v are one tensor."""
  attention = 'head.attention.'
  return (
    Row('head/probe', ('head.probe',), Transform('probe', 'A B D -> A B D')),
    Row(
      'head/qkv/kernel',
      (attention + 'in_proj_weight',),
      Transform('split fused heads', '(C N H) D -> D C N H'),
    ),
    Row(
      'head/qkv/bias',
      (attention + 'in_proj_bias',),
      Transform('split fused heads of a bias', '(C N H) -> C N H'),
    ),
    *merge_heads('head/o', attention + 'out_proj'),
    *norm('head/norm', 'head.layernorm'),
    *linear('head/mlp/fc1', 'head.mlp.fc1'),
    *linear('head/mlp/fc2', 'head.mlp.fc2'),
  )


TOWER = Table(
  rows=(
    Row('patch/kernel', ('embeddings.patch_embedding.weight',), PATCH),
    Row('patch/bias', ('embeddings.patch_embedding.bias',)),
    Row('position/embedding', ('embeddings.position_embedding.weight',), TABLE),
    *encoder_layers(),
    *norm('post_norm', 'post_layernorm'),
    *pooling_head(),
  ),
  unused=(r'head\..*',),  # pooling to one vector has no use in a VLM
  derived=(r'embeddings\.position_ids',),
)

SIGLIP = nest(TOWER, 'vision/', ('vision_model.', '')) + Table(
  (), unused=(r'text_model\..*', 'logit_scale', 'logit_bias')
)
