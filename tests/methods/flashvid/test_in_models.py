"""FlashVID inside whole models: rows get shorter, nothing else changes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from data import videos
from data.examples import left_padded
from data.processors.qwen_vl import Budget
from data.processors.registry import processor_of
from data.videos import VideoSpec, by_frames, mark_videos
from tests.tiny_checkpoint import picture
from vlm.methods.flashvid import FlashVID
from vlm.methods.flashvid.transform import VideoReduction
from vlm.models import (
  internvit,
  internvl3,
  llava_onevision,
  mrope,
  qwen2_5_vision,
  qwen2_5_vl,
  qwen3_vision,
  qwen3_vl,
  registry,
)
from vlm.models.functional import Runtime
from vlm.models.prune import Prune
from vlm.models.qwen2 import Qwen2Config
from vlm.models.siglip import SiglipVisionConfig
from vlm.models.visual import frames_of
from vlm.rollout.sampler import sample
from vlm.rollout.settings import Buckets, Sampling
from vlm.sharding import rules
from vlm.sharding.batch import to_global
from vlm.sharding.mesh import make_mesh

IMAGE, VIDEO, VOCAB = 7, 8, 40
DECODER = Qwen2Config(
  vocab_size=VOCAB, width=16, depth=4, heads=4, kv_heads=2, head_dim=8,
  mlp_width=32, tied_head=False,
)  # fmt: skip
MROPE = dataclasses.replace(DECODER, mrope_section=(2, 1, 1))
SIZES = dict(width=16, depth=2, heads=2, mlp_width=32)
TOKENS = dict(image_token=IMAGE, video_token=VIDEO)
MODELS = {
  'llava_onevision': llava_onevision.LlavaOnevisionConfig(
    SiglipVisionConfig(image_size=48, patch=8, **SIZES), DECODER, **TOKENS
  ),
  'llava_video': llava_onevision.LlavaOnevisionConfig(
    SiglipVisionConfig(image_size=48, patch=8, **SIZES),
    DECODER,
    video_newline='grid',
    **TOKENS,
  ),
  'internvl3': internvl3.InternVL3Config(
    internvit.InternVitConfig(image_size=56, **SIZES),
    DECODER,
    image_token=IMAGE,
  ),
  'qwen2_5_vl': qwen2_5_vl.Qwen25VLConfig(
    qwen2_5_vision.Qwen25VisionConfig(
      out_width=16, window=56, full_blocks=(1,), **SIZES
    ),
    MROPE,
    **TOKENS,
  ),
  'qwen3_vl': qwen3_vl.Qwen3VLConfig(
    qwen3_vision.Qwen3VisionConfig(
      out_width=16, position_side=6, deepstack_blocks=(0,), **SIZES
    ),
    dataclasses.replace(MROPE, mrope_interleaved=True, qk_norm=True),
    **TOKENS,
  ),
}
SETTINGS = FlashVID(0.5, expansion=1.2, layer=3, min_segments=2)
REDUCE = jax.jit(SETTINGS.reduce)
RUNTIME = Runtime(attention='xla')


def clip(frames, size=(56, 84), seed=0):
  """A picture that changes a little from frame to frame."""
  rng = np.random.default_rng(seed)
  first = rng.integers(0, 256, (*size, 3))
  noise = rng.integers(-20, 21, (frames, *size, 3))
  return [picture_of(np.clip(first + n, 0, 255)) for n in noise]


def picture_of(values):
  return Image.fromarray(values.astype(np.uint8))


def sample_of(config, items, seed=0):
  """Text, the items, text, as `data.examples.Encoder` would give it."""
  rng = np.random.default_rng(seed)
  processor = small(by_frames(processor_of(config)))
  text = lambda count: rng.integers(9, VOCAB, count)
  if not items:
    tokens = text(11).astype(np.int32)
    return {'tokens': tokens, 'loss_mask': np.zeros(11, np.float32)}
  shown = processor.prepare(items)
  counts = [sum(e.counts) for e in shown.expansions]
  moving = [isinstance(item, list) for item in items]
  parts, spans = [text(3)], []
  for item, expansion in zip(items, shown.expansions):
    ids = config.video_token if isinstance(item, list) else config.image_token
    for span, count in zip(expansion.spans, expansion.counts):
      parts += [np.full(count, ids), text(2)]
      spans.append(span)
  tokens = np.concatenate([*parts, text(4)]).astype(np.int32)
  found = {
    'tokens': tokens,
    'loss_mask': np.zeros(len(tokens), np.float32),
    'pixels': shown.pixels,
    'plan': shown.plan | mark_videos(moving, counts, shown.plan['grid']),
  }
  if isinstance(spans[0], mrope.Span):
    visual = np.isin(tokens, (IMAGE, VIDEO))
    found['positions'] = mrope.row_positions(visual, spans)
  return found


def small(processor):
  """Frames of Qwen-VL at the size at which they are given."""
  if not hasattr(processor, 'facts') or not hasattr(processor.facts, 'video'):
    return processor
  facts = processor.facts
  tiny = Budget(facts.factor**2, 12 * facts.factor**2)
  clips = dataclasses.replace(
    facts.video, pixels=dataclasses.replace(tiny, most=100 * tiny.most)
  )
  facts = dataclasses.replace(facts, pixels=tiny, video=clips)
  return dataclasses.replace(processor, facts=facts)


def batch_of(config, samples, transform, extra=0):
  """Left-padded prompts with just enough room, and `extra` tokens."""
  seen = [videos.frames_of(one) for one in samples]
  clips = videos.spec_of(seen, registry.build(config, RUNTIME, (transform,)))
  left = [
    len(one['tokens']) - clips.lost_of(videos.sizes(frames))
    for one, frames in zip(samples, seen)
  ]
  size = lambda key: max(len(s[key]) for s in samples if key in s)
  spec = by_frames(processor_of(config)).row(
    size('pixels'),
    seq_len=max(left) + clips.lost + extra,
    visual=max(len(s['plan']['grid']) for s in samples if 'plan' in s),
    placeholders=tuple({config.image_token, config.video_token}),
    clips=clips,
  )
  return jax.tree.map(jnp.asarray, left_padded(samples, spec))


@functools.cache
def case(name):
  """A model with FlashVID, its parameters, and three rows."""
  config = MODELS[name]
  transform = VideoReduction(SETTINGS)
  model = registry.build(config, RUNTIME, (transform,))
  params = jax.jit(model.init)(jax.random.key(1))
  samples = [
    sample_of(config, [picture(40, 50), clip(6), clip(4, seed=5)], seed=1),
    sample_of(config, [clip(8, seed=2)], seed=2),
    sample_of(config, [], seed=3),
  ]
  return config, model, params, samples, transform


def by_hand(config, params, sample):
  """One row's inputs, shortened in numpy from what its parts compute."""
  plain = registry.build(config, RUNTIME)
  transform = VideoReduction(SETTINGS)
  batch = batch_of(config, [sample], transform)
  encode = jax.jit(
    lambda p, b: plain.encode_visual(p, b['pixels'], b['plan'], True)
  )
  visual = encode(params, batch)
  tokens = np.array(visual.tokens[0])
  kept = np.ones(len(tokens), bool)
  for video in np.asarray(batch['plan']['frames'][0]):
    there = video[video[:, 0] >= 0]
    there = there[:, there[0] >= 0]
    of = lambda values, at=there: jnp.asarray(np.array(values[0]))[at][None]
    out = REDUCE(of(visual.tokens), of(visual.received_attention))
    kept[there.ravel()] = False
    places = there.ravel()[np.asarray(out.index[0])[np.asarray(out.valid[0])]]
    kept[places] = True
    tokens[places] = np.asarray(out.tokens[0])[np.asarray(out.valid[0])]
  x = plain.embed(
    params, batch['tokens'], visual._replace(tokens=jnp.asarray(tokens)[None])
  )
  return plain, batch, x, visual, kept


@pytest.mark.parametrize('name', MODELS)
def test_a_row_is_what_its_parts_give(name):
  config, model, params, samples, transform = case(name)
  batch = batch_of(config, samples, transform)
  got = jax.jit(model.inputs)(params, batch)
  for row, one in enumerate(samples[:2]):
    plain, alone, x, visual, kept = by_hand(config, params, one)
    slot = np.isin(alone['tokens'][0], (IMAGE, VIDEO))
    stay = np.ones(len(slot), bool)
    stay[slot] = kept[: slot.sum()]
    real = np.asarray(got.segment_ids[row]) > 0
    want = np.asarray(x[0])[stay][-real.sum() :]
    np.testing.assert_allclose(got.x[row][real], want, atol=1e-5)
    if 'positions' in one:
      want = one['positions'][stay[-len(one['positions']) :]]
      np.testing.assert_array_equal(got.positions[row][real], want)
    else:
      want = np.arange(real.sum())
      np.testing.assert_array_equal(got.positions[row][real], want)
    found = videos.sizes(one['plan']['frames'])
    dropped = sum(transform.room(*s) - s[0] * s[1] for s in found)
    assert real.sum() == len(one['tokens']) + dropped < len(slot)
  text = np.asarray(got.segment_ids[2]) > 0
  assert text.sum() == len(samples[2]['tokens'])


def masked_logits(model, params, inputs, cut, stay):
  """Logits where later layers do not see what was pruned, nothing cut off."""
  decoder = model._decoder(params)
  rope = decoder._rope(inputs.positions, inputs.segment_ids, None)
  depth, ids = model.decoder_config.depth, inputs.segment_ids
  deep = inputs.deepstack
  x, _ = decoder._run(inputs.x, rope, ids, None, deep, (0, cut))
  # Another segment sees and is seen by nobody else.
  ids = jnp.where(stay, ids, 2)
  x, _ = decoder._run(x, rope, ids, None, deep, (cut, depth))
  return model.logits(params, decoder.norm(x))


@pytest.mark.parametrize('name', ['llava_video', 'qwen3_vl'])
def test_prefill_and_decode_see_what_was_left(name):
  config, model, params, samples, transform = case(name)
  batch = batch_of(config, samples, transform)
  settings = Sampling(6, (0,), temperature=0)
  buckets = Buckets(prompt=(batch['tokens'].shape[1],), new=(8,))
  out = sample(model, params, batch, settings, buckets=buckets)

  inputs = jax.jit(model.inputs)(params, batch)
  weights = jax.jit(model.attention_of)(params, batch)[model.prune.layer - 1]
  slots = np.asarray(inputs.prunable.slots)
  stay = np.ones(slots.shape, bool)
  for row, may in enumerate(slots):
    order = np.flatnonzero(may)
    count = int(np.ceil(len(order) * model.prune.share))
    score = np.asarray(weights[row]).mean(axis=0)[order]
    stay[row, order] = False
    stay[row, order[np.argsort(-score, kind='stable')[:count]]] = True
  assert (~stay).sum() > 5
  said = jnp.asarray(out.tokens[:, 0, :-1])
  inputs = continued(model, params, inputs, said)
  stay = np.pad(stay, ((0, 0), (0, said.shape[1])), constant_values=True)
  logits = jax.jit(functools.partial(masked_logits, model), static_argnums=2)(
    params, inputs, model.prune.layer, stay
  )
  logits = logits[:, -said.shape[1] - 1 :].at[..., [IMAGE, VIDEO]].set(-1e9)
  want = np.asarray(jax.nn.log_softmax(logits)[..., :].argmax(-1))
  for row in range(3):
    length = out.lengths[row, 0]
    np.testing.assert_array_equal(
      out.tokens[row, 0, :length], want[row, :length]
    )


def continued(model, params, inputs, said):
  """The inputs with tokens behind them, as a sample would stand there."""
  x = model.embed(params, said)
  positions = inputs.positions
  last = positions.reshape(len(x), -1).max(axis=1)
  more = last[:, None] + 1 + jnp.arange(said.shape[1])
  if positions.ndim == 3:
    more = jnp.repeat(more[..., None], 3, axis=-1)
  join = lambda a, b, axis=1: jnp.concatenate([a, b], axis=axis)
  deepstack = inputs.deepstack
  if deepstack is not None:
    zeros = jnp.zeros((len(deepstack), *x.shape))
    deepstack = join(deepstack, zeros, 2)
  return inputs._replace(
    x=join(inputs.x, x),
    positions=join(positions, more),
    segment_ids=join(inputs.segment_ids, jnp.ones_like(said)),
    deepstack=deepstack,
  )


@pytest.mark.parametrize('name', ['internvl3', 'qwen2_5_vl'])
def test_rows_do_not_depend_on_their_batch(name):
  config, model, params, samples, transform = case(name)
  run = jax.jit(lambda p, b: model.fill(p, model.inputs(p, b))[0][:, -1])
  together = run(params, batch_of(config, samples, transform, extra=5))
  alone = run(params, batch_of(config, samples[:1], transform))
  np.testing.assert_allclose(together[0], alone[0], atol=2e-5)
  plain = registry.build(config, RUNTIME)
  tokens = samples[2]['tokens'][None]
  text = {
    'tokens': jnp.asarray(tokens),
    'positions': jnp.arange(tokens.size)[None],
    'segment_ids': jnp.ones_like(tokens),
  }
  if config.decoder.mrope_section:
    text['positions'] = jnp.repeat(text['positions'][..., None], 3, -1)
  np.testing.assert_allclose(
    together[2], plain.hidden(params, text)[0, -1], atol=2e-5
  )


def test_eight_devices_leave_what_one_does():
  config, model, params, samples, transform = case('qwen2_5_vl')
  batch = batch_of(config, [*samples, samples[1]], transform)
  run = jax.jit(lambda p, b: model.fill(p, model.inputs(p, b)))
  want, cache = run(params, batch)
  mesh = make_mesh(dict(data=2, fsdp=2, tensor=2))
  placed = jax.device_put(params, rules.shardings(mesh, model.abstract_params))
  with jax.set_mesh(mesh):
    got, sharded = run(placed, to_global(batch, mesh))
  real = np.asarray(cache['late']['segment_ids']) > 0
  np.testing.assert_array_equal(sharded['late']['segment_ids'] > 0, real)
  got, want = jax.device_get((got, want))
  np.testing.assert_allclose(got[real], want[real], atol=2e-5)


def test_everything_kept_is_bit_identical():
  config = MODELS['qwen3_vl']
  transform = VideoReduction(FlashVID(1.0))
  model = registry.build(config, RUNTIME, (transform,))
  plain = registry.build(config, RUNTIME)
  params = model.init(jax.random.key(0))
  samples = [sample_of(config, [clip(4)]), sample_of(config, [clip(6)])]
  batch = batch_of(config, samples, transform)
  # Compiled, sums could be taken in another order.
  got, want = (m.hidden(params, batch) for m in (model, plain))
  real = batch['segment_ids'] > 0
  np.testing.assert_array_equal(np.array(got)[real], np.array(want)[real])


def test_gradients_reach_pixels_through_merged_tokens():
  config = MODELS['llava_onevision']
  transform = VideoReduction(SETTINGS)
  model = registry.build(config, RUNTIME, (transform,))
  params = model.init(jax.random.key(0))
  batch = batch_of(config, [sample_of(config, [clip(4)])], transform)
  pixels = jnp.asarray(batch['pixels'], jnp.float32) / 255

  def loss(pixels):
    return jnp.square(model.hidden(params, batch | {'pixels': pixels})).sum()

  gradient = jax.jit(jax.grad(loss))(pixels)
  assert np.isfinite(gradient).all()
  # Every frame has its share, also where all that is left of it was merged.
  assert (np.abs(gradient).sum(axis=(0, 2, 3, 4)) > 0).all()


def test_frames_of_gathers_and_pads():
  values = jnp.arange(1.0, 7)[None]
  frames = jnp.array([[[[4, 5], [0, -1]]]])
  got = frames_of(values, frames)
  np.testing.assert_array_equal(got, [[[5, 6], [1, 0]]])


def test_room_of_a_row():
  spec = VideoSpec(2, 4, 10, VideoReduction(FlashVID(0.5)))
  # ceil(10 * 0.5 * 1.25) = 7 of 10 tokens of each frame stay.
  assert spec.lost == 2 * 4 * 3
  one = np.arange(30).reshape(1, 3, 10)
  assert spec.lost_of(videos.sizes(one)) == 9
  # Of the 56 that enter, a quarter stays behind the prune.
  pruned = dataclasses.replace(spec, prune=Prune(1, 0.25))
  assert pruned.lost == 80 - 14
