"""The efficiency report of a run: tokens of each layer, FLOPs, compression."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.video_qa.scores import Record
from vlm.metrics import efficiency
from vlm.models.visual import VisualTransform


def report(
  records: Sequence[Record],
  decoder: Any,
  transform: VisualTransform | None = None,
) -> dict[str, Any]:
  """Averages over the questions that were shown with their video.

  Args:
    records: of the run; see scores.py.
    decoder: frozen config of the decoder.
    transform: what leaves out visual tokens, if anything does; where it leaves
      at most so many, the most are counted.

  Returns:
    `tokens_per_layer`, `tokens_full` (what every layer would see), `tflops`
    (of the prefill of visual tokens, as published tables print them) and
    `tera_macs` (FlashVID's eq. 12), both also `_full`, and `compression`, the
    share of tokens that an average layer sees; {} where nothing was shown.
  """
  grids = Counter(tuple(r['grid']) for r in records if not r['problem'])
  if not grids:
    return {}
  shape = efficiency.DecoderShape.of(decoder)
  rows = [_of_grid(grid, shape, transform) for grid in grids]
  weights = np.array(list(grids.values())) / grids.total()
  mean = lambda name: np.tensordot(weights, [row[name] for row in rows], 1)
  return {name: mean(name).tolist() for name in rows[0]}


def _of_grid(
  grid: tuple[int, int],
  shape: efficiency.DecoderShape,
  transform: VisualTransform | None,
) -> dict[str, Any]:
  full = grid[0] * grid[1]
  every = efficiency.tokens_per_layer(shape.depth, full)
  seen = every
  if transform is not None:
    entering, prune = transform.room(*grid), transform.prune(shape.depth)
    cut = (prune.layer, prune.left(entering)) if prune else ()
    seen = efficiency.tokens_per_layer(shape.depth, entering, *cut)
  return {
    'tokens_per_layer': seen,
    'tokens_full': full,
    'compression': efficiency.compression(seen, full),
    'tflops': efficiency.printed_flops(seen, shape) / 1e12,
    'tflops_full': efficiency.printed_flops(every, shape) / 1e12,
    'tera_macs': efficiency.macs(seen, shape) / 1e12,
    'tera_macs_full': efficiency.macs(every, shape) / 1e12,
  }
