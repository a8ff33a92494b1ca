"""Which tokens stay and how trees run through the frames, for pictures."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.sources.clips import ClipRows
from data.worlds.clips import ClipSettings
from experiments.flashvid.links import frames_of
from experiments.flashvid.reducers import EXPANSION, SEGMENT_FRAMES
from vlm.methods.flashvid import FlashVID
from vlm.methods.flashvid.compress import compress

FOREST_SEED = 5_000_011
RETENTION = 0.1


def settings_of(frames: int, alpha: float = FlashVID.alpha) -> FlashVID:
  """What is drawn: R = 0.1, segments of about four frames."""
  return FlashVID(
    RETENTION,
    expansion=EXPANSION,
    alpha=alpha,
    min_segments=max(1, frames // SEGMENT_FRAMES),
  )


def clip(number: int, frames: int) -> np.ndarray:
  """uint8 [F, S, S, 3]: a clip with one cut."""
  settings = ClipSettings(
    frames=(frames, frames),
    scenes=(2, 2),
    objects=(3, 4),
    speed=(2.0, 4.0),
    pan=(0.5, 2.0),
    needle=1.0,
  )
  row = ClipRows(FOREST_SEED, number + 1, settings)[number]
  return row.render(row.times())[0]


def measure(answering: Any, count: int) -> list[dict[str, list]]:
  """Forests of the first `count` clips, from the tower's tokens."""
  if not count:
    return []
  pixels = [clip(number, answering.frames) for number in range(count)]
  visual = answering.encode(np.stack(pixels))
  features = frames_of(visual.tokens, answering)
  attention = frames_of(visual.received_attention[..., None], answering)
  return [
    forest(x, a[..., 0]) for x, a in zip(features, attention, strict=True)
  ]


def forest(features: np.ndarray, attention: np.ndarray | None) -> dict:
  """What FlashVID makes of one video.

  Args:
    features: [F, N, D].
    attention: [F, N] or None, which selects by diversity alone.

  Returns:
    {'parents', 'roots': lists [F][N], see `Forest`; 'index': the places of the
    tokens that are left}.
  """
  settings, batched = settings_of(len(features)), None
  if attention is None:
    settings = dataclasses.replace(settings, selection='div')
  else:
    batched = jnp.asarray(attention)[None]
  reduced = _compressed(jnp.asarray(features)[None], batched, settings)
  found = np.asarray(reduced.index[0])[np.asarray(reduced.valid[0])]
  return {
    'parents': np.asarray(reduced.forest.parents[0]).tolist(),
    'roots': np.asarray(reduced.forest.roots[0]).tolist(),
    'index': found.tolist(),
  }


@functools.partial(jax.jit, static_argnames='settings')
def _compressed(features, attention, settings: FlashVID):
  return compress(features, attention, None, settings, with_forest=True)
