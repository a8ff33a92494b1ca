"""Prefill of a LLaVA-OneVision-0.5B with and without FlashVID, side by side.

    export JAX_PLATFORMS=cpu PYTHONPATH=.
    python tests/benchmarks/flashvid_prefill.py

32 frames of 196 tokens and 64 tokens of text, random weights, float32. Timed is
what follows the vision tower: compression, the decoder over the prompt with its
prune, the filled cache. Memory is what the compiler plans: arguments without
the parameters, temporaries and outputs.
"""

import logging
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from vlm.methods.flashvid import FlashVID
from vlm.methods.flashvid.transform import VideoReduction
from vlm.models.functional import Runtime
from vlm.models.llava_onevision import LlavaOnevision, published
from vlm.models.visual import VisualTokens, frames_of

ROUNDS = flags.DEFINE_integer('rounds', 3, 'Times that each side runs.')
RETENTIONS = (1.0, 0.25, 0.1)
FRAMES, TOKENS, TEXT = 32, 196, 64


class Given(LlavaOnevision):
  """A model whose tower has already run: pixels are its visual tokens."""

  def encode_visual(self, params, pixels, plan, with_received=False):
    received = plan['received'] if with_received else None
    return VisualTokens(pixels, plan['valid'], plan['grid'], received)


def model_of(retention: float) -> Given:
  """The model with FlashVID at a retention; at 1 the plain one."""
  transforms = ()
  if retention < 1:
    transforms = (VideoReduction(FlashVID(retention)),)
  return Given(published('0.5b'), Runtime(attention='xla'), transforms)


def batch_of(width: int) -> dict:
  """A drifting clip with a cut every nine frames, then text."""
  rng = np.random.default_rng(0)
  scene, clip = None, []
  for number in range(FRAMES):
    new = rng.normal(size=(TOKENS, width))
    scene = new if number % 9 == 0 else scene + 0.3 * new
    clip.append(scene)
  count = FRAMES * TOKENS
  tokens = np.concatenate([np.full(count, 151647), rng.integers(9, 999, TEXT)])
  place = np.arange(count)
  plan = {
    'valid': np.ones((1, count), bool),
    'grid': np.stack([place // TOKENS, place % TOKENS, 0 * place], -1)[None],
    'received': rng.uniform(size=(1, count)).astype(np.float32),
    'frames': place.reshape(1, 1, FRAMES, TOKENS),
    'prunable': np.ones((1, count), bool),
  }
  batch = {
    'tokens': tokens[None],
    'positions': np.arange(len(tokens))[None],
    'segment_ids': np.ones((1, len(tokens)), int),
    'pixels': np.concatenate(clip)[None].astype(np.float32),
    'plan': plan,
  }
  return jax.tree.map(jnp.asarray, batch)


def compiled(model: Given, params, batch):
  """The prefill, and the bytes that it plans for."""
  run = lambda params, batch: model.fill(params, model.inputs(params, batch))
  program = jax.jit(run).lower(params, batch).compile()
  memory = program.memory_analysis()
  held = sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
  planned = memory.temp_size_in_bytes + memory.output_size_in_bytes
  return lambda: program(params, batch), held + planned


def compression(batch, retention: float):
  """The compression alone."""
  settings = FlashVID(retention)
  frames = batch['plan']['frames']
  features = frames_of(batch['pixels'], frames)
  attention = frames_of(batch['plan']['received'], frames)
  reduce = jax.jit(settings.reduce)
  return lambda: reduce(features, attention)


def timed(run) -> float:
  """Seconds of the wall clock."""
  began = time.perf_counter()
  jax.block_until_ready(run())
  return time.perf_counter() - began


def main(argv):
  del argv
  models = {retention: model_of(retention) for retention in RETENTIONS}
  params = jax.jit(models[1.0].init)(jax.random.key(0))
  batch = batch_of(models[1.0].decoder_config.width)
  runs, memory = {}, {}
  for retention, model in models.items():
    runs[retention], memory[retention] = compiled(model, params, batch)
    if retention < 1:
      runs['compression', retention] = compression(batch, retention)
  for run in runs.values():
    timed(run)
  times = {key: [] for key in runs}
  for _ in range(ROUNDS.value):
    for key, run in runs.items():
      times[key].append(timed(run))
  full = statistics.median(times[1.0])
  for retention, model in models.items():
    seconds = statistics.median(times[retention])
    early, late = model.lengths(batch)
    line = (
      f'R = {retention}: {early:,} tokens in the first layers, {late:,} in the '
      f'last; prefill {seconds:.2f} s, {full / seconds:.2f} times faster than '
      f'full; {memory[retention] / 2**30:.2f} GiB'
    )
    if retention < 1:
      alone = statistics.median(times['compression', retention])
      line += f'; compression {alone:.3f} s, {alone / seconds:.1%} of it'
    print(line)


if __name__ == '__main__':
  logging.disable(logging.INFO)
  app.run(main)
