"""FlashVID's compression against PyTorch and against numpy, side by side.

    export JAX_PLATFORMS=cpu PYTHONPATH=.
    python tests/benchmarks/flashvid_compression.py

At R = 10 %, of 32 frames x 196 tokens x 3584 and of 64 x 169 x 3584, in float32
on the same cores: ours (official mode, for the same tokens), the same rules in
PyTorch segment by segment and frame by frame (`flashvid_torch.py`), and the
tests' numpy loops. Clips drift and are cut, so that trees are deep. Warm.
"""

import logging
import os
import statistics
import time

import flashvid_torch
import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import app, flags

from tests.methods.flashvid import oracle
from vlm.methods.flashvid import FlashVID

ROUNDS = flags.DEFINE_integer('rounds', 7, 'Times that each side runs.')
LOOPS = flags.DEFINE_bool('loops', True, 'Also time the numpy loops, once.')
SIZES = ((32, 196, 3584), (64, 169, 3584))
SETTINGS = FlashVID(0.1, mode='official')
PAUSE = 0.3  # for the other side's threads to come to rest


def clip(frames: int, tokens: int, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Features that drift from frame to frame, with a cut every nine frames."""
  rng = np.random.default_rng(0)
  draw = lambda: rng.normal(size=(tokens, width)).astype(np.float32)
  scene, out = draw(), []
  for number in range(frames):
    scene = draw() if number % 9 == 0 else scene + 0.3 * draw()
    out.append(scene + 2)
  attention = rng.uniform(size=(frames, tokens)).astype(np.float32)
  return np.stack(out), attention


def timed(run) -> tuple[float, float]:
  """(wall clock, CPU) seconds."""
  time.sleep(PAUSE)
  wall, cpu = time.perf_counter(), time.process_time()
  run()
  return time.perf_counter() - wall, time.process_time() - cpu


def compare(features: np.ndarray, attention: np.ndarray) -> None:
  """Checks that both sides leave the same tokens, and prints their times."""
  reduce = jax.jit(lambda x, a: SETTINGS.reduce(x[None], a[None]))
  arrays = jnp.asarray(features), jnp.asarray(attention)
  tensors = torch.from_numpy(features), torch.from_numpy(attention)
  ours = lambda: jax.block_until_ready(reduce(*arrays))
  theirs = lambda: flashvid_torch.compress(*tensors, SETTINGS)
  with torch.inference_mode():
    got, (tokens, index) = ours(), theirs()
    pairs = [(timed(ours), timed(theirs)) for _ in range(ROUNDS.value)]
  valid = np.asarray(got.valid[0])
  same = np.array_equal(np.asarray(got.index[0])[valid], index.numpy())
  worst = np.abs(np.asarray(got.tokens[0])[valid] - tokens.numpy()).max()
  print(
    f'\n{features.shape}: {valid.sum()} tokens, indices equal: {same}, '
    f'vectors differ by at most {worst:.1e}'
  )
  for clock, name in enumerate(('wall', 'cpu')):
    mine, torchs = ([p[side][clock] for p in pairs] for side in (0, 1))
    ratio = [b / a for a, b in zip(mine, torchs)]
    print(
      f'{name}: ours {statistics.median(mine):.3f} s, torch '
      f'{statistics.median(torchs):.3f} s; torch / ours '
      f'{statistics.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})'
    )
  if LOOPS.value:
    loops, _ = timed(lambda: oracle.compress(features, attention, SETTINGS))
    mine = statistics.median(p[0][0] for p in pairs)
    print(f'numpy loops {loops:.1f} s, {loops / mine:.0f} times ours')


def main(argv):
  del argv
  torch.set_num_threads(os.cpu_count())
  for size in SIZES:
    compare(*clip(*size))


if __name__ == '__main__':
  logging.disable(logging.INFO)
  app.run(main)
