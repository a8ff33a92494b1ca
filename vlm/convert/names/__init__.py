"""One name table per family, found by HF's `model_type`."""

from typing import Any

from vlm.convert.names.clip import CLIP, CLIP_IMAGE
from vlm.convert.names.dinov2 import DINOV2
from vlm.convert.names.internvl3 import INTERNVL3
from vlm.convert.names.llava_onevision import LLAVA_ONEVISION
from vlm.convert.names.pixtral import PIXTRAL
from vlm.convert.names.qwen2 import QWEN2
from vlm.convert.names.qwen2_5_vl import QWEN2_5_VL
from vlm.convert.names.qwen3_vl import QWEN3_VL
from vlm.convert.names.siglip import SIGLIP
from vlm.convert.tables import Table

TABLES: dict[str, Table] = {
  'qwen2': QWEN2,
  'qwen3': QWEN2,
  'llama': QWEN2,
  'mistral': QWEN2,
  'siglip': SIGLIP,
  'siglip_vision_model': SIGLIP,
  'clip': CLIP,
  'clip_vision_model': CLIP_IMAGE,
  'dinov2': DINOV2,
  'dinov2_with_registers': DINOV2,
  'llava': PIXTRAL,
  'llava_onevision': LLAVA_ONEVISION,
  'internvl': INTERNVL3,
  'qwen2_5_vl': QWEN2_5_VL,
  'qwen3_vl': QWEN3_VL,
}


def table_for(model: Any) -> Table:
  """The name table of a registry model, by `model.config.model_type`.

  Raises:
    ValueError: if the family has none, with the ones that do.
  """
  kind = model.config.model_type
  if kind not in TABLES:
    raise ValueError(
      f'no name table for model_type {kind!r}; known: {sorted(TABLES)}; '
      f'add one in vlm/convert/names'
    )
  return TABLES[kind]
