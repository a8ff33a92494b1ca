"""InternVL3, Pixtral and Qwen2.5-VL over 8 devices: the numbers of one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from data import assemble, pack
from data.processors.registry import processor_of
from vlm.models import (
  internvit,
  internvl3,
  ntk,
  pixtral,
  pixtral_vision,
  qwen2_5_vision,
  qwen2_5_vl,
  registry,
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
  'qwen2_5_vl': qwen2_5_vl.Qwen25VLConfig(
    qwen2_5_vision.Qwen25VisionConfig(
      out_width=16, window=56, full_blocks=(1,), **SIZES
    ),
    dataclasses.replace(
      DECODER, head_dim=8, mrope_section=(2, 1, 1), rope_scaling=None
    ),
    image_token=IMAGE,
    video_token=8,
  ),
}


def batch_of(config):
  """An image per row, two in the last; padding in the first."""
  rng = np.random.default_rng(0)
  processor = processor_of(config)
  draw = lambda: Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
  rows = []
  for number in range(ROWS):
    shown = processor.prepare([draw() for _ in range(1 + (number == 3))])
    count = sum(sum(e.counts) for e in shown.expansions)
    tokens = rng.integers(9, 33, LENGTH - 5 * (number == 0)).astype(np.int32)
    tokens[2 : 2 + count] = IMAGE
    sample = {'tokens': tokens, 'loss_mask': np.ones(len(tokens), np.float32)}
    rows.append(sample | {'pixels': shown.pixels, 'plan': shown.plan})
  units = len(rows[-1]['pixels'])
  spec = processor.row(units, seq_len=LENGTH, visual=10, placeholders=(IMAGE,))
  return assemble.collate([pack.pad_sample(row, spec) for row in rows], ROWS)


@pytest.mark.parametrize('name', MODELS)
def test_eight_devices_compute_what_one_does(name):
  model = registry.build(MODELS[name], Runtime(attention='xla'))
  params = model.init(jax.random.key(0))
  batch = batch_of(MODELS[name])

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
