"""What a published config.json means, defaults included."""

import json
import math

import jax
import pytest

from vlm.models import registry

pytestmark = pytest.mark.parity


@pytest.fixture(scope='module')
def transformers():
  pytest.importorskip('torch')
  import transformers

  return transformers


def facts(config):
  """What `save_pretrained` writes."""
  return json.loads(config.to_json_string())


@pytest.mark.parametrize(
  'kind', ['Qwen2', 'Qwen3', 'Llama', 'CLIP', 'SiglipVision', 'Qwen3VL']
)
def test_missing_keys_mean_the_published_defaults(transformers, kind):
  config = getattr(transformers, f'{kind}Config')()
  full = facts(config)
  bare = {'model_type': full['model_type']}
  if kind == 'CLIP':
    bare |= {'text_config': {}, 'vision_config': {}}
    assert full['text_config']['eos_token_id'] == 49407
  if kind == 'Qwen3VL':
    bare['text_config'] = {'model_type': 'qwen3_vl_text'}
    bare['vision_config'] = {}
  assert registry.config_from_hf(bare) == registry.config_from_hf(full)


def test_default_llava_onevision(transformers):
  config = registry.config_from_hf(facts(transformers.LlavaOnevisionConfig()))
  assert config.vision.side == 27 and config.vision.depth == 26
  assert config.image_token == 151646 and config.video_token == 151647
  assert len(config.grid_pinpoints) == 36 and config.max_tiles == 9
  assert config.layout.pooled == 14


@pytest.mark.parametrize(
  'size,count',
  [
    ('2b', 2_127_532_032),
    ('4b', 4_437_815_808),
    ('8b', 8_767_123_696),
    ('32b', 33_357_390_064),
  ],
)
def test_presets_of_qwen3_vl_have_the_published_sizes(size, count):
  model = registry.build(registry.preset(f'qwen3-vl-{size}'))
  leaves = jax.tree.leaves(model.abstract_params)
  assert sum(math.prod(leaf.shape) for leaf in leaves) == count


def test_preset_of_qwen3_vl_is_what_its_config_says():
  text = dict(
    model_type='qwen3_vl_text', attention_bias=False, head_dim=128,
    hidden_act='silu', hidden_size=2048, intermediate_size=6144,
    num_attention_heads=16, num_hidden_layers=28, num_key_value_heads=8,
    rms_norm_eps=1e-6, rope_theta=5000000, vocab_size=151936,
    rope_scaling=dict(
      mrope_interleaved=True, mrope_section=[24, 20, 20], rope_type='default'
    ),
  )  # fmt: skip
  vision = dict(
    model_type='qwen3_vl', deepstack_visual_indexes=[5, 11, 17], depth=24,
    hidden_act='gelu_pytorch_tanh', hidden_size=1024, in_channels=3,
    intermediate_size=4096, num_heads=16, num_position_embeddings=2304,
    out_hidden_size=2048, patch_size=16, spatial_merge_size=2,
    temporal_patch_size=2,
  )  # fmt: skip
  written = dict(
    model_type='qwen3_vl', text_config=text, vision_config=vision,
    image_token_id=151655, video_token_id=151656, tie_word_embeddings=True,
  )  # fmt: skip
  assert registry.config_from_hf(written) == registry.preset('qwen3-vl-2b')
  vision['deepstack_visual_indexes'] = [5, 24]
  with pytest.raises(ValueError, match=r'ascending numbers of its 24 blocks'):
    registry.config_from_hf(written)


def test_a_head_tied_at_either_level_is_tied(transformers):
  written = facts(transformers.LlavaOnevisionConfig())
  assert not registry.config_from_hf(written).decoder.tied_head
  for level in (written, written['text_config']):
    level['tie_word_embeddings'] = True
    assert registry.config_from_hf(written).decoder.tied_head
    level['tie_word_embeddings'] = False


@pytest.mark.parametrize(
  'key,value,named',
  [
    ('vision_feature_layer', -2, 'vision_feature_layer is -2'),
    ('vision_feature_select_strategy', 'default', "is 'default'"),
    ('vision_aspect_ratio', 'pad', 'vision_aspect_ratio'),
    ('multimodal_projector_bias', False, 'multimodal_projector_bias is False'),
    ('vision_config', {'model_type': 'clip_vision_model'}, 'clip_vision'),
    ('text_config', {'model_type': 'gemma'}, "'gemma' of the decoder"),
  ],
)
def test_llava_onevision_names_what_it_cannot_do(
  transformers, key, value, named
):
  written = facts(transformers.LlavaOnevisionConfig()) | {key: value}
  with pytest.raises(ValueError, match=named):
    registry.config_from_hf(written)


@pytest.mark.parametrize(
  'changes,named',
  [
    ({'use_sliding_window': True}, 'use_sliding_window'),
    ({'mlp_bias': True}, 'mlp_bias'),
    ({'rope_scaling': {'type': 'yarn', 'factor': 4}}, "rope type 'yarn'"),
    ({'hidden_act': 'gelu'}, "hidden_act 'gelu'"),
  ],
)
def test_decoder_names_what_it_cannot_do(changes, named):
  with pytest.raises(ValueError, match=named):
    registry.config_from_hf({'model_type': 'llama'} | changes)


def test_unknown_architectures_are_named():
  with pytest.raises(ValueError, match="'t5' is not supported; known"):
    registry.config_from_hf({'model_type': 't5'})
