"""Names of CLIP: both towers, their projections and the temperature."""

from vlm.convert.names.siglip import encoder_layers
from vlm.convert.tables import (
  LINEAR,
  PATCH,
  SCALAR,
  TABLE,
  Row,
  Table,
  nest,
  norm,
)

_IDS = (r'embeddings\.position_ids',)

VISION = Table(
  rows=(
    Row('patch/kernel', ('embeddings.patch_embedding.weight',), PATCH),
    Row('class_token', ('embeddings.class_embedding',)),
    Row('position/embedding', ('embeddings.position_embedding.weight',), TABLE),
    *norm('pre_norm', 'pre_layrnorm'),  # spelt so in every published file
    *encoder_layers(),
    *norm('post_norm', 'post_layernorm'),
  ),
  derived=_IDS,
)

TEXT = Table(
  rows=(
    Row('token/embedding', ('embeddings.token_embedding.weight',), TABLE),
    Row('position/embedding', ('embeddings.position_embedding.weight',), TABLE),
    *encoder_layers(),
    *norm('final_norm', 'final_layer_norm'),
  ),
  derived=_IDS,
)

CLIP = (
  nest(VISION, 'vision/', ('vision_model.',))
  + nest(TEXT, 'text/', ('text_model.',))
  + Table(
    (
      Row('vision_projection/kernel', ('visual_projection.weight',), LINEAR),
      Row('text_projection/kernel', ('text_projection.weight',), LINEAR),
      Row('logit_scale', ('logit_scale',), SCALAR),
    )
  )
)

# The vision tower and its projection, from their own file or from one that
# holds both towers.
CLIP_IMAGE = nest(VISION, 'vision/', ('vision_model.', '')) + Table(
  (Row('vision_projection/kernel', ('visual_projection.weight',), LINEAR),),
  unused=(r'text_model\..*', r'text_projection\.weight', 'logit_scale'),
  derived=(r'text_model\.embeddings\.position_ids',),
)
