"""Tiny published checkpoints, made by the library that defines the names."""

import json
from pathlib import Path

import jax
import pytest

# Head dims that are not width / heads, and no two sizes alike, so that a
# transposed or reshaped axis cannot go unnoticed.
DECODER = dict(
  vocab_size=80,
  hidden_size=24,
  intermediate_size=40,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=16,
  max_position_embeddings=64,
  bos_token_id=1,
  eos_token_id=2,
)
TOWER = dict(
  hidden_size=32,
  intermediate_size=48,
  num_hidden_layers=2,
  num_attention_heads=4,
)
VISION = TOWER | dict(image_size=28, patch_size=14)
CLIP_TEXT = TOWER | dict(
  vocab_size=72,
  max_position_embeddings=16,
  bos_token_id=1,
  eos_token_id=2,
  pad_token_id=0,
)

FAMILIES = (
  'qwen2',
  'qwen3',
  'llama',
  'mistral',
  'siglip',
  'siglip_no_head',
  'clip',
  'dinov2',
  'qwen2_5_vl',
  'qwen3_vl',
  'internvl',
  'pixtral',
  'llava',
)


def _build(family: str):
  import transformers as t

  if family == 'qwen2':
    config = t.Qwen2Config(**DECODER, tie_word_embeddings=False)
    return t.Qwen2ForCausalLM(config)
  if family == 'qwen3':
    config = t.Qwen3Config(**DECODER, tie_word_embeddings=True)
    return t.Qwen3ForCausalLM(config)
  if family == 'llama':
    config = t.LlamaConfig(**DECODER, tie_word_embeddings=True)
    return t.LlamaForCausalLM(config)
  if family == 'mistral':
    config = t.MistralConfig(**DECODER, sliding_window=None)
    return t.MistralForCausalLM(config)
  if family == 'siglip':
    return t.SiglipVisionModel(t.SiglipVisionConfig(**VISION))
  if family == 'siglip_no_head':
    config = t.SiglipVisionConfig(**VISION, vision_use_head=False)
    return t.SiglipVisionModel(config)
  if family == 'clip':
    config = t.CLIPConfig(
      text_config=CLIP_TEXT, vision_config=VISION, projection_dim=20
    )
    return t.CLIPModel(config)
  if family == 'dinov2':  # the variant with every kind of weight
    facts = TOWER | dict(image_size=28, patch_size=14, use_swiglu_ffn=True)
    facts.pop('intermediate_size')
    return t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**facts))
  if family == 'qwen2_5_vl':
    rope = dict(rope_type='default', rope_theta=1e6, mrope_section=[1, 1, 2])
    vision = dict(
      depth=2, hidden_size=32, num_heads=4, intermediate_size=48,
      out_hidden_size=32, fullatt_block_indexes=[1], window_size=56,
    )  # fmt: skip
    # Its decoder knows no head dims but width / heads.
    text = DECODER | dict(hidden_size=32, rope_parameters=rope)
    text.pop('head_dim')
    config = t.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return t.Qwen2_5_VLForConditionalGeneration(config)
  if family == 'qwen3_vl':
    rope = dict(rope_type='default', rope_theta=1e6, mrope_section=[4, 2, 2])
    vision = dict(
      depth=4, hidden_size=32, num_heads=4, intermediate_size=48,
      out_hidden_size=24, num_position_embeddings=36,
      deepstack_visual_indexes=[0, 1, 2],
    )  # fmt: skip
    config = t.Qwen3VLConfig(
      text_config=DECODER | dict(rope_parameters=rope), vision_config=vision
    )
    return t.Qwen3VLForConditionalGeneration(config)
  if family == 'internvl':  # a tower with every kind of weight
    vision = VISION | dict(
      attention_bias=True, use_qk_norm=True, use_mask_token=True
    )
    text = DECODER | dict(model_type='qwen2')
    config = t.InternVLConfig(
      text_config=text, vision_config=vision, image_token_id=70,
      tie_word_embeddings=False,
    )  # fmt: skip
    return t.InternVLForConditionalGeneration(config)
  if family == 'pixtral':
    text = DECODER | dict(model_type='mistral', sliding_window=None)
    config = t.LlavaConfig(
      text_config=text, vision_config=TOWER | dict(model_type='pixtral'),
      image_token_index=70, vision_feature_layer=-1,
      vision_feature_select_strategy='full',
    )  # fmt: skip
    return t.LlavaForConditionalGeneration(config)
  vision = VISION | dict(
    model_type='siglip_vision_model', vision_use_head=False
  )
  text = t.Qwen2Config(**DECODER, tie_word_embeddings=False).to_dict()
  return t.LlavaOnevisionForConditionalGeneration(
    t.LlavaOnevisionConfig(
      text_config=text,
      vision_config=vision,
      image_token_id=70,
      video_token_id=71,
    )
  )


class Published:
  """A torch model and the folder it was saved in."""

  def __init__(self, family: str, dtype: str, folder: Path):
    import torch

    torch.manual_seed(0)
    model = _build(family).to(getattr(torch, dtype))
    with torch.no_grad():
      for parameter in model.parameters():  # No zero biases, no unit norms.
        parameter.copy_(torch.randn(parameter.shape))
    model.save_pretrained(folder)
    self.torch, self.folder, self.dtype = model, folder, dtype
    self.config = json.loads((folder / 'config.json').read_text())

  def model(self):
    """Ours, with parameters in the dtype of the file."""
    from vlm.models import registry
    from vlm.models.functional import Runtime

    config = registry.config_from_hf(self.config)
    return registry.build(config, Runtime(param_dtype=self.dtype))


@pytest.fixture(scope='session')
def published(tmp_path_factory):
  """`published(family, dtype)`: makes each one once."""
  made = {}

  def get(family: str, dtype: str = 'float32') -> Published:
    if (family, dtype) not in made:
      folder = tmp_path_factory.mktemp(f'{family}-{dtype}')
      made[family, dtype] = Published(family, dtype, folder)
    return made[family, dtype]

  return get


@pytest.fixture(scope='session')
def largest_axis_sharding():
  """Shards each parameter's last axis that 8 divides, over 8 devices."""
  kind = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((8,), ('fsdp',), axis_types=kind)

  def shard(leaf: jax.ShapeDtypeStruct) -> jax.sharding.NamedSharding:
    spec = [None] * len(leaf.shape)
    for axis in reversed(range(len(leaf.shape))):
      if leaf.shape[axis] % 8 == 0:
        spec[axis] = 'fsdp'
        break
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

  return lambda model: jax.tree.map(shard, model.abstract_params)


def pytest_generate_tests(metafunc):
  """A test that asks for `family` runs for all of them."""
  if 'family' in metafunc.fixturenames:
    metafunc.parametrize('family', FAMILIES)
