"""Forward pass of a SigLIP-so400m-shaped tower against transformers on torch.

    JAX_PLATFORMS=cpu PYTHONPATH=. python tests/benchmarks/siglip_forward.py

Both sides, in float32 on the same cores with the same random weights: two
normalised images of 384 x 384 to the normalised features of 729 patches,
without the pooling head. Torch runs in inference mode with sdpa attention.
"""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import side_by_side
import torch
import transformers
from absl import app, flags

ROUNDS = flags.DEFINE_integer('rounds', 10, 'Pairs of measurements.')
DEPTH = flags.DEFINE_integer('depth', 27, 'Layers; fewer for a quick look.')
IMAGES, PATCHES = 2, 729
SHAPE = dict(
  hidden_size=1152,
  intermediate_size=4304,
  num_attention_heads=16,
  image_size=384,
  patch_size=14,
  vision_use_head=False,
)


def main(argv):
  del argv
  theirs = side_by_side.published(
    transformers.SiglipVisionModel,
    transformers.SiglipVisionConfig(num_hidden_layers=DEPTH.value, **SHAPE),
  )
  model, params = side_by_side.ours(theirs)
  rng = np.random.default_rng(0)
  pixels = rng.uniform(-1, 1, (IMAGES, 384, 384, 3)).astype(np.float32)
  jax_pixels = jnp.asarray(pixels)
  torch_pixels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
  encode = jax.jit(lambda params, pixels: model.encode_image(params, pixels)[0])
  layers = sum(p.size for p in jax.tree.leaves(params['vision']['layers']))
  attention = DEPTH.value * IMAGES * SHAPE['hidden_size'] * 4 * PATCHES**2
  side_by_side.compare(
    lambda: encode(params, jax_pixels),
    lambda: theirs(torch_pixels).last_hidden_state,
    ROUNDS.value,
    2 * IMAGES * PATCHES * layers + attention,
  )


if __name__ == '__main__':
  logging.disable(logging.INFO)
  app.run(main)
