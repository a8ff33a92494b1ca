"""What a published config.json means, defaults included."""

import copy
import dataclasses
import json
import math

import jax
import pytest

from vlm.models import qwen2, registry

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
  'kind',
  ['Qwen2', 'Qwen3', 'Llama', 'Mistral', 'CLIP', 'SiglipVision', 'Qwen3VL'],
)
def test_missing_keys_mean_the_published_defaults(transformers, kind):
  # Mistral's default is a window, which `qwen2.py` does not have.
  chosen = {'sliding_window': None} if kind == 'Mistral' else {}
  full = facts(getattr(transformers, f'{kind}Config')(**chosen))
  bare = {'model_type': full['model_type']} | chosen
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


def test_default_internvl(transformers):
  written = facts(transformers.InternVLConfig())
  config = registry.config_from_hf(written)
  assert config.vision.side == 32 and config.vision.depth == 24
  assert config.side == 16 and config.tile_tokens == 256
  assert config.image_token == config.video_token == 151667
  assert not config.vision.qkv_bias and config.decoder.tied_head
  bare = {'model_type': 'internvl', 'vision_config': {}}
  bare['text_config'] = {'model_type': 'qwen2'}
  untied = dataclasses.replace(config.decoder, tied_head=False)
  assert registry.config_from_hf(bare) == dataclasses.replace(
    config, decoder=untied
  )


def test_where_internvl_says_that_its_head_is_tied():
  """Published files speak for the decoder only, and only of a tied one."""
  written = {'model_type': 'internvl', 'vision_config': {}}
  for upper, lower, tied in (
    ({}, {}, False),
    ({}, {'tie_word_embeddings': True}, True),
    ({'tie_word_embeddings': True}, {}, True),
    ({'tie_word_embeddings': False}, {'tie_word_embeddings': True}, False),
  ):
    text = {'model_type': 'qwen2'} | lower
    config = registry.config_from_hf(written | upper | {'text_config': text})
    assert config.decoder.tied_head is tied


def test_internvl3_8b_as_published():
  """The facts of the -hf file that differ from its classes' defaults."""
  config = {
    'model_type': 'internvl',
    'image_token_id': 151667,
    'vision_config': {
      'model_type': 'internvl_vision', 'attention_bias': True,
      'image_size': [448, 448], 'patch_size': [14, 14],
    },
    'text_config': {
      'model_type': 'qwen2', 'hidden_size': 3584, 'intermediate_size': 18944,
      'max_position_embeddings': 32768, 'num_attention_heads': 28,
      'num_hidden_layers': 28, 'num_key_value_heads': 4, 'rms_norm_eps': 1e-6,
      'rope_scaling': {'factor': 2.0, 'rope_type': 'dynamic'},
      'rope_theta': 1000000.0, 'vocab_size': 151674,
    },
  }  # fmt: skip
  assert registry.config_from_hf(config) == registry.preset('internvl3-8b')


@pytest.mark.parametrize(
  'part,changes,named',
  [
    ('', {'vision_feature_layer': -2}, 'vision_feature_layer is -2'),
    ('', {'downsample_ratio': 0.3}, 'downsample_ratio is 0.3'),
    ('', {'projector_hidden_act': 'silu'}, "projector_hidden_act is 'silu'"),
    ('vision_config', {'use_mean_pooling': False}, 'use_mean_pooling is False'),
    ('vision_config', {'norm_type': 'group'}, "norm_type is 'group'"),
    ('vision_config', {'image_size': [448, 224]}, 'equal sides'),
    ('text_config', {'model_type': 'qwen9'}, "'qwen9' of the decoder"),
  ],
)
def test_internvl_names_what_it_cannot_do(transformers, part, changes, named):
  written = facts(transformers.InternVLConfig())
  (written[part] if part else written).update(changes)
  with pytest.raises(ValueError, match=named):
    registry.config_from_hf(written)


PIXTRAL = {
  'model_type': 'llava',
  'image_token_index': 10,
  'vision_feature_layer': -1,
  'vision_feature_select_strategy': 'full',
  'vision_config': {
    'model_type': 'pixtral', 'head_dim': 64, 'hidden_act': 'silu',
    'image_size': 1024, 'patch_size': 16, 'rope_theta': 10000.0,
  },
  'text_config': {
    'model_type': 'mistral', 'hidden_size': 5120, 'head_dim': 128,
    'intermediate_size': 14336, 'max_position_embeddings': 1024000,
    'num_hidden_layers': 40, 'num_key_value_heads': 8, 'rms_norm_eps': 1e-5,
    'rope_theta': 1000000000.0, 'sliding_window': None, 'vocab_size': 131072,
  },
}  # fmt: skip


def test_pixtral_12b_as_published(transformers):
  """As in the file, and as transformers 5 completes it."""
  assert registry.config_from_hf(PIXTRAL) == registry.preset('pixtral-12b')
  full = facts(transformers.LlavaConfig(**PIXTRAL))
  assert 'rope_parameters' in full['vision_config']
  assert registry.config_from_hf(full) == registry.preset('pixtral-12b')


@pytest.mark.parametrize(
  'part,changes,named',
  [
    ('', {'vision_config': {}}, 'vision_config.model_type is None'),
    ('vision_config', {'model_type': 'clip_vision_model'}, 'clip_vision_model'),
    ('', {'vision_feature_layer': -2}, 'vision_feature_layer is -2'),
    ('', {'vision_feature_select_strategy': 'default'}, "is 'default'"),
    ('', {'multimodal_projector_bias': False}, 'projector_bias is False'),
    ('vision_config', {'patch_size': [16, 14]}, 'equal sides'),
    ('vision_config', {'rope_parameters': {'rope_type': 'yarn'}}, "'yarn'"),
    ('text_config', {'sliding_window': 4096}, 'sliding_window 4096'),
  ],
)
def test_pixtral_names_what_it_cannot_do(part, changes, named):
  written = copy.deepcopy(PIXTRAL)
  (written[part] if part else written).update(changes)
  with pytest.raises(ValueError, match=named):
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


@pytest.mark.parametrize('window,fits', [(4096, False), (8192, True)])
def test_a_sliding_window_must_span_all_positions(window, fits):
  config = {
    'model_type': 'mistral',
    'sliding_window': window,
    'max_position_embeddings': 8192,
  }
  if fits:
    assert not registry.config_from_hf(config).qkv_bias
    return
  with pytest.raises(ValueError, match='sliding_window 4096 is not supported'):
    registry.config_from_hf(config)


def test_dynamic_positions_do_not_come_in_three_parts():
  rope = {'rope_type': 'dynamic', 'factor': 2.0, 'mrope_section': [1, 1, 2]}
  config = {'model_type': 'qwen2_5_vl_text', 'rope_parameters': rope}
  with pytest.raises(ValueError, match="rope type 'dynamic'"):
    qwen2.Qwen2Config.from_hf(config)


def test_unknown_architectures_are_named():
  with pytest.raises(ValueError, match="'t5' is not supported; known"):
    registry.config_from_hf({'model_type': 't5'})
