"""A published torch class and our model, same weights, timed in turns."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch

from vlm.convert.reader import load_params
from vlm.models import registry
from vlm.models.functional import Runtime

# The thread pools of both sides spin for a moment after their last task, on
# the cores which the other side is about to use.
PAUSE = 0.5
TOLERANCE = 1e-3


def published(kind: type, config):
  """The torch class with random weights, for inference on every core."""
  torch.manual_seed(0)
  torch.set_num_threads(os.cpu_count())
  config._attn_implementation = 'sdpa'
  return kind(config).eval()


def ours(torch_model, runtime: Runtime = Runtime()) -> tuple:
  """Our model of the same shape and its parameters, the same numbers."""
  with tempfile.TemporaryDirectory() as folder:
    torch_model.save_pretrained(folder)
    facts = json.loads((Path(folder) / 'config.json').read_text())
    model = registry.build(registry.config_from_hf(facts), runtime)
    return model, jax.block_until_ready(load_params(folder, model))


def compare(
  ours: Callable[[], jax.Array],
  theirs: Callable[[], torch.Tensor],
  rounds: int,
  flops: float,
) -> list[tuple]:
  """Checks that both give the same result; prints times and their ratios.

  Args:
    ours: runs our forward pass.
    theirs: runs the published one.
    rounds: pairs of measurements; which side goes first alternates.
    flops: of the matrix products of one pass, to print a rate.

  Returns:
    Per round, (wall clock, CPU seconds) of ours and of theirs.

  Raises:
    AssertionError: where results differ by more than TOLERANCE of their scale.
  """
  runs = (lambda: jax.block_until_ready(ours()), theirs)
  with torch.inference_mode():
    got, want = np.asarray(runs[0]()), runs[1]().numpy()
    difference = np.abs(got - want).max() / np.abs(want).max()
    assert got.shape == want.shape and difference < TOLERANCE, difference
    pairs = []
    for number in range(rounds):
      order = (0, 1) if number % 2 == 0 else (1, 0)
      times = {side: _timed(runs[side]) for side in order}
      pairs.append((times[0], times[1]))
  print(
    f'{torch.get_num_threads()} threads, {rounds} rounds; results differ by'
    f' {difference:.0e} of their scale'
  )
  for index, clock in enumerate(('wall', 'cpu')):
    _report(clock, [(a[index], b[index]) for a, b in pairs], flops)
  return pairs


def _timed(run: Callable) -> tuple[float, float]:
  """Wall clock and CPU seconds; the latter, summed over threads, is the one
  to trust on a machine that others use too."""
  time.sleep(PAUSE)
  wall, cpu = time.perf_counter(), time.process_time()
  run()
  return time.perf_counter() - wall, time.process_time() - cpu


def _report(clock: str, pairs: list[tuple[float, float]], flops: float):
  for name, times in zip(('ours', 'torch'), zip(*pairs)):
    median = statistics.median(times)
    print(
      f'{clock} {name}: median {median:.3f} s ({flops / median / 1e9:.0f}'
      f' GFLOP/s), min {min(times):.3f}, max {max(times):.3f}'
    )
  ratios = [a / b for a, b in pairs]
  print(
    f'{clock} ours / torch: median {statistics.median(ratios):.3f},'
    f' min {min(ratios):.3f}, max {max(ratios):.3f}'
  )
