"""From an example (images and messages) to a padded sample or a prompt batch.

The one place where pictures meet text: tiles are cut, their plan gives the
number of visual tokens, the chat gives placeholders, and both must agree.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
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
    text = self._encode(json.dumps(example['messages']), spans)
    return pack.pad_sample(text | visual, self.spec)

  def prompts(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of prompts for `vlm.rollout.sampler.sample`, padded on the left.

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
      rows.append(pack.pad_sample(text | visual, self.spec))
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
    fields, spans = self._laid(row.visuals)
    return {'pixels': row.tiles, 'plan': fields}, spans

  # Small models see the same few texts and picture sizes again and again;
  # rendering a template costs more than everything else about such a sample.
  @functools.cached_property
  def _encode(self) -> Callable:
    encode = lambda text, spans: self.chat.encode(json.loads(text), spans)
    return functools.lru_cache(8192)(encode)

  @functools.cached_property
  def _laid(self) -> Callable:
    def lay(visuals):
      laid = plan.plan_row(self.layout, visuals)
      return pack.plan_fields(laid), laid.spans

    return functools.lru_cache(256)(lay)

  def __getstate__(self) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(self)]
    return {name: getattr(self, name) for name in names}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)


def _picture(picture: Any) -> Any:
  """Arrays to Pillow images, frame by frame for a video."""
  if isinstance(picture, np.ndarray):
    return Image.fromarray(picture)
  return [Image.fromarray(frame) for frame in picture]


def _to_left(row: np.ndarray, segment_ids: np.ndarray) -> np.ndarray:
  """Moves the padding of a row from its right to its left."""
  return np.roll(row, int((segment_ids == 0).sum()))
