"""Names of LLaVA-OneVision and LLaVA-Video.

Four spellings are in circulation:

    what            hub files of 2024               transformers 5 on disk
    decoder         language_model.model.           same
    head            language_model.lm_head.         same
    tower           vision_tower.vision_model.      vision_tower.
    projector       multi_modal_projector.          same
    newline         image_newline                   same

and with everything under `model.` (state_dict() since 4.52), and the authors'
own `model.layers`, `model.mm_projector.{0,2}`, `model.vision_tower.*`.
The first column is what we write; every version of transformers reads it.
"""

from vlm.convert.names import qwen2, siglip
from vlm.convert.tables import LINEAR, Row, Table, nest

_TOWER = (
  'vision_tower.vision_model.',
  'vision_tower.',
  'model.vision_tower.vision_model.',
  'model.vision_tower.',
  'model.vision_tower.vision_tower.vision_model.',
)


def _projector(layer: str, original: int) -> tuple[Row, ...]:
  names = (
    f'multi_modal_projector.{layer}',
    f'model.multi_modal_projector.{layer}',
    f'model.mm_projector.{original}',
  )
  kernel = tuple(f'{name}.weight' for name in names)
  bias = tuple(f'{name}.bias' for name in names)
  return (
    Row(f'projector/{layer}/kernel', kernel, LINEAR),
    Row(f'projector/{layer}/bias', bias),
  )


def _tower() -> Table:
  # Features leave before the last norm (vision_feature_layer -1), so files
  # hold weights for it that nothing computes with.
  rows = tuple(
    row for row in siglip.TOWER.rows if not row.ours.startswith('post_norm')
  )
  unused = (*siglip.TOWER.unused, r'post_layernorm\..*')
  table = Table(rows, unused, siglip.TOWER.derived)
  return nest(table, 'vision/', _TOWER)


LLAVA_ONEVISION = (
  _tower()
  + Table(
    (
      *_projector('linear_1', 0),
      *_projector('linear_2', 2),
      Row('newline', ('image_newline', 'model.image_newline')),
    )
  )
  + nest(
    qwen2.STACK,
    'decoder/',
    ('language_model.model.', 'model.language_model.', 'model.'),
  )
  + qwen2.head('language_model.lm_head.weight', 'lm_head.weight')
)
