"""One padded batch of unlike videos, and what every peer makes of it."""

import functools

import jax
import numpy as np

from vlm.methods.flashvid import peers

F, N, D = 12, 22, 16

CASES = {
  'random': peers.RandomTokens(0.3, seed=7),
  'stride': peers.Stride(0.3),
  'pooling': peers.Pooling(0.3),
  'frame_drop': peers.FrameDrop(0.3),
  'fastv': peers.FastV(0.3),
  'visionzip': peers.VisionZip(0.3),
  'visionzip, half contextual': peers.VisionZip(0.4, contextual=0.5),
  'tome': peers.ToMe(0.3),
  'tome, three rounds': peers.ToMe(0.1),
  'dycoke': peers.DyCoke(0.475),
  'prunevid': peers.PruneVID(0.3),
  'prunevid, small groups too': peers.PruneVID(0.2, small=0, gamma=0.4),
  'fastvid': peers.FastVID(0.3),
  'fastvid, long segments': peers.FastVID(0.4, segments=3, cosine=0.5),
  'holitom': peers.HoliTom(0.3),
  'holitom, aligned': peers.HoliTom.aligned(0.1, depth=28),
  'framefusion': peers.FrameFusion(0.3),
}


def _walk(rng, frames, tokens, pace):
  """Tokens that drift, with a cut in the middle."""
  x = rng.normal(size=(frames, tokens, D))
  for f in range(1, frames):
    if f != frames // 2:
      x[f] = x[f - 1] + pace * rng.normal(size=(tokens, 1)) * x[f]
  return x


def _signs(rng, *shape):
  """Vectors of +-1: their cosines are exact, so that ties are ties."""
  return rng.choice([-1.0, 1.0], size=(*shape, D))


def _half_static(rng):
  x = _walk(rng, 11, 17, 1.0)
  x[:, ::2] = x[:1, ::2] + 0.05 * x[:, ::2]
  return x


@functools.cache
def videos() -> dict[str, np.ndarray]:
  """Name -> float32 [F_v, N_v, D]."""
  rng = np.random.default_rng(0)
  clips = {
    'random': rng.normal(size=(F, N, D)),
    'drifting': _walk(rng, F, N, 0.3),
    'slow': _walk(rng, 10, 20, 0.1),
    'static': np.tile(_signs(rng, 1, 21), (9, 1, 1)),
    'half static': _half_static(rng),
    'odd': _walk(rng, 7, 9, 0.4),
    'one frame': rng.normal(size=(1, 15, D)),
    'one token': _walk(rng, 5, 1, 0.6),
    'two by two': rng.normal(size=(2, 2, D)),
    'black': np.zeros((6, 10, D)),
    'constant': np.tile(rng.normal(size=D), (8, 18, 1)),
    'broken': np.where(rng.random((6, 12, 1)) < 0.2, np.nan, 1.0)
    * rng.normal(size=(6, 12, D)),
  }
  return {name: clip.astype(np.float32) for name, clip in clips.items()}


@functools.cache
def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(features, attention, valid) of all; noise where nothing is."""
  rng = np.random.default_rng(1)
  clips = videos().values()
  features = rng.normal(size=(len(clips), F, N, D)).astype(np.float32)
  attention = rng.random((len(clips), F, N)).astype(np.float32)
  valid = np.zeros((len(clips), F, N), bool)
  for i, clip in enumerate(clips):
    frames, tokens, _ = clip.shape
    features[i, :frames, :tokens] = clip
    valid[i, :frames, :tokens] = True
  return features, attention, valid


@functools.cache
def jitted(case: str):
  """`reduce` of a case, compiled once per shape and dtype."""
  return jax.jit(CASES[case].reduce)


@functools.cache
def reduced(case: str):
  """`Reduced` of the batch as numpy."""
  return jax.tree.map(np.asarray, jitted(case)(*batch()))
