"""DINOv2 against the published torch classes, on square and other grids."""

import dataclasses

import jax
import numpy as np
import pytest

from vlm.models import registry
from vlm.models.dinov2 import resize_matrix

pytestmark = pytest.mark.parity

SHAPE = dict(
  hidden_size=32, num_hidden_layers=3, num_attention_heads=4, image_size=70,
  patch_size=14, mlp_ratio=2,
)  # fmt: skip
# As learned; larger, not square, with a border; smaller in one direction.
SIZES = ((70, 70), (100, 84), (42, 140))


@pytest.mark.parametrize('gated', [False, True], ids=['gelu', 'swiglu'])
@pytest.mark.parametrize('registers', [0, 3])
def test_every_block_and_the_features(
  torch, randomise, through_disk, truncate, close, gated, registers
):
  import transformers

  facts = SHAPE | dict(use_swiglu_ffn=gated, attn_implementation='eager')
  if registers:
    config = transformers.Dinov2WithRegistersConfig(
      num_register_tokens=registers, **facts
    )
    published = transformers.Dinov2WithRegistersModel(config)
  else:
    published = transformers.Dinov2Model(transformers.Dinov2Config(**facts))
  randomise(published)
  model, params = through_disk(published)

  @jax.jit
  def run(params, pixels):
    found = []
    for depth in (1, 2):
      part = dataclasses.replace(model.config, depth=depth)
      part = registry.build(part, model.runtime)
      cut = truncate(params, 'vision', depth)
      found.append(part.encode_image(cut, pixels))
    return *found, model.encode_image(params, pixels)

  for height, width in SIZES:
    pixels = np.random.default_rng(height).normal(size=(2, height, width, 3))
    pixels = pixels.astype(np.float32)
    want = published(
      torch.from_numpy(pixels).permute(0, 3, 1, 2), output_hidden_states=True
    )
    for depth, ours in enumerate(run(params, pixels), 1):
      theirs = published.layernorm(want.hidden_states[depth])
      name = f'{height} x {width}, layer {depth}'
      close(f'{name}, class', ours.pooled, theirs[:, 0])
      assert ours.registers.shape == (2, registers, 32)
      if registers:
        theirs_registers = theirs[:, 1 : 1 + registers]
        close(f'{name}, registers', ours.registers, theirs_registers)
      grid = (2, height // 14, width // 14, -1)
      close(
        f'{name}, patches',
        ours.patches,
        theirs[:, 1 + registers :].reshape(grid),
      )


@pytest.mark.parametrize('antialias', [False, True])
@pytest.mark.parametrize('wanted', [3, 7, 8, 20])
def test_resizing_is_that_of_torch(torch, antialias, wanted):
  table = torch.randn(1, 2, 7, 7, generator=torch.Generator().manual_seed(0))
  want = torch.nn.functional.interpolate(
    table,
    size=(wanted, wanted),
    mode='bicubic',
    align_corners=False,
    antialias=antialias,
  )
  matrix = resize_matrix(7, wanted, antialias)
  got = np.einsum('hi,wj,bcij->bchw', matrix, matrix, table.numpy())
  np.testing.assert_allclose(got, want, atol=1e-5)
