"""From an example (images and messages) to a padded sample or a prompt batch.

The one place where pictures meet text: tiles are cut, their plan gives the
number of visual tokens, the chat gives placeholders, and both must agree.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from data import image as images
from data import pack
from data.chat import Chat
from vlm.models import plan


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Encodes examples for one model.

  Attributes:
    chat: tokenizer and template.
    layout: how the model turns images into tokens.
    spec: static shapes of a row.
  """

  chat: Chat
  layout: plan.Layout
  spec: pack.RowSpec

  def sample(self, example: Mapping[str, Any]) -> pack.Sample:
    """One training row, padded to `spec`.

    Args:
      example: 'images' (uint8 arrays [H, W, 3] or lists of frames) and
        'messages' that end with the assistant's answer.

    Raises:
      BadRecord: empty answer, placeholder mismatch, or too long.
    """
    visual, spans = self._visual(example['images'])
    text = self.chat.encode(example['messages'], spans)
    return self._padded(text | visual)

  def prompts(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of prompts for `rollout.greedy.generate`, padded on the left.

    Returns:
      tokens, segment_ids [B, seq_len], and pixels, plan where the model sees.

    Raises:
      BadRecord: a prompt that is too long.
    """
    rows = []
    for example in examples:
      visual, spans = self._visual(example['images'])
      tokens = self.chat.encode_prompt(example['messages'], spans)
      text = {'tokens': tokens, 'loss_mask': np.zeros(len(tokens), np.float32)}
      rows.append(self._padded(text | visual))
    batch = {'plan': {}}
    for key in ('tokens', 'segment_ids'):
      batch[key] = np.stack([_to_left(r[key], r['segment_ids']) for r in rows])
    if 'pixels' not in rows[0]:
      return {key: batch[key] for key in ('tokens', 'segment_ids')}
    batch['pixels'] = np.stack([row['pixels'] for row in rows])
    for key in rows[0]['plan']:
      batch['plan'][key] = np.stack([row['plan'][key] for row in rows])
    return batch

  def _visual(self, pictures) -> tuple[dict[str, Any], tuple[int, ...]]:
    if not self.spec.tiles:
      return {}, ()
    row = images.prepare_row(
      [_picture(picture) for picture in pictures], self.layout
    )
    laid = plan.plan_row(self.layout, row.visuals)
    return {
      'pixels': row.tiles,
      'plan': {
        'index': laid.index,
        'weight': laid.weight,
        'valid': np.ones(len(laid.index), bool),
        'grid': laid.grid,
      },
    }, laid.spans

  def _padded(self, sample: pack.Sample) -> pack.Sample:
    pack.check_sample(sample, self.spec)
    return pack.pad_sample(sample, self.spec)


def _picture(picture: Any) -> Any:
  """Arrays to Pillow images, frame by frame for a video."""
  if isinstance(picture, np.ndarray):
    return Image.fromarray(picture)
  return [Image.fromarray(frame) for frame in picture]


def _to_left(row: np.ndarray, segment_ids: np.ndarray) -> np.ndarray:
  """Moves the padding of a row from its right to its left."""
  return np.roll(row, int((segment_ids == 0).sum()))
