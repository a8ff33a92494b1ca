"""InternVL3 against the published torch classes, row by row and together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.models import internvit, plan, registry, tiles
from vlm.models.functional import Runtime
from vlm.rollout.sampler import sample
from vlm.rollout.settings import Sampling

pytestmark = pytest.mark.parity

IMAGE, TILE, SIDE = 97, 56, 2  # 4 x 4 patches and 2 x 2 tokens per tile

ROWS = {
  'one image of several tiles': [tiles.Canvas(2, 3)],
  'three images of different sizes': [
    tiles.Canvas(2, 1), tiles.Canvas(1, 1), tiles.Canvas(1, 3)
  ],
  'video': [plan.Clip(3)],
  'image and video': [tiles.Canvas(1, 2), plan.Clip(2)],
  'text only': [],
}  # fmt: skip


@dataclasses.dataclass
class Row:
  """One prompt with its tiles, unpadded."""

  tokens: np.ndarray
  tiles: np.ndarray
  plan: plan.RowPlan


def published_model(torch, randomise, vision, **text):
  import transformers

  config = transformers.InternVLConfig(
    text_config=dict(
      model_type='qwen2', vocab_size=99, hidden_size=48, intermediate_size=64,
      num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
      rope_theta=1e6, rope_scaling=dict(type='dynamic', factor=2.0),
      tie_word_embeddings=False,
    ) | text,
    vision_config=dict(
      hidden_size=32, intermediate_size=40, num_hidden_layers=3,
      num_attention_heads=4, image_size=TILE,
    ) | vision,
    image_token_id=IMAGE, image_seq_length=SIDE**2, tie_word_embeddings=False,
    attn_implementation='eager',
  )  # fmt: skip
  model = randomise(
    transformers.InternVLForConditionalGeneration(config), attention=1.5
  )
  tower = model.model.vision_tower
  tower.embeddings.position_embeddings.mul_(20)
  tower.embeddings.cls_token.mul_(10)
  for layer in tower.encoder.layer:
    # Else every block would be nearly the identity.
    for scale in (layer.lambda_1, layer.lambda_2):
      scale.add_(1)
    layer.attention.q_proj.weight.mul_(2)
  return model


@pytest.fixture(scope='module')
def pair(torch, randomise, through_disk):
  published = published_model(torch, randomise, dict(attention_bias=True))
  return published, *through_disk(published)


def make_row(visuals, seed) -> Row:
  rng = np.random.default_rng(seed)
  parts = [rng.integers(1, 90, 4)]
  planned = tiles.plan_tiles(SIDE, visuals)
  for visual, span in zip(visuals, planned.spans, strict=True):
    pieces = visual.frames if isinstance(visual, plan.Clip) else 1
    for _ in range(pieces):  # there is text between the frames of a video
      parts += [np.full(span // pieces, IMAGE), rng.integers(1, 90, 3)]
  size = (planned.tiles, TILE, TILE, 3)
  pixels = rng.integers(0, 256, size, np.uint8)
  return Row(np.concatenate(parts), pixels, planned)


def our_batch(rows, left=False):
  """Pads rows to one static shape, as a data pipeline does."""
  length = max(len(row.tokens) for row in rows)
  most = max(row.plan.tiles for row in rows) + 1
  count = max(len(row.plan.index) for row in rows) + 2
  layout = plan.Layout(tile=TILE, side=SIDE, resolutions=())
  batch = {
    'tokens': np.zeros((len(rows), length), np.int32),
    'segment_ids': np.zeros((len(rows), length), np.int32),
    'positions': np.tile(np.arange(length, dtype=np.int32), (len(rows), 1)),
    # What lies in empty slots must not matter.
    'pixels': np.full((len(rows), most, TILE, TILE, 3), 9, np.uint8),
    'plan': plan.pack_plans([row.plan for row in rows], layout, most, count, 1),
  }
  for b, row in enumerate(rows):
    size = len(row.tokens)
    place = slice(length - size, None) if left else slice(size)
    batch['tokens'][b, place] = row.tokens
    batch['segment_ids'][b, place] = 1
    batch['pixels'][b, : len(row.tiles)] = row.tiles
  return batch


def normalised(torch, pixels):
  mean, std = internvit.PIXEL_MEAN, internvit.PIXEL_STD
  values = (pixels / 255 - mean) / std
  return torch.from_numpy(values.astype(np.float32)).movedim(-1, -3)


def published_inputs(torch, rows, batch):
  """What the published processor would hand over for the same rows."""
  inputs = {
    'input_ids': torch.from_numpy(batch['tokens']).long(),
    'attention_mask': torch.from_numpy(batch['segment_ids']).long(),
  }
  pixels = np.concatenate([row.tiles for row in rows])
  if len(pixels):
    inputs['pixel_values'] = normalised(torch, pixels)
  return inputs


@pytest.fixture(scope='module')
def rows():
  return [make_row(row, seed) for seed, row in enumerate(ROWS.values())]


@pytest.fixture(scope='module')
def ours(pair, rows, stages):
  """Every stage of the mixed batch, from one compile."""
  _, model, params = pair

  batch = our_batch(rows)
  return batch, *stages(model, params, batch)


def test_layers_and_logits_of_a_mixed_batch(pair, rows, ours, torch, close):
  published, _, _ = pair
  batch, visual, x, layer, hidden, logits = ours
  norm = published.model.language_model.norm
  want = published(
    **published_inputs(torch, rows, batch), output_hidden_states=True
  )
  real = batch['segment_ids'].astype(bool)
  assert visual.valid.sum() == (batch['tokens'] == IMAGE).sum()
  close('embeddings', x, want.hidden_states[0], real)
  close('layer 1', layer, norm(want.hidden_states[1]), real)
  close('last hidden', hidden, want.hidden_states[2], real)
  close('logits', logits, want.logits, real)
  for b, (name, row) in enumerate(zip(ROWS, rows)):
    want = published(**published_inputs(torch, [row], our_batch([row])))
    close(f'alone: {name}', logits[b : b + 1, : len(row.tokens)], want.logits)


@pytest.mark.parametrize(
  'tower',
  [
    dict(attention_bias=True),
    dict(use_qk_norm=True, norm_type='rms_norm', layer_norm_eps=1e-3),
  ],
  ids=['300M', '6B'],
)
def test_every_block_of_the_tower(
  tower, rows, torch, randomise, through_disk, truncate, close
):
  """Seen through the pixel shuffle and the projector."""
  published = published_model(torch, randomise, tower)
  model, params = through_disk(published)
  core, row = published.model, rows[1]
  batch = our_batch([row])
  states = core.vision_tower(
    normalised(torch, row.tiles), output_hidden_states=True
  ).hidden_states
  assert len(states) == 4
  for depth in (1, 2, 3):
    vision = dataclasses.replace(model.config.vision, depth=depth)
    part = registry.build(
      dataclasses.replace(model.config, vision=vision), model.runtime
    )
    got = jax.jit(part.encode_visual)(
      truncate(params, 'vision', depth), batch['pixels'], batch['plan']
    )
    grid = states[depth][:, 1:].reshape(-1, 4, 4, 32)
    shuffled = core.pixel_shuffle(grid, scale_factor=0.5).flatten(1, 2)
    want = core.multi_modal_projector(shuffled).flatten(0, 1)
    tokens = np.asarray(got.tokens[0])[batch['plan']['valid'][0]]
    close(f'tower, block {depth}', tokens, want)
    assert np.abs(np.asarray(want)).max() > 0.5


def test_dynamic_ntk_below_and_above_the_trained_length(
  rows, torch, randomise, through_disk, close
):
  published = published_model(
    torch, randomise, dict(attention_bias=True), max_position_embeddings=16
  )
  model, params = through_disk(published)
  assert model.config.decoder.rope_scaling.length == 16
  run = jax.jit(lambda p, b: model.logits(p, model.hidden(p, b)))
  for row, name in ((rows[0], 'above'), (rows[4], 'below')):
    assert (len(row.tokens) > 16) == (name == 'above')
    batch = our_batch([row])
    want = published(**published_inputs(torch, [row], batch))
    close(f'{name} 16 tokens', run(params, batch), want.logits)


def test_gradients_equal_the_published_ones(
  pair, rows, torch, through_disk, close
):
  """Through decoder, gather, projector, shuffle and tower, with remat."""
  published, _, _ = pair
  model, params = through_disk(
    published, runtime=Runtime(attention='xla', remat='block')
  )
  row = rows[3]
  batch = our_batch([row])
  target = np.roll(batch['tokens'], -1, axis=1)

  @jax.jit
  @jax.grad
  def run(params, batch):
    logits = model.logits(params, model.hidden(params, batch))
    logprobs = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(logprobs, target[..., None], axis=-1).mean()

  ours = run(params, batch)
  with torch.enable_grad():
    logits = published(**published_inputs(torch, [row], batch)).logits
    torch.nn.functional.cross_entropy(
      logits[0], torch.from_numpy(target)[0].long()
    ).backward()
  core = published.model
  tower = core.vision_tower
  theirs = {
    'vision/class_token': tower.embeddings.cls_token.grad,
    'vision/position': tower.embeddings.position_embeddings.grad,
    'projector/norm/scale': core.multi_modal_projector.layer_norm.weight.grad,
    'projector/linear_1/kernel': (
      core.multi_modal_projector.linear_1.weight.grad.T
    ),
    'decoder/embed/embedding': core.language_model.embed_tokens.weight.grad,
    'decoder/head/kernel': published.lm_head.weight.grad.T,
  }
  for i, layer in enumerate(tower.encoder.layer):
    theirs[f'vision/layers/mlp/fc1/kernel/{i}'] = layer.mlp.fc1.weight.grad.T
    theirs[f'vision/layers/scale1/scale/{i}'] = layer.lambda_1.grad
  for i, layer in enumerate(core.language_model.layers):
    weight = layer.mlp.down_proj.weight
    theirs[f'decoder/layers/mlp/down/kernel/{i}'] = weight.grad.T
  for path, want in theirs.items():
    leaf = ours
    for part in path.split('/'):
      leaf = leaf[int(part)] if part.isdigit() else leaf[part]
    assert want.abs().max() > 1e-3, path
    close(f'gradient of {path}', leaf, want)


def test_greedy_generation_is_the_same_token_by_token(pair, rows, torch):
  published, model, params = pair
  batch = our_batch(rows, left=True)
  greedy = Sampling(32, (0,), temperature=0)
  got = sample(model, params, batch, greedy).tokens[:, 0]
  want = published.generate(
    **published_inputs(torch, rows, batch),
    max_new_tokens=32,
    do_sample=False,
    eos_token_id=0,
    pad_token_id=0,
    suppress_tokens=[model.config.image_token, model.config.video_token],
  )[:, batch['tokens'].shape[1] :].numpy()
  want = np.pad(want, ((0, 0), (0, 32 - want.shape[1])))
  np.testing.assert_array_equal(got, want)
  assert len(np.unique(want)) > 8, 'the test model only repeats itself'


def test_tiles_of_another_size_are_named(pair):
  _, model, params = pair
  pixels = jnp.zeros((1, 1, 2 * TILE, TILE, 3), jnp.uint8)
  with pytest.raises(ValueError, match=r'112 x 56 pixels, expected 56 x 56'):
    model.encode_visual(params, pixels, {})
