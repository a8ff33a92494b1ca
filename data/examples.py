"""From an example (images and messages) to a sample or a batch of prompts.

The one place where pictures meet text: the processor prepares the pictures and
says what stands for them, the chat writes it, and both must agree.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from data import pack, video, videos
from data.chat import Chat
from data.frames import Frames
from data.visual import Expansion, Processor
from vlm.models import mrope


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Encodes examples for one model.

  Attributes:
    chat: tokenizer and template.
    processor: how the model wants its pictures; None for one that only reads.
    frames: of a video that is given as a path, spread evenly; 0 leaves it to
      the processor.
    mark_videos: say in the plan which tokens are a video's; see data/videos.py.
  """

  chat: Chat
  processor: Processor | None = None
  frames: int = 0
  mark_videos: bool = False

  def sample(self, example: Mapping[str, Any]) -> pack.Sample:
    """One training sample (see data/pack.py).

    Args:
      example: 'images' (uint8 arrays [H, W, 3], Pillow images, lists of frames
        or `Frames`, paths) and 'messages' that end with the assistant's answer.

    Raises:
      BadRecord: empty answer, placeholder mismatch, or an image that cannot be
        shown.
    """
    visual, expansions = self._visual(example['images'])
    text = self._encode(json.dumps(example['messages']), expansions)
    return text | visual | self._positions(text['tokens'], expansions)

  def prompt(self, example: Mapping[str, Any]) -> pack.Sample:
    """Like `sample`, for a conversation that the assistant is to continue."""
    visual, expansions = self._visual(example['images'])
    tokens = self.chat.encode_prompt(example['messages'], expansions)
    text = {'tokens': tokens, 'loss_mask': np.zeros(len(tokens), np.float32)}
    return text | visual | self._positions(tokens, expansions)

  def prompts(
    self, examples: Sequence[Mapping[str, Any]], spec: pack.RowSpec
  ) -> dict[str, Any]:
    """A batch of prompts for `vlm.rollout`; see `left_padded`.

    Raises:
      BadRecord: a prompt that is too long.
    """
    return left_padded([self.prompt(example) for example in examples], spec)

  def _visual(self, pictures) -> tuple[pack.Sample, tuple[Expansion, ...]]:
    if self.processor is None or not pictures:
      return {}, ()
    items = [self._opened(item) for item in pictures]
    row = self.processor.prepare(items)
    plan = row.plan
    if self.mark_videos:
      counts = [sum(expansion.counts) for expansion in row.expansions]
      moving = [is_video(item) for item in items]
      plan = plan | videos.mark_videos(moving, counts, plan['grid'])
    return {'pixels': row.pixels, 'plan': plan}, row.expansions

  def _opened(self, item: Any) -> Any:
    if is_video(item) and isinstance(item, str | os.PathLike):
      return video.open_video(item, self.processor, self.frames)
    return _picture(item)

  def _positions(self, tokens, expansions) -> pack.Sample:
    spans = [span for e in expansions for span in e.spans]
    if not any(isinstance(span, mrope.Span) for span in spans):
      return {}
    visual = self.chat.is_placeholder(tokens)
    return {'positions': mrope.row_positions(visual, spans)}

  # Small models see the same few texts and picture sizes again and again;
  # rendering a template costs more than everything else about such a sample.
  @functools.cached_property
  def _encode(self) -> Callable:
    encode = lambda text, expansions: self.chat.encode(
      json.loads(text), expansions
    )
    return functools.lru_cache(8192)(encode)

  def __getstate__(self) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(self)]
    return {name: getattr(self, name) for name in names}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)


def left_padded(
  samples: Sequence[pack.Sample], spec: pack.RowSpec
) -> dict[str, Any]:
  """Prompts as rows that end together.

  Returns:
    tokens, segment_ids [B, T], positions [B, T] or [B, T, 3], and pixels and
    plan where the model sees.

  Raises:
    BadRecord: a prompt that is too long.
  """
  rows = [pack.pad_sample(sample, spec) for sample in samples]
  batch = {}
  for key in ('tokens', 'segment_ids', 'positions'):
    batch[key] = np.stack([_to_left(r[key], r['segment_ids']) for r in rows])
  if 'pixels' in rows[0]:
    batch['pixels'] = np.stack([row['pixels'] for row in rows])
    batch['plan'] = {
      key: np.stack([row['plan'][key] for row in rows])
      for key in rows[0]['plan']
    }
  return batch


def is_video(item: Any) -> bool:
  """Whether an item of 'images' is a video: frames, or a path that says so."""
  if isinstance(item, str | os.PathLike):
    return str(item).lower().endswith(video.SUFFIXES)
  return isinstance(item, list | tuple | Frames)


def _picture(picture: Any) -> Any:
  """Arrays to Pillow images, frame by frame for a list; others as they are."""
  if isinstance(picture, np.ndarray):
    return Image.fromarray(picture)
  if isinstance(picture, list | tuple):
    return [_picture(frame) for frame in picture]
  return picture


def _to_left(row: np.ndarray, segment_ids: np.ndarray) -> np.ndarray:
  """Moves the padding of a row from its right to its left."""
  return np.roll(row, int((segment_ids == 0).sum()), axis=0)
