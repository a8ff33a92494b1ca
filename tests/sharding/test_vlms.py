"""InternVL3 and Pixtral over 8 devices: the numbers of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm.models import (
  internvit,
  internvl3,
  ntk,
  patches,
  pixtral,
  pixtral_vision,
  plan,
  registry,
  tiles,
)
from vlm.models.functional import Runtime
from vlm.models.qwen2 import Qwen2Config
from vlm.sharding import rules
from vlm.sharding.batch import to_global
from vlm.sharding.mesh import make_mesh

ROWS, LENGTH, IMAGE = 4, 20, 7
# A vocabulary that two tensor shards do not divide, and positions beyond the
# trained length.
DECODER = Qwen2Config(
  vocab_size=33, width=16, depth=2, heads=4, kv_heads=2, head_dim=4,
  mlp_width=32, tied_head=False, rope_scaling=ntk.DynamicNTK(2.0, 8),
)  # fmt: skip
SIZES = dict(width=16, depth=2, heads=2, mlp_width=32)
MODELS = {
  'internvl3': internvl3.InternVL3Config(
    internvit.InternVitConfig(image_size=56, qk_norm=True, **SIZES),
    DECODER,
    image_token=IMAGE,
  ),
  'pixtral': pixtral.PixtralConfig(
    pixtral_vision.PixtralVisionConfig(patch=4, **SIZES),
    DECODER,
    image_token=IMAGE,
  ),
}


def internvl3_visual(rng):
  """One tile per row, two in the last: two by two tokens each."""
  visuals = [[tiles.Canvas(1, 1)]] * (ROWS - 1) + [[plan.Clip(2)]]
  planned = [tiles.plan_tiles(2, row) for row in visuals]
  layout = plan.Layout(tile=56, side=2, resolutions=())
  return {
    'pixels': rng.integers(0, 256, (ROWS, 2, 56, 56, 3), np.uint8),
    'plan': plan.pack_plans(planned, layout, 2, 8, 1),
  }


def pixtral_visual(rng):
  """One image per row, two in the last."""
  grids = [[(1, 2, 2)]] * (ROWS - 1) + [[(1, 1, 3), (1, 5, 1)]]
  planned = [patches.plan_patches(row, 10) for row in grids]
  valid = [np.arange(8) < len(plan['token']) for plan in planned]
  for found in planned:
    for key in ('token', 'grid'):
      spare = 8 - len(found[key])
      widths = ((0, spare), *[(0, 0)] * (found[key].ndim - 1))
      found[key] = np.pad(found[key], widths)
  stacked = {k: np.stack([p[k] for p in planned]) for k in planned[0]}
  del stacked['source']
  return {
    'pixels': rng.integers(0, 256, (ROWS, 10, 48), np.uint8),
    'plan': stacked | {'valid': np.stack(valid)},
  }


def batch_of(name):
  rng = np.random.default_rng(0)
  visual = (internvl3_visual if name == 'internvl3' else pixtral_visual)(rng)
  tokens = rng.integers(8, 33, (ROWS, LENGTH)).astype(np.int32)
  for row, valid in zip(tokens, visual['plan']['valid']):
    row[2 : 2 + valid.sum()] = IMAGE
  counted = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
  segments = np.ones_like(tokens)
  segments[0, 15:] = 0
  return visual | {
    'tokens': tokens, 'positions': counted, 'segment_ids': segments
  }  # fmt: skip


@pytest.mark.parametrize('name', MODELS)
def test_eight_devices_compute_what_one_does(name):
  model = registry.build(MODELS[name], Runtime(attention='xla'))
  params = model.init(jax.random.key(0))
  batch = batch_of(name)

  def loss(params, batch):
    logits = model.logits(params, model.hidden(params, batch))
    logprobs = jax.nn.log_softmax(logits)
    target = jnp.roll(batch['tokens'], -1, axis=1)[..., None]
    return -jnp.take_along_axis(logprobs, target, axis=-1).mean(), logits

  run = jax.jit(jax.value_and_grad(loss, has_aux=True))
  want = run(params, batch)
  mesh = make_mesh(dict(data=2, fsdp=2, tensor=2))
  placed = jax.device_put(params, rules.shardings(mesh, model.abstract_params))
  with jax.set_mesh(mesh):
    got = run(placed, to_global(batch, mesh))
  for (path, a), (_, b) in zip(rules.flatten(got), rules.flatten(want)):
    np.testing.assert_allclose(
      jax.device_get(a), jax.device_get(b), atol=2e-5, err_msg=path
    )
  assert np.abs(want[1]['vision']['patch']['kernel']).max() > 1e-3
