"""Analytic FLOPs against hand counts and against XLA on unrolled models."""

import functools

import jax
import jax.numpy as jnp
import pytest

from vlm.methods.mask import encoder
from vlm.models import (
  clip,
  flops,
  internvit,
  internvl3,
  llava_onevision,
  pixtral,
  pixtral_vision,
  qwen2,
  qwen2_5_vision,
  qwen2_5_vl,
  qwen3_vision,
  qwen3_vl,
  registry,
  siglip,
)
from vlm.models.functional import Runtime

DECODER = qwen2.Qwen2Config(
  vocab_size=512,
  width=128,
  depth=3,
  heads=4,
  kv_heads=2,
  head_dim=32,
  mlp_width=384,
  tied_head=False,
)
VISION = siglip.SiglipVisionConfig(
  image_size=56, patch=14, width=128, depth=2, heads=4, mlp_width=256
)
CONFIG = llava_onevision.LlavaOnevisionConfig(
  vision=VISION, decoder=DECODER, image_token=7, video_token=8
)
INTERNVL3 = internvl3.InternVL3Config(
  vision=internvit.InternVitConfig(
    image_size=56, width=128, depth=2, heads=4, mlp_width=256
  ),
  decoder=DECODER,
  image_token=7,
)
PIXTRAL = pixtral.PixtralConfig(
  vision=pixtral_vision.PixtralVisionConfig(
    width=128, depth=2, heads=4, mlp_width=256, patch=8
  ),
  decoder=DECODER,
  image_token=7,
)


def slots(rows=2, length=64, patches=48, tokens=40, frames=1):
  """Shapes of a batch of patches."""
  struct = jax.ShapeDtypeStruct
  return batch(rows, length) | {
    'pixels': struct((rows, patches, frames * 3 * 8 * 8), jnp.float32),
    'plan': {
      'position': struct((rows, patches, 2), jnp.int32),
      'frame': struct((rows, patches), jnp.int32),
      'token': struct((rows, tokens), jnp.int32),
      'valid': struct((rows, tokens), jnp.bool_),
      'grid': struct((rows, tokens, 3), jnp.int32),
    },
  }


QWEN25_VL = qwen2_5_vl.Qwen25VLConfig(
  vision=qwen2_5_vision.Qwen25VisionConfig(
    width=128, depth=3, heads=4, mlp_width=256, out_width=128, patch=8,
    window=64, full_blocks=(1,),
  ),
  decoder=DECODER, image_token=7, video_token=8,
)  # fmt: skip
QWEN3_VL = qwen3_vl.Qwen3VLConfig(
  vision=qwen3_vision.Qwen3VisionConfig(
    width=128, depth=3, heads=4, mlp_width=256, out_width=128, patch=8,
    position_side=6, deepstack_blocks=(0, 1),
  ),
  decoder=DECODER, image_token=7, video_token=8,
)  # fmt: skip


def patch_batch(rows=2, length=64, slots=96):
  struct = jax.ShapeDtypeStruct
  ints = lambda *shape: struct((rows, *shape), jnp.int32)
  return {
    'tokens': ints(length),
    'positions': ints(length),
    'segment_ids': ints(length),
    'pixels': struct((rows, slots, 384), jnp.float32),
    'plan': {
      'position': ints(slots, 2),
      'frame': ints(slots),
      'taps': ints(slots, 4),
      'tap_weight': struct((rows, slots, 4), jnp.float32),
      'token': ints(16),
      'grid': ints(16, 3),
      'valid': struct((rows, 16), jnp.bool_),
    },
  }


def batch(rows=2, length=64, tiles=2):
  struct = jax.ShapeDtypeStruct
  ids = struct((rows, length), jnp.int32)
  taps = struct((rows, 16, 1), jnp.float32)
  return {
    'tokens': ids,
    'positions': ids,
    'segment_ids': ids,
    'pixels': struct((rows, tiles, 56, 56, 3), jnp.float32),
    'plan': {
      'index': struct((rows, 16, 1), jnp.int32),
      'weight': taps,
      'valid': struct((rows, 16), jnp.bool_),
      'grid': struct((rows, 16, 3), jnp.int32),
    },
  }


@pytest.fixture
def unrolled(monkeypatch):
  """Scans become straight lines, which `cost_analysis` can count."""
  scan = jax.lax.scan
  monkeypatch.setattr(
    jax.lax, 'scan', lambda *args, **kw: scan(*args, **kw | {'unroll': True})
  )


def test_decoder_by_hand():
  text = {'tokens': jax.ShapeDtypeStruct((1, 3), jnp.int32)}
  config = qwen2.Qwen2Config(
    vocab_size=10,
    width=4,
    depth=2,
    heads=2,
    kv_heads=1,
    head_dim=2,
    mlp_width=8,
  )
  # q, o: 4x4 each; k, v: 4x2 each; gate, up, down: 4x8 each.
  weights = 2 * 16 + 2 * 8 + 3 * 32
  # Three queries see 1 + 2 + 3 keys, in 2 heads of 2, scores and sums.
  attention = 2 * 2 * (1 + 2 + 3) * 4
  expected = 2 * (2 * 3 * weights + attention) + 2 * 3 * 4 * 10
  assert flops.forward_flops(config, text) == expected
  assert flops.train_flops(config, text) == 3 * expected


def test_towers_by_hand():
  """Two tiles of 16 patches and a class token; eight merged tokens."""
  embed, layer, projector = flops.blocks(INTERNVL3, batch(rows=1))[:3]
  assert embed.forward == 2 * 2 * 16 * (3 * 14 * 14) * 128
  assert layer.count == 2
  assert layer.products == 2 * 2 * 17 * (4 * 128**2 + 2 * 128 * 256)
  assert layer.attention == 2 * 4 * 17 * 17 * 128
  assert projector.forward == 2 * 8 * (4 * 128 * 128 + 128 * 128)
  embed, layer, projector = flops.blocks(PIXTRAL, slots(rows=1))[:3]
  assert embed.forward == 2 * 48 * (3 * 8 * 8) * 128
  assert layer.products == 2 * 48 * (4 * 128**2 + 3 * 128 * 256)
  assert layer.attention == 4 * 48 * 48 * 128
  assert projector.forward == 2 * 40 * (2 * 128 * 128)


def test_recomputation_is_hardware_not_model():
  sizes = batch()
  model = flops.train_flops(CONFIG, sizes)
  head = 2 * 2 * 64 * 128 * 512
  layers = [
    b for b in flops.blocks(CONFIG, sizes) if b.part != 'head' and b.remat
  ]
  hardware = functools.partial(flops.hardware_flops, CONFIG, sizes)
  assert hardware(remat='none') == model + head
  assert hardware(remat='dots') == model + head + sum(
    b.count * b.attention for b in layers
  )
  assert hardware(remat='block') == model + head + sum(
    b.count * b.forward for b in layers
  )


def test_frozen_tower_has_no_backward_pass():
  sizes = batch()
  tower = sum(
    b.count * b.forward
    for b in flops.blocks(CONFIG, sizes)
    if b.part == 'vision'
  )
  whole = flops.train_flops(CONFIG, sizes)
  assert flops.train_flops(CONFIG, sizes, frozen=('vision',)) == (
    whole - 2 * tower
  )


@pytest.mark.parametrize(
  'config,sizes',
  [
    (CONFIG, batch()),
    (INTERNVL3, batch()),
    (PIXTRAL, slots()),
    (QWEN25_VL, slots(patches=128, tokens=20, frames=2)),
    (QWEN3_VL, patch_batch()),
  ],
  ids=['llava-onevision', 'internvl3', 'pixtral', 'qwen2.5-vl', 'qwen3-vl'],
)
def test_forward_agrees_with_xla(unrolled, config, sizes):
  model = registry.build(config, Runtime(attention='xla'))

  def forward(params, batch):
    return model.logits(params, model.hidden(params, batch))

  lowered = jax.jit(forward).lower(model.abstract_params, sizes)
  counted = lowered.compile().cost_analysis()['flops']
  analytic = flops.forward_flops(config, sizes, visible_only=False)
  # XLA also counts norms, softmax and rotary positions.
  assert analytic == pytest.approx(counted, rel=0.04)
  assert analytic < counted


def test_networks_of_regions_agree_with_xla(unrolled):
  config = encoder.EncoderConfig(64, 32, 24, heads=4)
  model = encoder.RegionEncoder(config, Runtime(attention='xla'))
  struct = jax.ShapeDtypeStruct
  regions, valid = struct((8, 12, 64), jnp.float32), struct((8, 12), jnp.bool_)

  def forward(params, regions, valid):
    mean, log_variance = model.encode(params, regions, valid)
    rebuilt = model.rebuild(params, mean, valid)
    return log_variance, rebuilt, model.to_words(params, mean, valid)

  lowered = jax.jit(forward).lower(model.abstract_params, regions, valid)
  counted = lowered.compile().cost_analysis()['flops']
  sizes = {'regions': regions, 'words': struct((8, 12), jnp.int32)}
  losses = 2 * 96**2 * (2 * 32 + 24)  # pairs with prototypes and each other
  analytic = flops.forward_flops(config, sizes) - losses
  assert analytic == pytest.approx(counted, rel=0.1)
  assert analytic < counted
  # The log variance is of training alone.
  alone = flops.forward_flops(config, {'regions': regions})
  assert alone == 2 * 96 * (64 * 32 + 3 * 4 * 32**2) + 3 * 4 * 96 * 12 * 32


def test_one_tower_is_counted_alone():
  config, struct = clip.ClipConfig(), jax.ShapeDtypeStruct
  pairs = {
    'pixels': struct((4, 224, 224, 3), jnp.uint8),
    'tokens': struct((4, 77), jnp.int32),
  }
  parts = {name: flops.blocks(config, {name: x}) for name, x in pairs.items()}
  assert parts['pixels'] + parts['tokens'] == flops.blocks(config, pairs)
  assert {block.part for block in parts['pixels']} == {'vision'}


def test_train_step_agrees_with_xla(unrolled):
  model = registry.build(CONFIG, Runtime(attention='xla'))

  def loss(params, batch):
    logits = model.logits(params, model.hidden(params, batch))
    return jax.nn.logsumexp(logits, axis=-1).sum()

  sizes = batch()
  lowered = jax.jit(jax.grad(loss)).lower(model.abstract_params, sizes)
  counted = lowered.compile().cost_analysis()['flops']
  analytic = flops.train_flops(CONFIG, sizes, visible_only=False)
  assert analytic == pytest.approx(counted, rel=0.05)


def test_bytes_shrink_with_shards_but_not_the_gathered_weights():
  count = functools.partial(
    flops.hbm_bytes, CONFIG, batch(rows=64, length=1024), remat='block'
  )
  one = count(batch_ways=1, tensor_ways=1, train=True)
  many = count(batch_ways=64, tensor_ways=1, train=True)
  weights = sum(b.count * b.weights for b in flops.blocks(CONFIG, batch()))
  assert many < one / 10
  assert many > 3 * 2 * 2 * weights
  assert count(batch_ways=1, tensor_ways=1, train=False) < one / 3


def test_the_head_counts_what_it_scores_and_the_tower_its_own_rows():
  """As in RL: three completions of each prompt, scored without the prompt."""
  rows, length, scored = 6, 64, 10
  shapes = batch(2) | {
    'tokens': jax.ShapeDtypeStruct((rows, length), jnp.int32),
    'scored': jax.ShapeDtypeStruct((rows, scored), jnp.int32),
  }
  found = {b.part: b for b in flops.blocks(CONFIG, shapes)}
  whole = {b.part: b for b in flops.blocks(CONFIG, batch(rows))}
  pair = {b.part: b for b in flops.blocks(CONFIG, batch(2))}
  assert found['head'].products * length == whole['head'].products * scored
  assert found['decoder'] == whole['decoder']
  assert found['vision'] == pair['vision']
