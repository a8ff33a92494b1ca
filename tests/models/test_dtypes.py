"""bfloat16 stays bfloat16 from pixels to hidden states; logits are float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.models import (
  clip,
  internvit,
  internvl3,
  llava_onevision,
  ntk,
  patches,
  pixtral,
  pixtral_vision,
  plan,
  qwen2,
  qwen3_vision,
  qwen3_vl,
  registry,
  siglip,
)
from vlm.models.functional import Runtime

DECODER = qwen2.Qwen2Config(
  vocab_size=64,
  width=32,
  depth=2,
  heads=4,
  kv_heads=2,
  head_dim=8,
  mlp_width=48,
)
VISION = siglip.SiglipVisionConfig(
  image_size=28, patch=14, width=16, depth=2, heads=2, mlp_width=24
)
VLM = llava_onevision.LlavaOnevisionConfig(
  VISION, DECODER, image_token=62, video_token=63, grid_pinpoints=((28, 28),)
)
QWEN3_VL = qwen3_vl.Qwen3VLConfig(
  qwen3_vision.Qwen3VisionConfig(
    width=16, depth=2, heads=2, mlp_width=24, out_width=32, patch=4,
    position_side=3, deepstack_blocks=(0, 1),
  ),
  dataclasses.replace(
    DECODER, qk_norm=True, mrope_section=(2, 1, 1), mrope_interleaved=True
  ),
  image_token=62,
  video_token=63,
)  # fmt: skip
CLIP = clip.ClipConfig(
  clip.ClipVisionConfig(28, 14, 16, 2, 2, 24),
  clip.ClipTextConfig(32, 8, 16, 2, 2, 24, eos_token=31),
  8,
)
ids = jax.ShapeDtypeStruct((2, 12), jnp.int32)


@pytest.fixture(params=['float32', 'bfloat16'])
def runtime(request):
  return Runtime(dtype='bfloat16', param_dtype=request.param, attention='xla')


def test_vlm(runtime):
  model = registry.build(VLM, runtime)
  stored = {leaf.dtype for leaf in jax.tree.leaves(model.abstract_params)}
  assert stored == {jnp.dtype(runtime.param_dtype)}
  row = plan.plan_row(VLM.layout, [plan.Clip(3)])
  packed = plan.pack_plans([row, row], VLM.layout, 3, 8, 4)
  batch = {
    'tokens': ids,
    'positions': ids,
    'segment_ids': ids,
    'pixels': jax.ShapeDtypeStruct((2, 3, 28, 28, 3), jnp.uint8),
    'plan': packed,
  }
  visual = jax.eval_shape(
    model.encode_visual, model.abstract_params, batch['pixels'], packed
  )
  assert visual.tokens.dtype == jnp.bfloat16
  hidden = jax.eval_shape(model.hidden, model.abstract_params, batch)
  assert hidden.dtype == jnp.bfloat16
  logits = jax.eval_shape(model.logits, model.abstract_params, hidden)
  assert logits.dtype == jnp.float32 and logits.shape == (2, 12, 64)
  cache = jax.eval_shape(lambda: model.init_cache(2, 20))
  _, cache = jax.eval_shape(
    model.decode, model.abstract_params, hidden, ids, ids, cache
  )
  assert cache['k'].dtype == jnp.bfloat16 and cache['k'].shape[2] == 20


def test_deepstack(runtime):
  model = registry.build(QWEN3_VL, runtime)
  planned = patches.plan_patches([(1, 4, 4)], QWEN3_VL.vision.layout, 20)
  packed = {name: np.stack([value] * 2) for name, value in planned.items()}
  batch = {
    'tokens': ids,
    'positions': jax.ShapeDtypeStruct((2, 12, 3), jnp.int32),
    'segment_ids': ids,
    'pixels': jax.ShapeDtypeStruct((2, 20, 96), jnp.uint8),
    'plan': packed | {'valid': np.ones((2, 4), bool)},
  }
  visual = jax.eval_shape(
    model.encode_visual, model.abstract_params, batch['pixels'], batch['plan']
  )
  assert visual.tokens.dtype == visual.deepstack.dtype == jnp.bfloat16
  assert visual.deepstack.shape == (2, 2, 4, 32)
  hidden = jax.eval_shape(model.hidden, model.abstract_params, batch)
  assert hidden.dtype == jnp.bfloat16


def stacked(plan, rows=2):
  valid = np.ones(len(plan['grid']), bool)
  return {k: np.stack([v] * rows) for k, v in (plan | {'valid': valid}).items()}


TILES = {
  'index': np.arange(4, dtype=np.int32)[:, None],
  'weight': np.ones((4, 1), np.float32),
  'grid': np.zeros((4, 3), np.int32),
}
SIZES = dict(width=16, depth=2, heads=2, mlp_width=24)
# Longer than it was trained: the scaled angles are computed, too.
LONG = dataclasses.replace(DECODER, rope_scaling=ntk.DynamicNTK(2.0, 8))


@pytest.mark.parametrize(
  'config,pixels,plan',
  [
    (
      internvl3.InternVL3Config(
        internvit.InternVitConfig(image_size=56, qk_norm=True, **SIZES),
        LONG,
        image_token=62,
      ),
      (2, 1, 56, 56, 3),
      stacked(TILES),
    ),
    (
      pixtral.PixtralConfig(
        pixtral_vision.PixtralVisionConfig(**SIZES), DECODER, image_token=62
      ),
      (2, 6, 768),
      stacked(
        patches.plan_patches(
          [(1, 2, 2)], patches.PatchLayout(merge=1, side=0), 6
        )
      ),
    ),
  ],
  ids=['internvl3', 'pixtral'],
)
def test_other_vlms(runtime, config, pixels, plan):
  model = registry.build(config, runtime)
  stored = {leaf.dtype for leaf in jax.tree.leaves(model.abstract_params)}
  assert stored == {jnp.dtype(runtime.param_dtype)}
  batch = {
    'tokens': ids,
    'positions': ids,
    'segment_ids': ids,
    'pixels': jax.ShapeDtypeStruct(pixels, jnp.uint8),
    'plan': plan,
  }
  visual = jax.eval_shape(
    model.encode_visual, model.abstract_params, batch['pixels'], plan
  )
  assert visual.tokens.dtype == jnp.bfloat16 and visual.tokens.shape[1] == 4
  hidden = jax.eval_shape(model.hidden, model.abstract_params, batch)
  assert hidden.dtype == jnp.bfloat16


def test_towers(runtime):
  pixels = jax.ShapeDtypeStruct((2, 28, 28, 3), jnp.uint8)
  model = registry.build(VISION, runtime)
  out = jax.eval_shape(model.encode_image, model.abstract_params, pixels)
  model = registry.build(CLIP, runtime)
  image = jax.eval_shape(model.encode_image, model.abstract_params, pixels)
  text = jax.eval_shape(
    model.encode_text,
    model.abstract_params,
    jax.ShapeDtypeStruct((2, 8), jnp.int32),
  )
  assert {x.dtype for x in (*out, *image, *text)} == {jnp.dtype('bfloat16')}
  logits = jax.eval_shape(
    model.logits, model.abstract_params, image.embedding, text.embedding
  )
  assert logits.dtype == jnp.float32
