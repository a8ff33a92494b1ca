"""Qwen2.5-VL against the published torch classes, row by row and together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import patch_rows
from vlm.models import mrope, registry, windows
from vlm.models.functional import Runtime
from vlm.rollout.sampler import sample
from vlm.rollout.settings import Sampling

pytestmark = pytest.mark.parity

IMAGE, VIDEO = 97, 98
MERGE, SECONDS = 2, 0.75  # between the frames of a video
VALUES = 3 * 2 * 14 * 14

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

  config = transformers.Qwen2_5_VLConfig(
    text_config=dict(
      vocab_size=99, hidden_size=48, intermediate_size=64,
      num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
      rope_parameters=dict(
        rope_type='default', rope_theta=1e6, mrope_section=[1, 2, 3]
      ),
    ),
    vision_config=dict(
      depth=3, hidden_size=32, num_heads=4, intermediate_size=40,
      out_hidden_size=48, fullatt_block_indexes=[1], window_size=56,
      tokens_per_second=2,
    ),
    image_token_id=IMAGE, video_token_id=VIDEO, tie_word_embeddings=False,
    attn_implementation='eager',
  )  # fmt: skip
  published = transformers.Qwen2_5_VLForConditionalGeneration(config)
  published = randomise(published, attention=1.5)
  return published, *through_disk(published)


def make_row(grids, seed) -> Row:
  rng = np.random.default_rng(seed)
  parts, spans = [rng.integers(1, 90, 4)], [4]
  for t, h, w in grids:
    count = t * h * w // MERGE**2
    parts += [np.full(count, VIDEO if t > 1 else IMAGE), rng.integers(1, 90, 3)]
    interval = 2 * SECONDS if t > 1 else 1
    spans += [mrope.Span(t, h // MERGE, w // MERGE, interval), 3]
  size = sum(t * h * w for t, h, w in grids)
  return Row(
    np.concatenate(parts),
    rng.normal(size=(size, VALUES)).astype(np.float32),
    mrope.positions(spans),
    grids,
  )


def our_batch(layout, rows, left=False):
  """Pads rows to one static shape; some windows and tokens stay empty."""
  count = max(windows.count_tokens(row.grids, layout) for row in rows) + 2
  most = max(windows.count_windows(row.grids, layout) for row in rows) + 1
  return patch_rows.padded(
    [row.tokens for row in rows],
    [row.positions for row in rows],
    [row.patches for row in rows],
    [windows.plan_windows(row.grids, layout, most) for row in rows],
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
  if grids['video']:
    inputs['second_per_grid_ts'] = torch.full((len(grids['video']),), SECONDS)
  return inputs


@pytest.fixture(scope='module')
def rows():
  return [make_row(grids, seed) for seed, grids in enumerate(ROWS.values())]


@pytest.fixture(scope='module')
def ours(pair, rows, stages):
  """Every stage of the mixed batch, from one compile."""
  _, model, params = pair

  batch = our_batch(model.config.vision.layout, rows)
  return batch, *stages(model, params, batch)


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


def test_layers_and_logits_of_a_mixed_batch(pair, rows, ours, torch, close):
  published, model, _ = pair
  batch, visual, x, layer, hidden, logits = ours
  norm = published.model.language_model.norm
  want = published(
    **published_inputs(torch, rows, batch), output_hidden_states=True
  )
  real = batch['segment_ids'].astype(bool)
  assert visual.valid.sum() == np.isin(batch['tokens'], (IMAGE, VIDEO)).sum()
  close('embeddings', x, want.hidden_states[0], real)
  close('layer 1', layer, norm(want.hidden_states[1]), real)
  close('last hidden', hidden, want.hidden_states[2], real)
  close('logits', logits, want.logits, real)
  for b, (name, row) in enumerate(zip(ROWS, rows)):
    alone = our_batch(model.config.vision.layout, [row])
    want = published(**published_inputs(torch, [row], alone))
    close(f'alone: {name}', logits[b : b + 1, : len(row.tokens)], want.logits)


def test_every_block_of_the_tower(pair, rows, torch, truncate, close):
  """Blocks in windows and over frames, seen through the merger."""
  published, model, params = pair
  visual = published.model.visual
  row = rows[1]
  batch = our_batch(model.config.vision.layout, [row])
  want = visual(
    torch.from_numpy(row.patches),
    grid_thw=torch.tensor(row.grids),
    output_hidden_states=True,
  )
  for depth in (1, 2, 3):
    vision = dataclasses.replace(model.config.vision, depth=depth)
    part = registry.build(
      dataclasses.replace(model.config, vision=vision), model.runtime
    )
    got = jax.jit(part.encode_visual)(
      truncate(params, 'vision', depth), batch['pixels'], batch['plan']
    )
    # The published states lie in the order of the windows.
    merged = visual.merger(want.hidden_states[depth])
    order = np.argsort(batch['plan']['token'][0][batch['plan']['valid'][0]])
    tokens = np.asarray(got.tokens[0])[batch['plan']['valid'][0]][order]
    close(f'tower, block {depth}', tokens, merged)


def test_gradients_equal_the_published_ones(
  pair, rows, torch, through_disk, close
):
  """Through decoder, merger, windows and frames, with remat."""
  published, _, _ = pair
  model, params = through_disk(
    published, runtime=Runtime(attention='xla', remat='block')
  )
  row = rows[3]
  batch = our_batch(model.config.vision.layout, [row])
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
  theirs = {
    'vision/patch/kernel': core.visual.patch_embed.proj.weight.grad.permute(
      1, 2, 3, 4, 0
    ),
    'vision/merger/fc1/kernel': core.visual.merger.mlp[0].weight.grad.T,
    'decoder/embed/embedding': core.language_model.embed_tokens.weight.grad,
  }
  for layer in range(3):
    theirs[f'vision/layers/mlp/up/kernel/{layer}'] = core.visual.blocks[
      layer
    ].mlp.up_proj.weight.grad.T
  for layer in range(2):
    theirs[f'decoder/layers/mlp/down/kernel/{layer}'] = (
      core.language_model.layers[layer].mlp.down_proj.weight.grad.T
    )
  for path, want in theirs.items():
    leaf = ours
    for part in path.split('/'):
      leaf = leaf[int(part)] if part.isdigit() else leaf[part]
    close(f'gradient of {path}', leaf, want, tolerance=1e-3)


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
    suppress_tokens=[IMAGE, VIDEO],
  )[:, batch['tokens'].shape[1] :].numpy()
  want = np.pad(want, ((0, 0), (0, 32 - want.shape[1])))
  np.testing.assert_array_equal(got, want)


def test_too_few_windows_and_broken_blocks_are_named():
  layout = windows.WindowLayout()
  with pytest.raises(ValueError, match='fill 4 windows, expected <= 3'):
    windows.plan_windows([(1, 10, 10)], layout, 3)
  with pytest.raises(ValueError, match='5 x 4 patches, expected multiples'):
    windows.plan_windows([(1, 5, 4)], layout, 9)
