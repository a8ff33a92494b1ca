"""Small models and prompts that every test of the sampler uses."""

import jax
import numpy as np
import pytest

from vlm.models import llava_onevision, plan, qwen2, registry, siglip
from vlm.models.functional import Runtime

VOCAB, EOS, IMAGE = 64, 0, 59
DECODER = qwen2.Qwen2Config(
  vocab_size=VOCAB,
  width=32,
  depth=3,
  heads=4,
  kv_heads=2,
  head_dim=8,
  mlp_width=48,
  tied_head=False,
)
LENGTHS = (9, 4, 1, 7)


@pytest.fixture(scope='session')
def build():
  """(model, params) of a decoder or, with `sees`, of a whole VLM."""

  def make(sees: bool = False, **runtime):
    config = DECODER
    if sees:
      config = llava_onevision.LlavaOnevisionConfig(
        vision=siglip.SiglipVisionConfig(
          width=16, depth=1, heads=2, mlp_width=32, image_size=28, head=False
        ),
        decoder=DECODER,
        image_token=IMAGE,
        video_token=IMAGE + 1,
      )
    model = registry.build(config, Runtime(attention='xla', **runtime))
    params = model.init(jax.random.key(0))
    # Flat distributions would hide what a filter or a wrong cache does.
    return model, jax.tree.map(lambda leaf: 2.5 * leaf, params)

  return make


@pytest.fixture(scope='session')
def text_prompts():
  """Four prompts of different lengths, padded on the left."""
  rng = np.random.default_rng(3)
  tokens = np.zeros((len(LENGTHS), max(LENGTHS)), np.int32)
  segments = np.zeros_like(tokens)
  for row, length in enumerate(LENGTHS):
    tokens[row, -length:] = rng.integers(1, IMAGE, length)
    segments[row, -length:] = 1
  return {'tokens': tokens, 'segment_ids': segments}


@pytest.fixture(scope='session')
def image_prompts():
  """A row with one image, one with two, one with none."""
  rng = np.random.default_rng(4)
  layout = plan.Layout(tile=28, side=2, resolutions=())
  rows, tokens = [], []
  for count in (1, 2, 0):
    row = plan.plan_row(layout, [plan.Still(28, 28)] * count)
    rows.append(row)
    visual = [np.full(span, IMAGE) for span in row.spans]
    text = [rng.integers(1, 50, 3) for _ in range(count + 1)]
    tokens.append(
      np.concatenate([p for pair in zip(text, [*visual, []]) for p in pair])
    )
  length = max(map(len, tokens))
  left = lambda x: np.pad(x, (length - len(x), 0)).astype(np.int32)
  return {
    'tokens': np.stack([left(row) for row in tokens]),
    'segment_ids': np.stack([left(np.ones(len(row))) for row in tokens]),
    'pixels': rng.integers(0, 255, (3, 2, 28, 28, 3), np.uint8),
    'plan': plan.pack_plans(rows, layout, tiles=2, tokens=12, taps=1),
  }


@pytest.fixture(scope='session')
def take():
  """Rows of a batch of prompts."""
  return lambda prompts, rows: jax.tree.map(lambda x: x[rows], prompts)
