"""Features of made-up videos."""

import numpy as np


def noise(seed, frames, tokens, width=16):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(frames, tokens, width)).astype(np.float32)


def drifting(seed, frames, tokens, width=16, speed=0.3, cuts=()):
  """Patches that change slowly and wander over the grid, with hard cuts."""
  rng = np.random.default_rng(seed)
  scene = lambda: rng.normal(size=(tokens, width)) + rng.normal(size=width)
  x, out = scene(), []
  for frame in range(frames):
    x = scene() if frame in cuts else x + speed * rng.normal(size=x.shape)
    x = np.roll(x, rng.integers(2), axis=0)
    out.append(x)
  return np.stack(out).astype(np.float32)


def attention(seed, frames, tokens):
  rng = np.random.default_rng(seed + 1000)
  return (rng.random((frames, tokens)) + 0.01).astype(np.float32)


def signs(seed, frames, tokens, kinds):
  """Rows of +-1 of up to 8 kinds: products, norms and so ties are exact.

  Two kinds have a cosine of one half.
  """
  rng = np.random.default_rng(seed)
  rows = np.array([[1.0]])
  for _ in range(3):
    rows = np.block([[rows, rows], [rows, -rows]])
  bank = np.concatenate([np.ones((8, 8)), rows], axis=1)
  return bank[rng.integers(kinds, size=(frames, tokens))].astype(np.float32)
