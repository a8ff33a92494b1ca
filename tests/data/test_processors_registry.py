"""Processors from the files that transformers writes; single-image towers."""

import functools
import importlib
import json
import pickle

import numpy as np
import pytest
import transformers

from data.processors.internvl import InternVLFacts, InternVLProcessor
from data.processors.llava import LlavaProcessor
from data.processors.pixtral import PixtralFacts, PixtralProcessor
from data.processors.qwen2_5_vl import Qwen25VLProcessor
from data.processors.qwen3_vl import Qwen3VLProcessor
from data.processors.qwen_vl import Budget
from data.processors.registry import processor_from_hf
from data.processors.towers import Crop, Square

SIZES = [(63, 65), (1, 1), (37, 211), (300, 41), (224, 224), (3, 60)]
IMAGENET = dict(
  image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
)
DECODER = dict(
  vocab_size=99, hidden_size=48, intermediate_size=64, num_hidden_layers=1,
  num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip


def published(family, module, name, **facts):
  path = f'transformers.models.{family}.image_processing_pil_{module}'
  return getattr(importlib.import_module(path), name)(**facts)


def qwen_image(patch, **facts):
  return published(
    'qwen2_vl',
    'qwen2_vl',
    'Qwen2VLImageProcessorPil',
    patch_size=patch,
    **facts,
  )


def write(folder, config, image, video=None):
  """A checkpoint's folder, as the library writes it."""
  config.save_pretrained(folder)
  image.save_pretrained(folder)
  if video:
    path = folder / 'video_preprocessor_config.json'
    path.write_text(json.dumps(video))
  return folder


def qwen25_config():
  return transformers.Qwen2_5_VLConfig(
    text_config=DECODER
    | {
      'rope_parameters': {
        'rope_type': 'default',
        'rope_theta': 1e6,
        'mrope_section': [1, 2, 3],
      }
    },
    vision_config=dict(depth=1, hidden_size=32, num_heads=4, window_size=56),
  )


def test_qwen25_reads_its_own_files(tmp_path):
  image = qwen_image(14, min_pixels=3136, max_pixels=12845056)
  processor = processor_from_hf(write(tmp_path, qwen25_config(), image))
  assert isinstance(processor, Qwen25VLProcessor)
  assert processor.facts.pixels == Budget(3136, 12845056)
  # Without a file of their own, videos are held to the budget of images.
  assert processor.facts.video.pixels == processor.facts.pixels
  assert processor.tokens_per_second == 4
  assert processor.layout.window == 56


def test_qwen3_reads_its_own_files(tmp_path):
  size = {'shortest_edge': 65536, 'longest_edge': 16777216}
  image = qwen_image(16, size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
  video = {
    'size': {'shortest_edge': 4096, 'longest_edge': 25165824},
    'patch_size': 16,
    'cap_pixels_per_frame': True,
    'fps': 4,
  }
  config = transformers.Qwen3VLConfig(
    text_config=DECODER, vision_config=dict(hidden_size=32)
  )
  processor = processor_from_hf(write(tmp_path, config, image, video))
  assert isinstance(processor, Qwen3VLProcessor)
  assert processor.facts.pixels == Budget(65536, 16777216)
  clip = processor.facts.video
  assert clip.pixels == Budget(4096, 25165824)
  assert (clip.capped, clip.rate, clip.max_tokens) == (True, 4, 768)


def test_internvl_and_pixtral_and_llava_read_their_own_files(tmp_path):
  config = transformers.InternVLConfig(
    vision_config=dict(image_size=[56, 56], patch_size=[14, 14], depth=1),
    text_config=DECODER | {'model_type': 'qwen2'},
  )
  image = published(
    'got_ocr2', 'got_ocr2', 'GotOcr2ImageProcessorPil',
    size={'height': 56, 'width': 56}, max_patches=6, **IMAGENET,
  )  # fmt: skip
  processor = processor_from_hf(write(tmp_path / 'a', config, image))
  assert processor == InternVLProcessor(
    InternVLFacts(56, side=2, fewest=1, most=6)
  )
  config = transformers.LlavaConfig(
    vision_config=dict(model_type='pixtral', patch_size=16),
    text_config=DECODER | {'model_type': 'mistral', 'sliding_window': None},
    vision_feature_layer=-1,
    vision_feature_select_strategy='full',
  )
  image = published('pixtral', 'pixtral', 'PixtralImageProcessorPil')
  processor = processor_from_hf(write(tmp_path / 'b', config, image))
  assert processor == PixtralProcessor(PixtralFacts())
  config = transformers.LlavaOnevisionConfig(
    vision_config=dict(
      model_type='siglip_vision_model', image_size=32, patch_size=8
    ),
    text_config=DECODER | {'model_type': 'qwen2'},
    image_grid_pinpoints=[[32, 64], [64, 32]],
  )
  image = published(
    'llava_onevision', 'llava_onevision', 'LlavaOnevisionImageProcessorPil',
    size={'height': 32, 'width': 32}, image_mean=[0.5] * 3,
    image_std=[0.5] * 3, image_grid_pinpoints=[[32, 64], [64, 32]],
  )  # fmt: skip
  processor = processor_from_hf(write(tmp_path / 'c', config, image))
  assert isinstance(processor, LlavaProcessor)
  assert processor.layout.resolutions == ((32, 64), (64, 32))
  assert processor.background == (127, 127, 127)


def test_nested_files_win_over_files_of_their_own():
  image, video = qwen_image(14).to_dict(), qwen_image(14, min_pixels=7056)
  source = {
    'config.json': qwen25_config().to_dict(),
    'preprocessor_config.json': {'patch_size': 99},
    'processor_config.json': {
      'image_processor': image,
      'video_processor': video.to_dict(),
    },
  }
  processor = processor_from_hf(source)
  assert processor.facts.pixels == Budget(3136, 1003520)
  assert processor.facts.video.pixels == Budget(7056, 1003520)


TOWERS = {
  'clip': ('clip', 'clip', 'CLIPImageProcessorPil', {}),
  'dinov2': (
    'bit', 'bit', 'BitImageProcessorPil',
    dict(size={'shortest_edge': 256}, **IMAGENET),
  ),
  'siglip_vision_model': ('siglip', 'siglip', 'SiglipImageProcessorPil', {}),
}  # fmt: skip


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('kind', TOWERS)
def test_towers_equal_the_published_processors(
  kind, tmp_path, picture, odd_pictures, upright
):
  *where, facts = TOWERS[kind]
  image = published(*where, **facts)
  config = {
    'clip': transformers.CLIPConfig,
    'dinov2': transformers.Dinov2Config,
    'siglip_vision_model': transformers.SiglipVisionConfig,
  }[kind]()
  ours = processor_from_hf(write(tmp_path, config, image))
  assert isinstance(ours, Square if kind.startswith('siglip') else Crop)
  run = functools.partial(
    image, do_rescale=False, do_normalize=False, return_tensors='np'
  )
  pairs = [(picture(*size), picture(*size)) for size in SIZES]
  pairs += [(e, upright(e)) for e in odd_pictures.values()]
  for source, theirs in pairs:
    want = np.moveaxis(run(theirs)['pixel_values'], 1, -1)
    np.testing.assert_array_equal(ours(source), want)
    assert ours(source).shape == (1, 224, 224, 3)


def test_old_files_give_sizes_as_numbers():
  assert Crop.from_hf({'size': 224, 'crop_size': 224}) == Crop(224, 224)
  assert Square.from_hf({'size': {'height': 384, 'width': 384}}) == Square(384)
  with pytest.raises(ValueError, match='expected a square'):
    Square.from_hf({'size': {'height': 384, 'width': 300}})
  with pytest.raises(ValueError, match='do_center_crop is False'):
    Crop.from_hf({'do_center_crop': False})


def test_other_colours_than_the_tower_s_are_refused():
  source = {
    'config.json': qwen25_config().to_dict(),
    'preprocessor_config.json': qwen_image(14, image_mean=[0.5] * 3).to_dict(),
  }
  with pytest.raises(ValueError, match=r'image_mean is .*0.5.*the tower'):
    processor_from_hf(source)


def test_unknown_families_and_missing_files_are_named(tmp_path):
  with pytest.raises(ValueError, match="no processor for model_type 'bert'"):
    processor_from_hf(
      {'config.json': {'model_type': 'bert'}, 'preprocessor_config.json': {}}
    )
  with pytest.raises(FileNotFoundError, match=r'no config\.json in '):
    processor_from_hf(tmp_path)
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(FileNotFoundError, match=r'no preprocessor_config\.json'):
    processor_from_hf(tmp_path)
  llava = {'model_type': 'llava', 'vision_config': {'model_type': 'clip'}}
  with pytest.raises(ValueError, match="llava with a tower 'clip'"):
    processor_from_hf({'config.json': llava, 'preprocessor_config.json': {}})


def test_every_processor_travels_to_workers(picture):
  for processor in (
    InternVLProcessor(InternVLFacts(56, 2)),
    PixtralProcessor(PixtralFacts()),
    Crop(8, 8),
  ):
    assert pickle.loads(pickle.dumps(processor)) == processor
