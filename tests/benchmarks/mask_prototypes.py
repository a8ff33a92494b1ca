"""Prototypes of a stream of regions: regions per second, and memory.

    PYTHONPATH=. python tests/benchmarks/mask_prototypes.py

As many regions as Visual Genome has, 3.6 M of 2048 numbers (29 GB, which never
exist at once), 1.2 words for each of 12,385, as frequent as in a language: the
n-th 1 / n as often as the first. Chunks are drawn before the clock starts and
come again and again, so what is timed is `Moments.add` alone. Memory is the
process's peak above what it was with the chunks and empty moments in it.
"""

import resource
import time

import numpy as np
from absl import app, flags

from vlm.methods.mask.prototypes import Moments

REGIONS = flags.DEFINE_integer('regions', 3_600_000, 'Of the stream.')
WIDTH = flags.DEFINE_integer('width', 2048, 'Numbers of a region.')
WORDS = flags.DEFINE_integer('words', 12_385, 'K.')
CHUNK = flags.DEFINE_integer('chunk', 4096, 'Regions read at once.')
DRAWN, PAIRS = 4, 1.2


def chunks():
  """Some chunks of (codes, regions, words)."""
  rng = np.random.default_rng(0)
  odds = 1 / np.arange(1, WORDS.value + 1)
  pairs = int(PAIRS * CHUNK.value)
  return [
    (
      rng.standard_normal((CHUNK.value, WIDTH.value), np.float32),
      rng.integers(0, CHUNK.value, pairs),
      rng.choice(WORDS.value, pairs, p=odds / odds.sum()),
    )
    for _ in range(DRAWN)
  ]


def peak() -> float:
  """The most memory that the process has had, MiB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(argv):
  del argv
  drawn, moments = chunks(), Moments(WORDS.value, WIDTH.value)
  for array in (moments.means, moments.squares):
    array.fill(0)  # only what was written is memory
  before = peak()
  count = -(-REGIONS.value // CHUNK.value)
  marks = {max(count // 10, 1): 'a tenth', count: 'all'}
  start, cpu = time.perf_counter(), time.process_time()
  for number in range(1, count + 1):
    moments.add(*drawn[number % DRAWN])
    if number in marks:
      seconds, used = time.perf_counter() - start, time.process_time() - cpu
      done = number * CHUNK.value
      print(
        f'after {marks[number]} ({done:,} regions of {WIDTH.value}): '
        f'{done / seconds:,.0f} regions per second ({done / used:,.0f} per CPU '
        f'second), {peak() - before:.0f} MiB above the start of {before:,.0f}, '
        f'of which moments {2 * moments.means.nbytes / 2**20:.0f}',
        flush=True,
      )


if __name__ == '__main__':
  app.run(main)
