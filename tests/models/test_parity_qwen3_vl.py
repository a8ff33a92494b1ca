"""Qwen3-VL against the published torch classes, row by row and together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import patch_rows
from vlm.models import mrope, patches, registry
from vlm.models.functional import Runtime
from vlm.rollout.sampler import sample
from vlm.rollout.settings import Sampling
from vlm.sharding import rules
from vlm.sharding.batch import to_global
from vlm.sharding.mesh import make_mesh

pytestmark = pytest.mark.parity

IMAGE, VIDEO = 97, 98
MERGE = 2
VALUES = 3 * 2 * 16 * 16
INNER = (0, 2)  # blocks of the tower whose features go into the decoder

# Grids of patches (t, h, w); a row's last entry is a video if t > 1.
ROWS = {
  'one image': [(1, 10, 14)],
  'three images of different sizes': [(1, 4, 6), (1, 12, 2), (1, 8, 8)],
  'video': [(3, 6, 10)],
  'image and video': [(1, 6, 4), (2, 4, 4)],
  'text only': [],
}


@dataclasses.dataclass
class Row:
  """One prompt with its patches, unpadded."""

  tokens: np.ndarray
  patches: np.ndarray
  positions: np.ndarray
  grids: list


@pytest.fixture(scope='module')
def pair(torch, randomise, through_disk):
  import transformers

  config = transformers.Qwen3VLConfig(
    text_config=dict(
      vocab_size=100, hidden_size=48, intermediate_size=64,
      num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
      head_dim=16, rope_parameters=dict(
        rope_type='default', rope_theta=1e6, mrope_section=[4, 2, 2]
      ),
    ),
    # Learned positions 5 x 5: stretched over most grids, shrunk onto a few.
    vision_config=dict(
      depth=4, hidden_size=32, num_heads=4, intermediate_size=40,
      out_hidden_size=48, num_position_embeddings=25,
      deepstack_visual_indexes=INNER,
    ),
    image_token_id=IMAGE, video_token_id=VIDEO, tie_word_embeddings=False,
    attn_implementation='eager',
  )  # fmt: skip
  published = transformers.Qwen3VLForConditionalGeneration(config)
  published = randomise(published, attention=1.5)
  return published, *through_disk(published)


def make_row(grids, seed) -> Row:
  """Every frame of a video is a span; between frames stands their time."""
  rng = np.random.default_rng(seed)
  parts, spans = [rng.integers(1, 90, 4)], [4]
  for t, h, w in grids:
    for _ in range(t):
      count, text = h * w // MERGE**2, int(rng.integers(1, 6))
      parts.append(np.full(count, VIDEO if t > 1 else IMAGE))
      parts.append(rng.integers(1, 90, text))
      spans += [mrope.Span(1, h // MERGE, w // MERGE), text]
  size = sum(t * h * w for t, h, w in grids)
  return Row(
    np.concatenate(parts),
    rng.normal(size=(size, VALUES)).astype(np.float32),
    mrope.positions(spans),
    grids,
  )


def our_batch(layout, rows, left=False):
  """Pads rows to one static shape; some slots and tokens stay empty."""
  count = max(patches.count_tokens(row.grids, layout) for row in rows) + 2
  slots = max(patches.count_patches(row.grids) for row in rows) + 8
  return patch_rows.padded(
    [row.tokens for row in rows],
    [row.positions for row in rows],
    [row.patches for row in rows],
    [patches.plan_patches(row.grids, layout, slots) for row in rows],
    count,
    left,
  )


def published_inputs(torch, rows, batch):
  """What the published processor would hand over for the same rows."""
  tokens = batch['tokens']
  inputs = {
    'input_ids': torch.from_numpy(tokens).long(),
    'attention_mask': torch.from_numpy(batch['segment_ids']).long(),
    'mm_token_type_ids': torch.from_numpy(
      1 * (tokens == IMAGE) + 2 * (tokens == VIDEO)
    ),
  }
  pixels, grids = {'image': [], 'video': []}, {'image': [], 'video': []}
  for row in rows:
    start = 0
    for grid in row.grids:
      kind, end = 'video' if grid[0] > 1 else 'image', start + np.prod(grid)
      pixels[kind].append(row.patches[start:end])
      grids[kind].append(grid)
      start = end
  for kind, name in (
    ('image', 'pixel_values'),
    ('video', 'pixel_values_videos'),
  ):
    if grids[kind]:
      inputs[name] = torch.from_numpy(np.concatenate(pixels[kind]))
      inputs[f'{kind}_grid_thw'] = torch.tensor(grids[kind])
  return inputs


def shortened(model, params, truncate, part, depth):
  """The model whose tower or decoder has only its first layers."""
  config = dataclasses.replace(getattr(model.config, part), depth=depth)
  params = truncate(params, part, depth)
  if part == 'vision':
    inner = tuple(block for block in INNER if block < depth)
    config = dataclasses.replace(config, deepstack_blocks=inner)
    mergers = jax.tree.map(lambda x: x[: len(inner)], params[part]['deepstack'])
    params = params | {part: params[part] | {'deepstack': mergers}}
  whole = dataclasses.replace(model.config, **{part: config})
  return registry.build(whole, model.runtime), params


@pytest.fixture(scope='module')
def rows():
  return [make_row(grids, seed) for seed, grids in enumerate(ROWS.values())]


@pytest.fixture(scope='module')
def ours(pair, rows, truncate):
  """Every stage of the mixed batch, from one compile."""
  _, model, params = pair

  @jax.jit
  def run(params, batch):
    visual = model.encode_visual(params, batch['pixels'], batch['plan'])
    x = model.embed(params, batch['tokens'], visual)
    layers = []
    for depth in (1, 2, 3):
      part, cut = shortened(model, params, truncate, 'decoder', depth)
      layers.append(part.hidden(cut, batch))
    return visual, x, layers, model.logits(params, layers[-1])

  batch = our_batch(model.config.vision.layout, rows)
  return batch, *run(params, batch)


def test_positions_are_the_published_ones(pair, rows, torch):
  published, model, _ = pair
  batch = our_batch(model.config.vision.layout, rows)
  inputs = published_inputs(torch, rows, batch)
  inputs = {k: v for k, v in inputs.items() if not k.startswith('pixel')}
  want, _ = published.model.get_rope_index(**inputs)
  real = batch['segment_ids'].astype(bool)
  np.testing.assert_array_equal(
    batch['positions'][real], want.permute(1, 2, 0).numpy()[real]
  )


@pytest.mark.parametrize('side', [5, 48])
def test_stretched_positions_are_the_published_ones(torch, side):
  """Bit for bit, taps and shares, over sizes on both sides of the table's."""
  from transformers import vision_utils

  layout = patches.PatchLayout(side=side)
  grids = [(2, 2, 94), (1, 96, 4), (1, 10, 48), (1, 64, 36), (3, 6, 2)]
  slots = patches.count_patches(grids) + 4
  plan = patches.plan_patches(grids, layout, slots)
  taps, shares = vision_utils.get_vision_interpolation_indices_and_weights(
    torch.tensor(grids), side, align_corners=True, spatial_merge_size=MERGE
  )
  np.testing.assert_array_equal(plan['taps'][:-4], taps)
  np.testing.assert_array_equal(plan['tap_weight'][:-4], shares)
  assert (plan['tap_weight'][-4:] == 0).all()
  position = vision_utils.get_vision_position_ids(torch.tensor(grids), MERGE)
  np.testing.assert_array_equal(plan['position'][:-4], position)


@pytest.fixture
def entering(pair):
  """What enters the second layer, the third and the last norm, as they run.

  The published tuple of hidden states leaves DeepStack out.
  """
  core, states = pair[0].model.language_model, []
  hooks = [
    module.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    for module in (*core.layers[1:], core.norm)
  ]
  yield states
  for hook in hooks:
    hook.remove()


def test_layers_and_logits_of_a_mixed_batch(
  pair, rows, ours, torch, entering, close
):
  published, model, _ = pair
  batch, visual, x, layers, logits = ours
  want = published(
    **published_inputs(torch, rows, batch), output_hidden_states=True
  )
  real = batch['segment_ids'].astype(bool)
  assert visual.valid.sum() == np.isin(batch['tokens'], (IMAGE, VIDEO)).sum()
  close('embeddings', x, want.hidden_states[0], real)
  states = list(entering)
  assert len(states) == len(layers) == 3
  for depth, (got, state) in enumerate(zip(layers, states), 1):
    norm = published.model.language_model.norm
    close(f'layer {depth}', got, norm(state), real)
  close('logits', logits, want.logits, real)
  for b, (name, row) in enumerate(zip(ROWS, rows)):
    alone = our_batch(model.config.vision.layout, [row])
    want = published(**published_inputs(torch, [row], alone))
    close(f'alone: {name}', logits[b : b + 1, : len(row.tokens)], want.logits)


def test_a_batch_without_pixels_needs_no_plan(pair, rows, torch, close):
  published, model, params = pair
  row = rows[-1]
  batch = our_batch(model.config.vision.layout, [row])
  text = {k: batch[k] for k in ('tokens', 'segment_ids', 'positions')}
  run = jax.jit(lambda p, b: model.logits(p, model.hidden(p, b)))
  want = published(**published_inputs(torch, [row], batch)).logits
  close('text alone', run(params, text), want)


def test_every_block_of_the_tower(pair, rows, torch, truncate, close):
  """Each seen through the merger, and what leaves from inside through its own.

  Bytes go the same way as the numbers they stand for.
  """
  published, model, params = pair
  visual = published.model.visual
  rng = np.random.default_rng(9)
  row, images = rows[1], rng.integers(0, 256, rows[1].patches.shape, np.uint8)
  row = dataclasses.replace(row, patches=(images / 127.5 - 1).astype('f4'))
  batch = our_batch(model.config.vision.layout, [row])
  batch['pixels'] = np.round((batch['pixels'] + 1) * 127.5).astype(np.uint8)
  want = visual(
    torch.from_numpy(row.patches),
    grid_thw=torch.tensor(row.grids),
    output_hidden_states=True,
  )
  for depth in (1, 2, 3, 4):
    part, cut = shortened(model, params, truncate, 'vision', depth)
    got = jax.jit(part.encode_visual)(cut, batch['pixels'], batch['plan'])
    valid = batch['plan']['valid'][0]
    merged = visual.merger(want.hidden_states[depth])
    close(f'tower, block {depth}', got.tokens[0][valid], merged)
    for level, inner in enumerate(got.deepstack):
      theirs = want.deepstack_features[level]
      close(f'DeepStack {level} of {depth} blocks', inner[0][valid], theirs)
  assert len(got.deepstack) == len(want.deepstack_features) == len(INNER)


def test_gradients_equal_the_published_ones(
  pair, rows, torch, through_disk, close
):
  """Through decoder, DeepStack, mergers and frames, with remat."""
  published, _, _ = pair
  model, params = through_disk(
    published, runtime=Runtime(attention='xla', remat='block')
  )
  row = rows[3]
  batch = our_batch(model.config.vision.layout, [row])
  target = np.roll(batch['tokens'], -1, axis=1)
  ours = jax.jit(jax.grad(loss(model, target)))(params, batch)
  with torch.enable_grad():
    logits = published(**published_inputs(torch, [row], batch)).logits
    torch.nn.functional.cross_entropy(
      logits[0], torch.from_numpy(target)[0].long()
    ).backward()
  tower, decoder = published.model.visual, published.model.language_model
  theirs = {
    'vision/patch/kernel': tower.patch_embed.proj.weight.grad.permute(
      1, 2, 3, 4, 0
    ),
    'vision/position/embedding': tower.pos_embed.weight.grad,
    'vision/merger/fc1/kernel': tower.merger.linear_fc1.weight.grad.T,
    'decoder/embed/embedding': decoder.embed_tokens.weight.grad,
  }
  for level, merger in enumerate(tower.deepstack_merger_list):
    theirs[f'vision/deepstack/layers/fc2/kernel/{level}'] = (
      merger.linear_fc2.weight.grad.T
    )
  for layer, block in enumerate(tower.blocks):
    theirs[f'vision/layers/mlp/fc1/kernel/{layer}'] = (
      block.mlp.linear_fc1.weight.grad.T
    )
  for layer, block in enumerate(decoder.layers):
    theirs[f'decoder/layers/attn/k_norm/scale/{layer}'] = (
      block.self_attn.k_norm.weight.grad
    )
    theirs[f'decoder/layers/mlp/down/kernel/{layer}'] = (
      block.mlp.down_proj.weight.grad.T
    )
  for path, want in theirs.items():
    leaf = ours
    for part in path.split('/'):
      leaf = leaf[int(part)] if part.isdigit() else leaf[part]
    assert want.abs().max() > 1e-3, f'{path} has no gradient to compare'
    close(f'gradient of {path}', leaf, want, tolerance=1e-5)


def loss(model, target):
  """Mean cross-entropy of every position, as a function to differentiate."""

  def run(params, batch):
    logits = model.logits(params, model.hidden(params, batch))
    logprobs = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(logprobs, target[..., None], axis=-1).mean()

  return run


def test_where_the_last_token_looks(pair, rows, torch, close):
  """Weights of every layer and head, in rows padded on the left."""
  published, model, params = pair
  batch = our_batch(model.config.vision.layout, rows, left=True)
  inputs = published_inputs(torch, rows, batch)
  want = published(**inputs, output_attentions=True).attentions
  got = jax.jit(model.attention_of)(params, batch)
  assert got.dtype == jnp.float32 and len(got) == len(want) > 1
  for layer, (ours, theirs) in enumerate(zip(got, want)):
    close(f'attention in layer {layer}', ours, theirs[:, :, -1])
    assert theirs[:, :, -1].max() > 0.2, 'attention without a direction'


def test_greedy_generation_is_the_same_token_by_token(pair, rows, torch):
  published, model, params = pair
  batch = our_batch(model.config.vision.layout, rows, left=True)
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


def test_eight_devices_compute_what_one_does(pair, rows, close):
  """Logits and every gradient, rows over 4 shards and heads over 2."""
  _, model, params = pair
  batch = our_batch(model.config.vision.layout, rows[:4])
  target = np.roll(batch['tokens'], -1, axis=1)
  run = jax.value_and_grad(loss(model, target))
  value, grads = jax.jit(run)(params, batch)
  mesh = make_mesh(dict(data=2, fsdp=2, tensor=2))
  shardings = rules.shardings(mesh, model.abstract_params)
  placed = jax.device_put(params, shardings)
  deep = placed['vision']['deepstack']['layers']['fc1']['kernel']
  assert deep.addressable_shards[0].data.size * 4 == deep.size
  with jax.set_mesh(mesh):
    out = jax.jit(run, out_shardings=(None, shardings))(
      placed, to_global(batch, mesh)
    )
  close('loss', out[0], value)
  for path, got in rules.flatten(out[1]):
    want = dict(rules.flatten(grads))[path]
    close(f'gradient of {path}', got, want, tolerance=1e-5)


def test_what_does_not_fit_is_named():
  layout = patches.PatchLayout()
  with pytest.raises(ValueError, match='have 100 patches, expected <= 96'):
    patches.plan_patches([(1, 10, 10)], layout, 96)
  with pytest.raises(ValueError, match='102 slots, and those a multiple of 4'):
    patches.plan_patches([(1, 10, 10)], layout, 102)
  with pytest.raises(ValueError, match='5 x 4 patches, expected multiples'):
    patches.plan_patches([(1, 5, 4)], layout, 96)
