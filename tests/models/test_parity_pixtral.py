"""Pixtral against the published torch classes, row by row and together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import patch_rows
from vlm.models import patches, registry
from vlm.models.functional import Runtime
from vlm.rollout.sampler import sample
from vlm.rollout.settings import Sampling

pytestmark = pytest.mark.parity

IMAGE, BREAK, END = 95, 96, 97
PATCH = 16

# Rows and columns of patches of each image of a row.
ROWS = {
  'one image': [(5, 7)],
  'three images of different sizes': [(2, 3), (6, 1), (4, 4)],
  'two images': [(1, 9), (3, 2)],
  'text only': [],
}


@dataclasses.dataclass
class Row:
  """One prompt with its images, unpadded."""

  tokens: np.ndarray
  images: list
  grids: list


def published_model(torch, randomise, **vision):
  import transformers

  config = transformers.LlavaConfig(
    text_config=dict(
      model_type='mistral', vocab_size=99, hidden_size=48,
      intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
      num_key_value_heads=2, head_dim=20, rope_theta=1e9, rms_norm_eps=1e-5,
      sliding_window=None,
    ),
    vision_config=dict(
      model_type='pixtral', hidden_size=32, intermediate_size=40,
      num_hidden_layers=3, num_attention_heads=2, patch_size=PATCH,
    ) | vision,
    image_token_index=IMAGE, vision_feature_layer=-1,
    vision_feature_select_strategy='full', attn_implementation='eager',
  )  # fmt: skip
  model = transformers.LlavaForConditionalGeneration(config)
  model = randomise(model, attention=1.5)
  for layer in model.model.vision_tower.transformer.layers:
    # So that a wrong place of a patch shows.
    layer.attention.q_proj.weight.mul_(2)
  return model


@pytest.fixture(scope='module')
def pair(torch, randomise, through_disk):
  published = published_model(torch, randomise, hidden_act='silu')
  return published, *through_disk(published)


def make_row(sizes, seed) -> Row:
  rng = np.random.default_rng(seed)
  parts, images = [rng.integers(1, 90, 4)], []
  for h, w in sizes:
    lines = np.full((h, w + 1), IMAGE)
    lines[:, -1] = BREAK
    lines[-1, -1] = END
    parts += [lines.ravel(), rng.integers(1, 90, 3)]
    images.append(rng.integers(0, 256, (h * PATCH, w * PATCH, 3), np.uint8))
  return Row(np.concatenate(parts), images, [(1, *size) for size in sizes])


def cut(image):
  """Patches of an image, row by row: [h * w, 3 * patch^2]."""
  h, w = (side // PATCH for side in image.shape[:2])
  x = image.reshape(h, PATCH, w, PATCH, 3).transpose(0, 2, 4, 1, 3)
  return x.reshape(h * w, -1)


LAYOUT = patches.PatchLayout(PATCH, merge=1, side=0)


def our_batch(rows, left=False):
  """Pads rows to one static shape; some slots and tokens stay empty."""
  count = max(patches.count_patches(row.grids) for row in rows) + 2
  none = np.zeros((0, 3 * PATCH**2), np.uint8)
  return patch_rows.padded(
    [row.tokens for row in rows],
    [np.arange(len(row.tokens)) for row in rows],
    [np.concatenate([none, *map(cut, row.images)]) for row in rows],
    [patches.plan_patches(row.grids, LAYOUT, count + 3) for row in rows],
    count,
    left,
  )


def published_pixels(torch, images, vision):
  """Normalised images padded to one size, and their own sizes."""
  sizes = [image.shape[:2] for image in images]
  height, width = np.max(sizes, axis=0)
  pixels = np.zeros((len(images), 3, height, width), np.float32)
  for place, image, (h, w) in zip(pixels, images, sizes, strict=True):
    values = (image / 255 - vision.pixel_mean) / vision.pixel_std
    place[:, :h, :w] = values.transpose(2, 0, 1)
  return dict(
    pixel_values=torch.from_numpy(pixels), image_sizes=torch.tensor(sizes)
  )


def published_inputs(torch, rows, batch, vision):
  """What the published processor would hand over for the same rows."""
  inputs = {
    'input_ids': torch.from_numpy(batch['tokens']).long(),
    'attention_mask': torch.from_numpy(batch['segment_ids']).long(),
  }
  images = [image for row in rows for image in row.images]
  if images:
    inputs |= published_pixels(torch, images, vision)
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
  published, model, _ = pair
  batch, visual, x, layer, hidden, logits = ours
  vision, norm = model.config.vision, published.model.language_model.norm
  want = published(
    **published_inputs(torch, rows, batch, vision), output_hidden_states=True
  )
  real = batch['segment_ids'].astype(bool)
  assert visual.valid.sum() == (batch['tokens'] == IMAGE).sum()
  close('embeddings', x, want.hidden_states[0], real)
  close('layer 1', layer, norm(want.hidden_states[1]), real)
  close('last hidden', hidden, want.hidden_states[2], real)
  close('logits', logits, want.logits, real)
  for b, (name, row) in enumerate(zip(ROWS, rows)):
    inputs = published_inputs(torch, [row], our_batch([row]), vision)
    want = published(**inputs).logits
    close(f'alone: {name}', logits[b : b + 1, : len(row.tokens)], want)


def test_normalised_pixels_are_taken_as_they_are(pair, ours, close):
  _, model, params = pair
  batch, visual = ours[:2]
  vision, shape = model.config.vision, batch['pixels'].shape
  values = batch['pixels'].reshape(*shape[:2], 3, -1).transpose(0, 1, 3, 2)
  values = (values / 255 - vision.pixel_mean) / vision.pixel_std
  values = values.transpose(0, 1, 3, 2).reshape(shape).astype(np.float32)
  got = jax.jit(model.encode_visual)(params, values, batch['plan'])
  close('tokens, float pixels', got.tokens, visual.tokens)


@pytest.mark.parametrize(
  'tower',
  [
    dict(hidden_act='silu'),
    dict(hidden_act='gelu', rope_parameters=dict(rope_theta=50.0)),
  ],
  ids=['12B', 'other choices'],
)
def test_every_block_of_the_tower(
  tower, rows, torch, randomise, through_disk, truncate, close
):
  """Several images in one row, seen through the projector."""
  published = published_model(torch, randomise, **tower)
  model, params = through_disk(published)
  row, core = rows[1], published.model
  batch = our_batch([row])
  states = core.vision_tower(
    **published_pixels(torch, row.images, model.config.vision),
    output_hidden_states=True,
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
    want = core.multi_modal_projector(states[depth])[0]
    tokens = np.asarray(got.tokens[0])[batch['plan']['valid'][0]]
    close(f'tower, block {depth}', tokens, want)
    assert np.abs(np.asarray(want)).max() > 0.5


def test_gradients_equal_the_published_ones(
  pair, rows, torch, through_disk, close
):
  """Through decoder, projector and tower, with remat."""
  published, _, _ = pair
  model, params = through_disk(
    published, runtime=Runtime(attention='xla', remat='block')
  )
  row = rows[1]
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
    inputs = published_inputs(torch, [row], batch, model.config.vision)
    torch.nn.functional.cross_entropy(
      published(**inputs).logits[0], torch.from_numpy(target)[0].long()
    ).backward()
  core = published.model
  tower = core.vision_tower
  theirs = {
    'vision/patch/kernel': tower.patch_conv.weight.grad.permute(2, 3, 1, 0),
    'vision/pre_norm/scale': tower.ln_pre.weight.grad,
    'projector/linear_1/kernel': (
      core.multi_modal_projector.linear_1.weight.grad.T
    ),
    'decoder/embed/embedding': core.language_model.embed_tokens.weight.grad,
    'decoder/head/kernel': published.lm_head.weight.grad.T,
  }
  for i, layer in enumerate(tower.transformer.layers):
    weight = layer.feed_forward.up_proj.weight
    theirs[f'vision/layers/mlp/up/kernel/{i}'] = weight.grad.T
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
    **published_inputs(torch, rows, batch, model.config.vision),
    max_new_tokens=32,
    do_sample=False,
    eos_token_id=0,
    pad_token_id=0,
    suppress_tokens=[model.config.image_token, model.config.video_token],
  )[:, batch['tokens'].shape[1] :].numpy()
  want = np.pad(want, ((0, 0), (0, 32 - want.shape[1])))
  np.testing.assert_array_equal(got, want)
  assert len(np.unique(want)) > 8, 'the test model only repeats itself'


def test_a_plan_by_hand():
  plan = patches.plan_patches([(1, 1, 2), (2, 2, 1)], LAYOUT, 8)
  assert plan['source'].tolist() == [0, 1, 2, 3, 4, 5, -1, -1]
  assert plan['frame'].tolist() == [1, 1, 2, 2, 3, 3, 0, 0]
  assert plan['token'].tolist() == [0, 1, 2, 3, 4, 5]
  assert plan['position'].tolist() == [
    [0, 0], [0, 1], [0, 0], [1, 0], [0, 0], [1, 0], [0, 0], [0, 0]
  ]  # fmt: skip
  assert plan['grid'].tolist() == [
    [0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]
  ]  # fmt: skip


def test_too_few_slots_are_named():
  with pytest.raises(ValueError, match='have 35 patches, expected <= 34'):
    patches.plan_patches([(1, 5, 7)], LAYOUT, 34)
