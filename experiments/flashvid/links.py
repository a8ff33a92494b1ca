"""Links between frames without any question: best match against same place.

Merging along the best match (TSTM) should find as many and as good links as
merging at fixed positions (TTM) where nothing moves, and more and better ones
the more moves. Both use the same cosines and the same threshold.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.sources.clips import ClipRows
from data.worlds.clips import ClipSettings
from vlm.methods.flashvid import FlashVID, tstm

SPEEDS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)  # pixels per frame
LINKS_SEED = 4_000_037
KINDS = {'TSTM': tstm.links, 'TTM': tstm.same_place}


def measure(answering: Any, count: int) -> list[dict[str, Any]]:
  """Links at every speed, of the tower's tokens and of patch colours.

  Args:
    answering: an `Answering` of a trained model.
    count: clips per speed.

  Returns:
    Rows of {tokens, kind, speed, cosine, links}: the mean best cosine of a
    token, and the share of tokens that are linked.
  """
  rows = []
  for speed in SPEEDS:
    pixels = panned(speed, count, answering.frames)
    visual = answering.encode(pixels)
    kinds = {
      "the tower's": frames_of(visual.tokens, answering),
      'patch colours': patch_colours(pixels, answering.side),
    }
    for tokens, features in kinds.items():
      for kind in KINDS:
        cosine, share = links(features, kind)
        rows.append(
          {
            'tokens': tokens,
            'kind': kind,
            'speed': speed,
            'cosine': cosine,
            'links': share,
          }
        )
  return rows


def panned(speed: float, count: int, frames: int) -> np.ndarray:
  """Clips of one scene in which all moves at `speed`: uint8 [C, F, S, S, 3]."""
  settings = ClipSettings(
    frames=(frames, frames),
    scenes=(1, 1),
    objects=(2, 4),
    growth=(1.0, 1.0),
    speed=(speed, speed),
    pan=(speed, speed),
    needle=0.0,
  )
  clips = [ClipRows(LINKS_SEED, count, settings)[n] for n in range(count)]
  return np.stack([clip.render(clip.times())[0] for clip in clips])


def frames_of(tokens: np.ndarray, answering: Any) -> np.ndarray:
  """[C, F, N, D] of visual tokens [C, M, D] with one video each."""
  _, frames, count = answering.plan['frames'].shape
  return tokens[:, : frames * count].reshape(len(tokens), frames, count, -1)


def patch_colours(pixels: np.ndarray, side: int) -> np.ndarray:
  """float32 [C, F, side^2, 12]: each patch's quarters, about the clip's mean.

  Without the mean every cosine is near 1: no colour is negative.
  """
  *lead, height, width, _ = pixels.shape
  cell = height // side // 2, width // side // 2
  cut = pixels[..., : side * 2 * cell[0], : side * 2 * cell[1], :]
  cut = cut.reshape(*lead, side, 2, cell[0], side, 2, cell[1], 3)
  means = cut.astype(np.float32).mean((-5, -2))  # [.., side, 2, side, 2, 3]
  means = np.moveaxis(means, -4, -3).reshape(*lead, side * side, 12)
  return means - means.mean((-3, -2), keepdims=True)


def links(features: np.ndarray, kind: str) -> tuple[float, float]:
  """(mean cosine of a token's match, share of tokens linked at T_tau).

  Args:
    features: [C, F, N, D].
    kind: of `KINDS`.
  """
  best = np.asarray(_best(jnp.asarray(features), kind))[:, 1:]
  return float(best.mean()), float((best >= FlashVID.tau).mean())


@functools.partial(jax.jit, static_argnames='kind')
def _best(features: jax.Array, kind: str) -> jax.Array:
  """float32 [C, F, N]: the cosine of each token's match, -1 in frame 0."""

  def one(x):
    norm = jnp.linalg.norm(x, axis=-1)
    norm = jnp.where(norm > 0, norm, jnp.inf)
    free = jnp.ones(x.shape[:2], bool)
    return KINDS[kind](x, norm, free, jnp.arange(len(x)) > 0)[0]

  return jax.lax.map(one, features)
