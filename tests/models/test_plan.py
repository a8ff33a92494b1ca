"""Static plans against the published packing on random features."""

import math

import numpy as np
import pytest

from vlm.models import plan

SIDE = 5
RESOLUTIONS = tuple((70 * h, 70 * w) for h in range(1, 7) for w in range(1, 7))
LAYOUT = plan.Layout(tile=70, side=SIDE, resolutions=RESOLUTIONS)
SIZES = [
  (70, 70), (1, 1), (3, 2), (71, 69), (33, 200), (200, 33), (421, 419),
  (7, 400), (400, 7), (63, 64), (1000, 1000), (999, 1400), (37, 1013),
  (2000, 480), (140, 350), (350, 349), (5, 11), (640, 427), (1, 70),
]  # fmt: skip


def gather(packed: dict, features: np.ndarray, newline: np.ndarray):
  """tokens of row 0 by the definition, from features [I, P, D]."""
  bank = np.concatenate([features.reshape(-1, len(newline)), newline[None]])
  tokens = bank[packed['index'][0]] * packed['weight'][0][..., None]
  return tokens.sum(1)[packed['valid'][0]]


def pack_one(layout, visuals, spare=0):
  row = plan.plan_row(layout, visuals)
  count, taps = row.index.shape
  return row, plan.pack_plans(
    [row], layout, row.tiles + spare, count + spare, taps
  )


@pytest.fixture(scope='module')
def published():
  torch = pytest.importorskip('torch')
  import transformers

  vision = transformers.SiglipVisionConfig(
    hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    num_attention_heads=2, image_size=70, patch_size=14,
    vision_use_head=False,
  )  # fmt: skip
  text = transformers.Qwen2Config(
    hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    num_attention_heads=2, num_key_value_heads=1, vocab_size=32,
  )  # fmt: skip
  config = transformers.LlavaOnevisionConfig(
    vision_config=vision, text_config=text, image_token_index=30,
    video_token_index=31, image_grid_pinpoints=[list(r) for r in RESOLUTIONS],
  )  # fmt: skip
  with torch.no_grad():
    yield torch, transformers.LlavaOnevisionModel(config).eval()


@pytest.mark.parity
@pytest.mark.parametrize('size', SIZES)
def test_anyres_equals_published_packing(published, size):
  torch, model = published
  still = plan.Still(*size)
  row, packed = pack_one(LAYOUT, [still], spare=3)
  rng = np.random.default_rng(0)
  features = rng.normal(size=(row.tiles, SIDE**2, 8)).astype(np.float32)
  newline = rng.normal(size=8).astype(np.float32)
  want, lengths = model.pack_image_features(
    [torch.from_numpy(features)],
    torch.tensor([size]),
    torch.from_numpy(newline),
  )
  spare = np.concatenate([features, np.zeros((3, SIDE**2, 8), np.float32)])
  got = gather(packed, spare, newline)
  assert row.tiles == plan.count_tiles(LAYOUT, [still])
  assert row.spans == tuple(lengths.tolist())
  np.testing.assert_allclose(got, want[0].numpy(), atol=1e-6)


@pytest.mark.parity
def test_shrinking_and_gathering_both_happen():
  taps = {pack_one(LAYOUT, [plan.Still(*s)])[0].index.shape[1] for s in SIZES}
  assert taps == {1, 4}


@pytest.mark.parity
@pytest.mark.parametrize('tile,side,most', [(70, 5, 200), (384, 27, 30)])
def test_placeholder_counts_equal_the_published_processor(tile, side, most):
  pytest.importorskip('torch')
  from transformers import LlavaOnevisionProcessor
  from transformers.models.llava_onevision import (
    image_processing_pil_llava_onevision as images,
  )

  resolutions = [[tile * h, tile * w] for h in range(1, 7) for w in range(1, 7)]
  layout = plan.Layout(tile, side, tuple(map(tuple, resolutions)))
  processor = object.__new__(LlavaOnevisionProcessor)
  processor.num_image_tokens = side**2
  processor.vision_aspect_ratio = 'anyres_max_9'
  processor.image_processor = images.LlavaOnevisionImageProcessorPil(
    image_grid_pinpoints=resolutions
  )
  rng = np.random.default_rng(1)
  sizes = SIZES + rng.integers(8, 7 * tile, size=(most, 2)).tolist()
  for height, width in sizes:
    want = processor._get_number_of_features(height, width, tile, tile)
    row = plan.plan_row(layout, [plan.Still(height, width)])
    assert row.spans == (want,), (height, width)


@pytest.mark.parity
@pytest.mark.parametrize('side', [4, 5])
def test_video_equals_published_pooling(published, side):
  torch, model = published
  if side == 4:
    model.config.vision_config.image_size = 56
  layout = plan.Layout(14 * side, side, ((14 * side, 14 * side),))
  row, packed = pack_one(layout, [plan.Clip(3)])
  rng = np.random.default_rng(2)
  features = rng.normal(size=(3, side**2, 8)).astype(np.float32)
  newline = rng.normal(size=8).astype(np.float32)
  want = model.apply_pooling(torch.from_numpy(features)).numpy()
  model.config.vision_config.image_size = 70
  want = np.concatenate([want.reshape(-1, 8), newline[None]])
  np.testing.assert_allclose(gather(packed, features, newline), want, atol=1e-6)
  assert row.spans == (3 * math.ceil(side / 2) ** 2 + 1,)


def test_published_video_size_is_196_tokens_a_frame():
  layout = plan.Layout(384, 27, ((384, 384),))
  assert plan.plan_row(layout, [plan.Clip(32)]).spans == (32 * 196 + 1,)
  grid = plan.Layout(384, 27, ((384, 384),), newline='grid')
  assert plan.plan_row(grid, [plan.Clip(32)]).spans == (32 * 14 * 15,)


def test_grid_newline_follows_every_row_of_every_frame():
  """LLaVA-Video by hand: 2 x 2 patches pool to 1 x 1, their mean."""
  layout = plan.Layout(28, 2, ((28, 28),), newline='grid')
  _, packed = pack_one(layout, [plan.Clip(2)])
  features = np.arange(16, dtype=np.float32).reshape(2, 4, 2)
  got = gather(packed, features, np.array([100.0, 200.0], np.float32))
  np.testing.assert_allclose(got, [[3, 4], [100, 200], [11, 12], [100, 200]])
  np.testing.assert_array_equal(
    packed['grid'][0], [[0, 0, 0], [0, 0, -1], [1, 0, 0], [1, 0, -1]]
  )


def test_frames_that_are_not_pooled_are_their_patches():
  layout = plan.Layout(28, 2, ((28, 28),), pool=1)
  row = plan.plan_row(layout, [plan.Clip(2)])
  assert row.index.ravel().tolist() == [*range(8), plan.NEWLINE]
  assert row.weight.tolist() == [[1]] * 9
  assert row.grid[4:6].tolist() == [[1, 0, 0], [1, 0, 1]]


def test_several_images_get_one_tile_and_one_newline_each():
  visuals = [plan.Still(70, 70), plan.Still(10, 500), plan.Still(300, 300)]
  row, packed = pack_one(LAYOUT, visuals, spare=2)
  assert row.tiles == plan.count_tiles(LAYOUT, visuals) == 3
  assert row.spans == (26, 26, 26)
  index = packed['index'][0, :78, 0].reshape(3, 26)
  np.testing.assert_array_equal(index[:, :25].ravel(), np.arange(75))
  assert (index[:, 25] == 5 * 25).all()  # behind the padded tile count
  np.testing.assert_array_equal(
    packed['grid'][0, :78, 0], np.repeat([0, 1, 2], 26)
  )
  assert not packed['valid'][0, 78:].any()
  assert (packed['grid'][0, 78:] == -1).all()


def test_image_and_video_keep_the_order_of_the_prompt():
  visuals = [plan.Clip(2), plan.Still(70, 140)]
  row, packed = pack_one(LAYOUT, visuals)
  video, image = 2 * 9 + 1, 25 + 5 * 11
  assert row.spans == (video, image)
  assert row.tiles == 2 + 3
  grid = packed['grid'][0]
  assert grid[:18, 0].tolist() == [0] * 9 + [1] * 9
  assert grid[18].tolist() == [-1, -1, -1]
  assert set(grid[19:44, 0]) == {2} and set(grid[44:, 0]) == {3}
  # Real patches of one view have distinct places; newlines have none.
  patches = grid[grid[:, 2] >= 0]
  assert len(np.unique(patches, axis=0)) == len(patches) == 18 + 25 + 50
  first = packed['index'][0, 19, 0]
  assert first == 2 * 25
  np.testing.assert_allclose(packed['weight'][0].sum(-1), 1, atol=1e-6)


def test_without_canvases_an_image_is_its_base_view():
  layout = plan.Layout(tile=70, side=SIDE, resolutions=())
  row = plan.plan_row(layout, [plan.Still(300, 40)])
  assert row.tiles == plan.count_tiles(layout, [plan.Still(300, 40)]) == 1
  assert row.spans == (SIDE**2 + 1,)
  assert row.index[-1].tolist() == [plan.NEWLINE]


def test_text_only_row_is_empty():
  row = plan.plan_row(LAYOUT, [])
  packed = plan.pack_plans([row], LAYOUT, tiles=0, tokens=4, taps=4)
  assert row.tiles == 0 and row.spans == ()
  assert not packed['valid'].any()
  assert packed['index'].shape == (1, 4, 4)


def test_bucket_takes_the_smallest_that_fits():
  assert plan.bucket(5, (16, 4, 8), 'x') == 8
  assert plan.bucket(16, (16, 4, 8), 'x') == 16
  with pytest.raises(ValueError, match=r'data\.tiles: 17 .*\[4, 8, 16\]'):
    plan.bucket(17, (16, 4, 8), 'data.tiles')


def test_errors_name_what_is_wrong():
  with pytest.raises(ValueError, match='1 x 9000 pixels is too thin'):
    plan.plan_row(LAYOUT, [plan.Still(1, 9000)])
  with pytest.raises(ValueError, match='at least one frame'):
    plan.plan_row(LAYOUT, [plan.Clip(0)])
  row = plan.plan_row(LAYOUT, [plan.Clip(2)])
  with pytest.raises(ValueError, match='row 0 needs 2 tiles, 19 visual'):
    plan.pack_plans([row], LAYOUT, tiles=1, tokens=64, taps=4)
