"""Procedural solid textures: plain, checker, stripe and smooth noise.

A texture is a function of the point in the solid's own frame, in metres, with
a random period, so that the size of its pattern says nothing about scale.
"""

import dataclasses

import numpy as np

PLAIN, CHECKER, STRIPE, NOISE = range(4)


@dataclasses.dataclass(frozen=True)
class Textures:
  """T textures, float32.

  Attributes:
    kind: [T] int, PLAIN, CHECKER, STRIPE or NOISE.
    first: [T, 3] colour in [0, 1].
    second: [T, 3] colour in [0, 1].
    period: [T] metres.
    phase: [T, 3] in periods.
    axis: [T, 3] unit direction of stripes and of the first noise wave.
  """

  kind: np.ndarray
  first: np.ndarray
  second: np.ndarray
  period: np.ndarray
  phase: np.ndarray
  axis: np.ndarray


def _noise(q, axis):
  """Three crossed waves of different pitch, in [0, 1]."""
  turn = np.float32(2 * np.pi)
  swapped = axis[:, [1, 2, 0]]
  crossed = axis[:, [2, 0, 1]] * np.float32([1, -1, 1])
  waves = (
    np.sin(turn * (q * axis).sum(1))
    + np.sin(turn * 1.7 * (q * swapped).sum(1) + 1.0)
    + np.sin(turn * 2.9 * (q * crossed).sum(1) + 2.0)
  )
  return 0.5 + waves / 6


def colours(table: Textures, index: np.ndarray, points: np.ndarray):
  """Colours [R, 3] in [0, 1] of textures `index` [R] at `points` [R, 3]."""
  kind = table.kind[index]
  q = points / table.period[index, None] + table.phase[index]
  mix = np.zeros(len(index), np.float32)
  rows = np.flatnonzero(kind == CHECKER)
  mix[rows] = np.floor(q[rows]).sum(1) % 2
  rows = np.flatnonzero(kind == STRIPE)
  mix[rows] = np.floor((q[rows] * table.axis[index[rows]]).sum(1)) % 2
  rows = np.flatnonzero(kind == NOISE)
  mix[rows] = _noise(q[rows], table.axis[index[rows]])
  first, second = table.first[index], table.second[index]
  return first + mix[:, None] * (second - first)


def _paints(rng, count):
  """Colours [count, 3]: a grey level with a tint that is often slight."""
  grey = rng.uniform(0.25, 0.9, (count, 1))
  tint = rng.uniform(-1, 1, (count, 3)) * rng.uniform(0.05, 0.5, (count, 1))
  return np.clip(grey + tint, 0.05, 1.0)


def draw(rng: np.random.Generator, count: int, period=(0.2, 2.0)) -> Textures:
  """Draws `count` random textures; period log-uniform in `period` metres."""
  first = _paints(rng, count)
  # The second colour stays near the first half of the time: quiet surfaces.
  strength = rng.choice([0.25, 0.9], (count, 1))
  second = first + strength * (_paints(rng, count) - first)
  axis = rng.normal(size=(count, 3)) * [1, 1, 0.3]
  axis /= np.linalg.norm(axis, axis=1, keepdims=True)
  low, high = np.log(period)
  return Textures(
    kind=rng.choice(4, count, p=[0.25, 0.25, 0.25, 0.25]),
    first=first.astype(np.float32),
    second=second.astype(np.float32),
    period=np.exp(rng.uniform(low, high, count)).astype(np.float32),
    phase=rng.uniform(0, 1, (count, 3)).astype(np.float32),
    axis=axis.astype(np.float32),
  )
