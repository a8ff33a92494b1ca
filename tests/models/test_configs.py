"""What a published config.json means, defaults included."""

import json

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


@pytest.mark.parametrize('kind', ['Qwen2', 'Llama', 'CLIP', 'SiglipVision'])
def test_missing_keys_mean_the_published_defaults(transformers, kind):
  config = getattr(transformers, f'{kind}Config')()
  full = facts(config)
  bare = {'model_type': full['model_type']}
  if kind == 'CLIP':
    bare |= {'text_config': {}, 'vision_config': {}}
    assert full['text_config']['eos_token_id'] == 49407
  assert registry.config_from_hf(bare) == registry.config_from_hf(full)


def test_default_llava_onevision(transformers):
  config = registry.config_from_hf(facts(transformers.LlavaOnevisionConfig()))
  assert config.vision.side == 27 and config.vision.depth == 26
  assert config.image_token == 151646 and config.video_token == 151647
  assert len(config.grid_pinpoints) == 36 and config.max_tiles == 9
  assert config.layout.pooled == 14


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
