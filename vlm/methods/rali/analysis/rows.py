"""Prompts and parts of their completions, as rows that end together."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vlm.models.visual import VisionLanguageModel

Batch = dict[str, Any]


def continued(
  prompts: Mapping[str, Any],
  parts: Sequence[Sequence[int]],
  rows: Sequence[int] | None = None,
  length: int = 0,
) -> Batch:
  """Rows of a prompt and tokens behind it, padded on the left.

  Args:
    prompts: tokens, segment_ids [B, T], padded on the left; maybe positions
      [B, T] or [B, T, 3], pixels and plan (see `data.examples`).
    parts: [N] token ids behind a prompt.
    rows: [N] the prompt of each; one part for each prompt if left out.
    length: tokens of a row, more where one is longer; batches of one length
      share a compilation.

  Returns:
    The same keys for N rows, and positions: behind a prompt they count on from
    its largest.
  """
  rows = np.arange(len(parts)) if rows is None else np.asarray(rows, np.int64)
  prompts = dict(prompts)
  real = np.asarray(prompts['segment_ids']) != 0
  positions = prompts.get('positions')
  if positions is None:
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
  tokens, positions = np.asarray(prompts['tokens']), np.asarray(positions)
  made = [
    _joined(tokens[row, real[row]], positions[row, real[row]], part)
    for row, part in zip(rows, parts, strict=True)
  ]
  length = max([length, *(len(ids) for ids, _ in made)])
  pad = lambda x: np.pad(
    x, [(length - len(x), 0)] + [(0, 0)] * (x.ndim - 1)
  ).astype(np.int32)
  batch = {
    'tokens': np.stack([pad(ids) for ids, _ in made]),
    'segment_ids': np.stack([pad(np.ones_like(ids)) for ids, _ in made]),
    'positions': np.stack([pad(places) for _, places in made]),
  }
  if 'pixels' in prompts:
    batch['pixels'] = prompts['pixels'][rows]
    batch['plan'] = {key: x[rows] for key, x in prompts['plan'].items()}
  return batch


def without_image(
  model: VisionLanguageModel, batch: Mapping[str, Any], length: int = 0
) -> Batch:
  """The same texts encoded anew, as if there had been no image.

  Placeholders leave the rows, positions are counted again, pixels and plan are
  gone: nothing of the image is left for a hidden state to carry. `length` is
  that of `continued`.
  """
  tokens = np.asarray(batch['tokens'])
  kept = np.asarray(batch['segment_ids']) != 0
  kept &= ~np.asarray(model.is_placeholder(jnp.asarray(tokens)))
  texts = [row[stays].tolist() for row, stays in zip(tokens, kept)]
  return alone(texts, length)


def alone(texts: Sequence[Sequence[int]], length: int = 0) -> Batch:
  """Rows of tokens with nothing before them; see `continued`."""
  none = {
    'tokens': np.zeros((len(texts), 0), np.int32),
    'segment_ids': np.zeros((len(texts), 0), np.int32),
  }
  return continued(none, texts, length=length)


def _joined(ids: np.ndarray, positions: np.ndarray, part: Any):
  first = int(positions.max()) + 1 if positions.size else 0
  new = first + np.arange(len(part))
  new = np.broadcast_to(
    new.reshape(-1, *[1] * (positions.ndim - 1)),
    (len(part), *positions.shape[1:]),
  )
  part = np.asarray(part, np.int32)
  return np.concatenate([ids, part]), np.concatenate([positions, new])
