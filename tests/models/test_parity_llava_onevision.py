"""LLaVA-OneVision and LLaVA-Video against the published torch classes.

From pixels: our tiles and plans against the published packing, in one batch of
rows that each need something else.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from data.image import prepare_row
from vlm.models import plan
from vlm.models.functional import Runtime
from vlm.rollout.sampler import sample
from vlm.rollout.settings import Sampling

pytestmark = pytest.mark.parity

SIDE, TILE, FRAMES = 4, 56, 3
IMAGE, VIDEO = 97, 98
RESOLUTIONS = [[TILE * h, TILE * w] for h in range(1, 5) for w in range(1, 5)]


def picture(height, width, seed):
  rng = np.random.default_rng(seed)
  return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def film(seed):
  return [picture(40, 60, seed + t) for t in range(FRAMES)]


ROWS = {
  'one anyres image, shrunk': [picture(215, 210, 1)],
  'three images': [picture(30, 90, 2), picture(70, 20, 3), picture(56, 56, 4)],
  'video': [film(10)],
  'image and video': [picture(60, 150, 5), film(20)],
  'text only': [],
}


@dataclasses.dataclass
class Row:
  """One prompt with its visuals, unpadded."""

  tokens: np.ndarray
  tiles: np.ndarray
  plan: plan.RowPlan
  items: list


@pytest.fixture(scope='module')
def pair(torch, randomise, through_disk):
  import transformers

  vision = transformers.SiglipVisionConfig(
    hidden_size=32, intermediate_size=40, num_hidden_layers=2,
    num_attention_heads=4, image_size=TILE, patch_size=14,
    vision_use_head=False,
  )  # fmt: skip
  text = transformers.Qwen2Config(
    vocab_size=99, hidden_size=48, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=512,
    tie_word_embeddings=False,
  )  # fmt: skip
  config = transformers.LlavaOnevisionConfig(
    vision_config=vision, text_config=text, image_token_index=IMAGE,
    video_token_index=VIDEO, image_grid_pinpoints=RESOLUTIONS,
    attn_implementation='eager',
  )  # fmt: skip
  published = transformers.LlavaOnevisionForConditionalGeneration(config)
  published = randomise(published, attention=1.5)
  return published, *through_disk(published)


def make_row(layout, items, seed) -> Row:
  rng = np.random.default_rng(seed)
  visual = prepare_row(items, layout)
  planned = plan.plan_row(layout, visual.visuals)
  parts = [rng.integers(1, 90, 4)]
  for item, count in zip(items, planned.spans, strict=True):
    token = IMAGE if isinstance(item, Image.Image) else VIDEO
    parts += [np.full(count, token), rng.integers(1, 90, 3)]
  return Row(np.concatenate(parts), visual.tiles, planned, items)


def our_batch(layout, rows, left=False):
  """Pads rows to one static shape, as the data pipeline does."""
  length = max(len(row.tokens) for row in rows)
  tiles = max(row.plan.tiles for row in rows) + 1
  count = max(len(row.plan.index) for row in rows) + 2
  batch = {
    'tokens': np.zeros((len(rows), length), np.int32),
    'segment_ids': np.zeros((len(rows), length), np.int32),
    'positions': np.tile(np.arange(length, dtype=np.int32), (len(rows), 1)),
    'pixels': np.zeros((len(rows), tiles, TILE, TILE, 3), np.uint8),
    'plan': plan.pack_plans(
      [row.plan for row in rows], layout, tiles, count, taps=4
    ),
  }
  for b, row in enumerate(rows):
    size = len(row.tokens)
    place = slice(length - size, None) if left else slice(size)
    batch['tokens'][b, place] = row.tokens
    batch['segment_ids'][b, place] = 1
    batch['pixels'][b, : len(row.tiles)] = row.tiles
  return batch


def published_inputs(torch, rows, batch):
  """What the published processor would hand over for the same rows."""
  as_torch = lambda tiles: torch.from_numpy(
    ((tiles / 255 - 0.5) / 0.5).astype(np.float32)
  ).movedim(-1, -3)
  images, sizes, videos, per_row = [], [], [], []
  for row in rows:
    stills = [i for i in row.items if isinstance(i, Image.Image)]
    if stills:
      per_row.append(len(stills))
    start = 0
    for item in row.items:
      if not isinstance(item, Image.Image):
        count = len(item)
        videos.append(as_torch(row.tiles[start : start + count]))
      else:
        count = (
          1
          if len(stills) > 1
          else len(row.tiles) - FRAMES * (len(row.items) - 1)
        )
        images.append(as_torch(row.tiles[start : start + count]))
        sizes.append([item.height, item.width])
      start += count
    assert start == len(row.tiles)
  inputs = {
    'input_ids': torch.from_numpy(batch['tokens']).long(),
    'attention_mask': torch.from_numpy(batch['segment_ids']).long(),
  }
  if images:
    most = max(len(image) for image in images)
    inputs['pixel_values'] = torch.stack(
      [torch.cat([i, i.new_zeros(most - len(i), *i.shape[1:])]) for i in images]
    )
    inputs['image_sizes'] = torch.tensor(sizes)
    inputs['batch_num_images'] = torch.tensor(per_row)
  if videos:
    inputs['pixel_values_videos'] = torch.stack(videos)
  return inputs


@pytest.fixture(scope='module')
def rows(pair):
  layout = pair[1].config.layout
  return [
    make_row(layout, items, seed) for seed, items in enumerate(ROWS.values())
  ]


def test_the_rows_cover_shrinking_and_gathering(rows):
  assert rows[0].plan.index.shape[1] == 4 and rows[0].plan.tiles == 17
  assert rows[1].plan.index.shape[1] == 1 and rows[1].plan.tiles == 3
  assert len({len(row.tokens) for row in rows}) == len(rows)


@pytest.fixture(scope='module')
def ours(pair, rows, stages):
  """Every stage of the mixed batch, from one compile."""
  _, model, params = pair

  batch = our_batch(model.config.layout, rows)
  return batch, *stages(model, params, batch)


def test_layers_and_logits_of_a_mixed_batch(pair, rows, ours, torch, close):
  published, model, _ = pair
  batch, visual, x, layer, hidden, logits = ours
  assert visual.received_attention is None
  norm = published.model.language_model.norm

  together = published_inputs(torch, rows, batch)
  want = published(**together, output_hidden_states=True)
  real = batch['segment_ids'].astype(bool)
  close('batch: embeddings', x, want.hidden_states[0], real)
  close('batch: layer 1', layer, norm(want.hidden_states[1]), real)
  close('batch: last hidden', hidden, want.hidden_states[2], real)
  close('batch: logits', logits, want.logits, real)
  images = want.image_hidden_states.reshape(-1, 48)
  valid = np.asarray(visual.tokens)[np.asarray(visual.valid)]
  slots = batch['tokens'][np.isin(batch['tokens'], (IMAGE, VIDEO))]
  close('batch: image tokens', valid[slots == IMAGE], images)
  close('batch: video tokens', valid[slots == VIDEO], want.video_hidden_states)

  for b, (name, row) in enumerate(zip(ROWS, rows)):
    alone = our_batch(model.config.layout, [row])
    want = published(**published_inputs(torch, [row], alone))
    ours = logits[b : b + 1, : len(row.tokens)]
    close(f'alone: {name}: logits', ours, want.logits)


def test_training_hidden_states_are_the_same(pair, ours, close):
  """`hidden` is the seams in one call; pixels may come normalised."""
  _, model, params = pair
  batch, hidden = ours[0], ours[4]
  floats = (batch['pixels'] / 255 - 0.5).astype(np.float32) / 0.5
  got = jax.jit(model.hidden)(params, batch | {'pixels': floats})
  close('hidden, float pixels', got, hidden)


def test_gradients_equal_the_published_ones(
  pair, rows, torch, through_disk, close
):
  """Through decoder, gather, newline, projector and tower, with remat."""
  published, _, _ = pair
  model, params = through_disk(
    published, runtime=Runtime(attention='xla', remat='block')
  )
  row = rows[3]
  batch = our_batch(model.config.layout, [row])
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
  block = core.vision_tower.encoder.layers[0]
  decoder = core.language_model.layers[1]
  theirs = {
    'newline': core.image_newline,
    'projector/linear_1/kernel': core.multi_modal_projector.linear_1.weight,
    'vision/position/embedding': (
      core.vision_tower.embeddings.position_embedding.weight
    ),
    'vision/layers/mlp/fc1/kernel': block.mlp.fc1.weight,
    'decoder/layers/mlp/down/kernel': decoder.mlp.down_proj.weight,
    'decoder/embed/embedding': core.language_model.embed_tokens.weight,
    'decoder/head/kernel': published.lm_head.weight,
  }
  for path, value in theirs.items():
    leaf = ours
    for part in path.split('/'):
      leaf = leaf[part]
    if '/layers/' in path:
      leaf = leaf[0 if path.startswith('vision') else 1]
    want = value.grad.numpy()
    want = want.T if path.endswith('kernel') else want
    assert np.abs(want).max() > 1e-3, path
    close(f'gradient of {path}', leaf, want)


def test_llava_video_layout(pair, torch, through_disk, close):
  """A newline after each row of each frame, placed by a numpy loop."""
  published, _, _ = pair
  model, params = through_disk(published, video_newline='grid')
  row = make_row(model.config.layout, [film(30)], seed=9)
  batch = our_batch(model.config.layout, [row])
  core = published.model
  pixels = published_inputs(torch, [row], batch)['pixel_values_videos'][0]
  patches = core.vision_tower(pixels, output_hidden_states=True)
  features = core.multi_modal_projector(patches.hidden_states[-1]).numpy()
  newline = core.image_newline.numpy()
  tokens = []
  for frame in features.reshape(FRAMES, SIDE, SIDE, -1):
    for h in range(SIDE // 2):
      for w in range(SIDE // 2):
        block = frame[2 * h : 2 * h + 2, 2 * w : 2 * w + 2]
        tokens.append(block.mean((0, 1)))  # bilinear from 4 to 2 is the mean
      tokens.append(newline)
  assert len(tokens) == FRAMES * 2 * 3 == row.plan.spans[0]
  x = core.get_input_embeddings()(torch.from_numpy(row.tokens)).numpy()
  x[row.tokens == VIDEO] = tokens
  want = published(inputs_embeds=torch.from_numpy(x)[None]).logits
  run = jax.jit(lambda p, b: model.logits(p, model.hidden(p, b)))
  close('llava-video logits', run(params, batch), want)


def test_greedy_generation_token_for_token(pair, rows, torch):
  published, model, params = pair
  batch = our_batch(model.config.layout, rows, left=True)
  want = published.generate(
    **published_inputs(torch, rows, batch),
    max_new_tokens=32, do_sample=False, eos_token_id=0, pad_token_id=0,
    suppress_tokens=[IMAGE, VIDEO],
  )[:, batch['tokens'].shape[1] :].numpy()  # fmt: skip
  prompts = {key: value for key, value in batch.items() if key != 'positions'}
  greedy = Sampling(32, (0,), temperature=0)
  got = sample(model, params, prompts, greedy).tokens[:, 0]
  want = np.pad(want, ((0, 0), (0, 32 - want.shape[1])))
  np.testing.assert_array_equal(got, want)
  assert len(np.unique(want)) > 8, 'the test model only repeats itself'


def test_received_attention_is_the_column_mean(pair, rows):
  """Of the last kept block, over heads and queries; by numpy loops."""
  _, model, params = pair
  layout = model.config.layout
  batch = our_batch(layout, rows[2:3])
  visual = jax.jit(model.encode_visual, static_argnums=3)(
    params, batch['pixels'], batch['plan'], True
  )
  plain = jax.jit(model.encode_visual)(params, batch['pixels'], batch['plan'])
  np.testing.assert_allclose(visual.tokens, plain.tokens, atol=1e-4)

  vision = jax.tree.map(np.asarray, params['vision'])
  x = (batch['pixels'][0] / 255 - 0.5) / 0.5
  patches = x.reshape(-1, SIDE, 14, SIDE, 14, 3).transpose(0, 1, 3, 2, 4, 5)
  x = np.einsum('tabijc,ijcd->tabd', patches, vision['patch']['kernel'])
  x = x.reshape(-1, SIDE**2, 32) + vision['patch']['bias']
  x = x + vision['position']['embedding']
  layer = lambda i: jax.tree.map(lambda leaf: leaf[i], vision['layers'])
  x, _ = numpy_block(layer(0), x)
  _, weights = numpy_block(layer(1), x)  # [tile, head, query, key]
  scores = np.append(weights.mean((1, 2)).ravel(), 0.0)  # the newline has none
  index, weight = batch['plan']['index'][0], batch['plan']['weight'][0]
  want = (scores[index] * weight).sum(-1)
  assert visual.received_attention.shape == want[None].shape
  np.testing.assert_allclose(visual.received_attention[0], want, atol=1e-6)
  assert want.std() > 1e-3


def numpy_block(layer, x):
  """One pre-norm block in float64; returns states and attention weights."""
  attn = layer['attn']
  y = numpy_norm(layer['norm1'], x)
  q, k, v = (
    np.einsum('tpd,dnh->tnph', y, attn[n]['kernel'])
    + attn[n]['bias'][None, :, None]
    for n in 'qkv'
  )
  scores = np.einsum('tnph,tnsh->tnps', q, k) / np.sqrt(q.shape[-1])
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  out = np.einsum('tnps,tnsh->tpnh', weights, v)
  x = x + np.einsum('tpnh,nhd->tpd', out, attn['o']['kernel'])
  x = x + attn['o']['bias']
  mlp = layer['mlp']
  y = numpy_norm(layer['norm2'], x) @ mlp['fc1']['kernel'] + mlp['fc1']['bias']
  y = y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
  return x + y @ mlp['fc2']['kernel'] + mlp['fc2']['bias'], weights


def numpy_norm(norm, x):
  y = x - x.mean(-1, keepdims=True)
  y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6)
  return y * norm['scale'] + norm['bias']
