"""RALI's scorer against a VLM that writes a short completion, same cores.

    JAX_PLATFORMS=cpu PYTHONPATH=. python tests/benchmarks/rali_scorer.py

Both in float32 with random weights, from uint8 pixels to a number or to tokens,
8 images of 112 x 112 pixels at a time. The scorer is an image tower of a
quarter of ViT-L's width and depth with 250 prototypes; the teacher a small
Qwen2.5-VL shape that writes 32 tokens, made large on purpose: the ratio of
parameters is set, not found. Times are of what is compiled, images lie in
memory, the sides take turns. Nothing here is said of the published models.
"""

import dataclasses
import logging
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from data.assistant import Assistant, user_turn
from data.processors.registry import processor_of
from tests import tiny_checkpoint
from vlm.methods.rali import scorer
from vlm.models import clip, registry
from vlm.models.functional import Runtime
from vlm.rollout.sampler import prepare, sample
from vlm.rollout.settings import Sampling

ROUNDS = flags.DEFINE_integer('rounds', 3, 'Pairs of measurements.')
NEW = flags.DEFINE_integer('new', 32, 'Tokens of a completion.')
BATCH, SIDE, EMBEDDING, PARTS, PROTOTYPES = 8, 112, 192, 128, 250
TOWER = clip.ClipVisionConfig(SIDE, 14, 256, 6, 4, 1024)
SEES = dict(depth=6, width=320, heads=8, mlp_width=864, out_width=768)
REASONS = dict(width=768, depth=12, heads=12, kv_heads=2, mlp_width=3072)


def student():
  """(run, parameters): 8 scores per call."""
  tower = clip.ClipImage(
    clip.ClipImageConfig(TOWER, EMBEDDING), Runtime(attention='xla')
  )
  params = jax.jit(tower.init)(jax.random.key(0))
  rng = np.random.default_rng(0)
  f32 = lambda *shape: rng.normal(size=shape).astype(np.float32)
  weights = {
    'pca_mean': f32(EMBEDDING),
    'pca_scale': np.ones(EMBEDDING, np.float32),
    'pca_components': f32(PARTS, EMBEDDING),
    'prototypes': f32(PROTOTYPES, PARTS),
    'proto_scores': f32(PROTOTYPES),
    'logit_scale': np.float32(1 / scorer.TAU),
  }
  pixels = rng.integers(0, 256, (BATCH, SIDE, SIDE, 3), dtype=np.uint8)

  @jax.jit
  def scores(params, weights, pixels):
    x = tower.encode_image(params, pixels).embedding
    return scorer.scores(weights, x)

  run = lambda: jax.block_until_ready(scores(params, weights, pixels))
  return run, count(params) + count(weights)


def teacher():
  """(run, parameters): 8 completions per call, none of which ends early."""
  with tempfile.TemporaryDirectory() as folder:
    small = Assistant.load(tiny_checkpoint.write(Path(folder)))
  facts = small.model.config
  rope = (8, 12, 12)
  facts = dataclasses.replace(
    facts,
    vision=dataclasses.replace(facts.vision, **SEES),
    decoder=dataclasses.replace(
      facts.decoder, head_dim=64, mrope_section=rope, **REASONS
    ),
  )
  model = registry.build(facts, Runtime(attention='xla'))
  params = jax.jit(model.init)(jax.random.key(0))
  assistant = dataclasses.replace(
    small, model=model, params=params, processor=processor_of(facts)
  )
  pictures = [tiny_checkpoint.picture(SIDE, SIDE, n) for n in range(BATCH)]
  prompts = assistant.prompts(
    [
      {'images': [one], 'messages': [user_turn('How good is it?', [one])]}
      for one in pictures
    ]
  )
  never = facts.decoder.vocab_size  # no token: all samples run to the end
  settings = Sampling(NEW.value, (never,))
  weights, seeds = prepare(model, params), np.arange(BATCH)
  run = lambda: sample(model, weights, prompts, settings, seeds=seeds)
  return run, count(params)


def count(tree) -> int:
  """Numbers in a tree."""
  return sum(np.size(leaf) for leaf in jax.tree.leaves(tree))


def timed(run) -> float:
  """Wall clock of a call, seconds."""
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


def main(argv):
  del argv
  sides = {'scorer': student(), 'teacher': teacher()}
  for run, _ in sides.values():
    run()  # compiles
  times = {name: [] for name in sides}
  for number in range(ROUNDS.value):
    order = list(sides) if number % 2 == 0 else list(sides)[::-1]
    for name in order:
      times[name].append(timed(sides[name][0]))
  medians = {name: statistics.median(found) for name, found in times.items()}
  for name, (_, size) in sides.items():
    print(
      f'{name}: {size / 1e6:.2f} M parameters, '
      f'{BATCH / medians[name]:.2f} images per second, median '
      f'{medians[name]:.3f} s a batch, min {min(times[name]):.3f}, max '
      f'{max(times[name]):.3f}'
    )
  ratio = [a / b for a, b in zip(times['scorer'], times['teacher'])]
  share = sides['scorer'][1] / sides['teacher'][1]
  print(
    f'scorer / teacher: parameters {share:.2%}, time '
    f'{statistics.median(ratio):.2%} (of {NEW.value} new tokens)'
  )


if __name__ == '__main__':
  logging.disable(logging.INFO)
  app.run(main)
