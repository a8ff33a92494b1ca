"""Metrics of training: summed on device, read once per log interval.

A metric is a pair (numerator, denominator) of float32 scalars until it is
logged, so neither padding nor accumulation nor the number of processes biases
its mean.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Dense bf16 FLOP/s of one chip (Cloud TPU documentation, system pages).
PEAK_FLOPS = {
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5': 459e12,
  'TPU v5p': 459e12,
  'TPU v6 lite': 918e12,
  'TPU v6e': 918e12,
}

# A metric among these that is NaN or infinite stops the run; the first of them
# is named, because where it comes from all others follow.
WATCHED = ('image_norm', 'text_norm', 'grad_norm', 'loss')

Pairs = Mapping[str, tuple[jax.Array, jax.Array]]


def peak_flops(devices: list[Any] | None = None) -> float | None:
  """bf16 peak of all devices together in FLOP/s; None where it is unknown."""
  devices = devices or jax.devices()
  peaks = [PEAK_FLOPS.get(device.device_kind) for device in devices]
  return None if None in peaks else sum(peaks)


@jax.jit
def start_window(metrics: Pairs, step: jax.Array) -> dict:
  """A window that holds the metrics of one step (`step` counts from 1)."""
  return {'sums': dict(metrics), 'bad': _bad(metrics, step), 'step': step}


@functools.partial(jax.jit, donate_argnums=0)
def add_to_window(window: dict, metrics: Pairs) -> dict:
  """Adds the next step's pairs; remembers the first step not finite."""
  step = window['step'] + 1
  bad = jax.tree.map(
    lambda old, new: jnp.where(old > 0, old, new),
    window['bad'],
    _bad(metrics, step),
  )
  sums = jax.tree.map(jnp.add, window['sums'], metrics)
  return {'sums': sums, 'bad': bad, 'step': step}


def _bad(metrics: Pairs, step: jax.Array) -> dict[str, jax.Array]:
  def first_bad(pair):
    finite = jnp.all(jnp.isfinite(jnp.stack([jnp.sum(x) for x in pair])))
    return jnp.where(finite, 0, step).astype(jnp.int32)

  return {name: first_bad(metrics[name]) for name in WATCHED if name in metrics}


def window_to_json(window: dict | None) -> dict | None:
  """An open window as exact numbers, so that a resumed run can continue it."""
  if window is None:
    return None
  return {
    name: [float(num), float(den)]
    for name, (num, den) in jax.device_get(window['sums']).items()
  }


def window_from_json(sums: dict | None, step: int) -> dict | None:
  """The inverse of window_to_json; only finite windows are ever saved."""
  if sums is None:
    return None
  pairs = {
    name: (np.float32(num), np.float32(den))
    for name, (num, den) in sums.items()
  }
  bad = {name: np.int32(0) for name in WATCHED if name in pairs}
  return {'sums': pairs, 'bad': bad, 'step': np.int32(step)}


def means(window: dict) -> dict[str, float | None]:
  """Host means of a fetched window; None where nothing was counted."""
  return {
    name: float(num) / float(den) if den else None
    for name, (num, den) in window['sums'].items()
  }


@jax.jit
def all_finite(tree: Any) -> jax.Array:
  """Whether every floating point leaf is finite: bool scalar."""
  leaves = [
    jnp.all(jnp.isfinite(x))
    for x in jax.tree.leaves(tree)
    if jnp.issubdtype(x.dtype, jnp.inexact)
  ]
  return jnp.all(jnp.stack(leaves)) if leaves else jnp.bool_(True)


@dataclasses.dataclass(frozen=True)
class Throughput:
  """What one optimiser step of the whole job costs.

  tokens: positions of the global batch, padding included.
  flops: model FLOPs (forward and backward, without rematerialisation).
  peak: FLOP/s of all chips together, None where it is unknown.
  """

  tokens: int | None = None
  flops: float | None = None
  peak: float | None = None

  def row(self, step_time: float) -> dict[str, float]:
    """tokens/s, FLOP/s and MFU at a step time in seconds."""
    row = {}
    if self.tokens:
      row['tokens_per_s'] = self.tokens / step_time
    if self.flops:
      row['flops_per_s'] = self.flops / step_time
    if self.flops and self.peak:
      row['mfu'] = self.flops / step_time / self.peak
    return row


def format_row(row: Mapping[str, Any]) -> str:
  """One log line: the fixed columns first, then every other metric.

  Example:
    step 20/100 loss 2.313 lr 1.0e-03 grad_norm 0.91 12.3 ms/step
    41.6k tok/s wait 1.2% 3.1 TFLOP/s mfu 41.0% eta 0:02:10
  """
  row = dict(row)
  step, steps = row.pop('step'), row.pop('steps', None)
  parts = [f'step {step}/{steps}' if steps else f'step {step}']
  for name, show in _COLUMNS.items():
    value = row.pop(name, None)
    if value is not None:
      parts.append(show(value))
  parts += [f'{name} {_short(value)}' for name, value in row.items()]
  return ' '.join(parts)


def _short(value: float | None) -> str:
  return '-' if value is None else f'{value:.4g}'


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  return f'{minutes // 60}:{minutes % 60:02d}:{seconds:02d}'


_COLUMNS = {
  'loss': lambda v: f'loss {v:.4f}',
  'learning_rate': lambda v: f'lr {v:.2e}',
  'grad_norm': lambda v: f'grad_norm {v:.3g}',
  'step_time': lambda v: f'{1e3 * v:.1f} ms/step',
  'tokens_per_s': lambda v: f'{v / 1e3:.1f}k tok/s',
  'data_wait': lambda v: f'wait {v:.1%}',
  'flops_per_s': lambda v: f'{v / 1e12:.3g} TFLOP/s',
  'mfu': lambda v: f'mfu {v:.1%}',
  'eta': lambda v: f'eta {_clock(v)}',
}
