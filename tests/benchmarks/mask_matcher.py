"""MASK's matcher against a loop over images in PyTorch, same cores.

    JAX_PLATFORMS=cpu PYTHONPATH=. python tests/benchmarks/mask_matcher.py

1,000 images of 36 regions and 5,000 captions of 3 to 12 words (of 4,000, as
frequent as in a language: the n-th 1 / n as often as the first), Z = 512,
float32. The loop takes one image at a time and all captions' words, filled up
to the longest caption, and pools what it finds: the spec's formula said
plainly. Ours starts from codes and table. Both end with the whole
matrix; the sides take turns in one process. CPU seconds are of all threads:
they hardly change where other processes take the cores.
"""

import statistics
import time

import jax
import numpy as np
import torch
from absl import app, flags

from vlm.methods.mask.matcher import Matcher

IMAGES = flags.DEFINE_integer('images', 1000, 'n.')
CAPTIONS = flags.DEFINE_integer('captions', 5000, 'C.')
ROUNDS = flags.DEFINE_integer('rounds', 3, 'Pairs of measurements.')
TILE = flags.DEFINE_integer('image_tile', 8, 'Of the matcher.')
BLOCK = flags.DEFINE_integer('caption_block', 64, 'Of the matcher.')
POOLINGS = flags.DEFINE_list('poolings', ['t2i', 'i2t'], 'Measured.')
REGIONS, WORDS, WIDTH, LENGTHS = 36, 4000, 512, (3, 13)


def problem():
  """Codes [n, I, Z], table [W, Z] and ids [C, J]."""
  rng = np.random.default_rng(0)
  f32 = lambda *shape: rng.standard_normal(shape, np.float32)
  odds = 1 / np.arange(1, WORDS + 1)
  ids = rng.choice(
    WORDS, (CAPTIONS.value, LENGTHS[1] - 1), p=odds / odds.sum()
  ).astype(np.int32)
  lengths = rng.integers(*LENGTHS, CAPTIONS.value)
  ids[np.arange(ids.shape[1]) >= lengths[:, None]] = -1
  return f32(IMAGES.value, REGIONS, WIDTH), f32(WORDS, WIDTH), ids


def unit(x):
  """Rows of length 1."""
  return torch.nn.functional.normalize(torch.from_numpy(x), dim=-1)


def looped(codes, table, ids, pooling):
  """Scores [n, C], one image at a time."""
  codes, words = unit(codes), unit(table)[torch.from_numpy(ids)]  # [C, J, Z]
  there = torch.from_numpy(ids >= 0)
  count = there.sum(1)
  rows = []
  for image in codes:
    cosine = words @ image.T  # [C, J, I]
    if pooling == 't2i':
      best = cosine.amax(2).masked_fill(~there, 0)
      rows.append(best.sum(1) / count)
    else:
      absent = ~there[:, :, None]
      rows.append(cosine.masked_fill(absent, -torch.inf).amax(1).mean(1))
  return torch.stack(rows).numpy()


def ours(codes, table, ids, pooling):
  """Scores [n, C], with everything that the matcher prepares."""
  matcher = Matcher(
    codes,
    np.ones(codes.shape[:2], bool),
    table,
    ids,
    pooling=pooling,
    image_tile=TILE.value,
    caption_block=BLOCK.value,
  )
  return matcher.score(np.arange(len(codes)), np.arange(len(ids)))


def timed(run, *given):
  """((wall, CPU) seconds, result)."""
  start = time.perf_counter(), time.process_time()
  found = run(*given)
  end = time.perf_counter(), time.process_time()
  return tuple(b - a for a, b in zip(start, end)), found


def main(argv):
  del argv
  given = problem()
  print(
    f'{IMAGES.value} images, {CAPTIONS.value} captions, '
    f'{np.mean((given[2] >= 0).sum(1)):.1f} words each, torch '
    f'{torch.__version__} with {torch.get_num_threads()} threads, jax '
    f'{jax.__version__}'
  )
  for pooling in POOLINGS.value:
    ours(*given, pooling)  # compiles
    times, gap = {'ours': [], 'torch': []}, 0.0
    for _ in range(ROUNDS.value):
      mine, a = timed(ours, *given, pooling)
      theirs, b = timed(looped, *given, pooling)
      times['ours'].append(mine)
      times['torch'].append(theirs)
      gap = max(gap, float(np.abs(a - b).max()))
    report(pooling, times, gap)


def report(pooling, times, gap):
  """Prints the medians of both clocks, and of the pairs' ratios."""
  for clock, name in enumerate(('wall', 'CPU')):
    a, b = ([t[clock] for t in times[side]] for side in ('ours', 'torch'))
    ratios = [y / x for x, y in zip(a, b)]
    print(
      f'{pooling} {name}: ours {statistics.median(a):.2f} s, torch '
      f'{statistics.median(b):.2f} s, {statistics.median(ratios):.1f} times '
      f'({min(ratios):.1f} to {max(ratios):.1f}), largest difference {gap:.1e}'
    )


if __name__ == '__main__':
  app.run(main)
