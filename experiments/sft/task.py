"""Conversations about images and videos, as training rows and as questions.

A row holds `messages` as chat templates read them and `images`, the paths of
its images and videos in the order of the conversation. Where no message says
where they stand, they stand before the first user's text. Asked in evaluation
is what stands before the last answer, which is then compared word for word.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from data import records
from data.chat import Chat
from data.checkpoint import load_chat_of
from data.examples import is_video
from data.sources import open_source
from vlm.metrics import bootstrap


class Task:
  """See experiments/task.py.

  Args:
    config: with `model.init_from`, and `path`, `images` and `eval_path` of
      `data`.
  """

  def __init__(self, config: Any):
    self._config = config
    self.skipped = Counter()

  def chat(self) -> Chat:
    """The checkpoint's tokenizer and template."""
    return load_chat_of(self._config.model.init_from)

  def train_rows(self) -> tuple[list[Any], None]:
    """The rows of `config.data.path`."""
    return [open_source(self._config.data.path)], None

  def example(
    self, row: Mapping[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    """A row with the paths of its images.

    Raises:
      BadRecord: messages or images of another form.
    """
    del rng  # Nothing is drawn.
    messages = records.require(row, 'messages', list)
    images = row.get('images') or []
    if any(not isinstance(path, str) for path in images):
      raise records.BadRecord('wrong type', 'images holds more than paths')
    folder = epath.Path(self._config.data.images)
    return {
      'images': [folder / path for path in images],
      'messages': _with_places(messages, images),
    }

  def eval_sets(self) -> dict[str, Sequence[Mapping[str, Any]]]:
    """The rows of `config.data.eval_path`, if there is one."""
    path = self._config.data.eval_path
    return {'eval': open_source(path)} if path else {}

  def queries(self, rows: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Each conversation up to its last answer; bad rows are counted."""
    for number in range(len(rows)):
      try:
        example = self.example(rows[number], np.random.default_rng(0))
        *before, last = example['messages']
        if last['role'] != 'assistant':
          raise records.BadRecord('empty answer', 'ends with a question')
      except records.BadRecord as bad:
        self.skipped[bad.reason] += 1
        continue
      yield {
        'images': example['images'],
        'messages': before,
        'record': {'row': number, 'answer': _text(last['content'])},
      }

  def score(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Share of answers that are exact, with a 95 % interval over rows."""
    exact = [row['prediction'].strip() == row['answer'] for row in rows]
    numbers = np.arange(len(rows))
    return {'exact': list(bootstrap.interval(np.array(exact, float), numbers))}


def _with_places(messages: list[Any], images: list[str]) -> list[Any]:
  """Puts images before the first user's text where nobody else has."""
  if not images or any(
    isinstance(part, Mapping) and part.get('type') in ('image', 'video')
    for message in messages
    if isinstance(message.get('content'), list)
    for part in message['content']
  ):
    return messages
  placed = []
  waiting = [{'type': 'video' if is_video(p) else 'image'} for p in images]
  for message in messages:
    if waiting and message['role'] == 'user':
      text = _text(message['content'])
      content = [*waiting, {'type': 'text', 'text': text}]
      message, waiting = {**message, 'content': content}, []
    placed.append(message)
  return placed


def _text(content: Any) -> str:
  if isinstance(content, str):
    return content.strip()
  parts = [part.get('text', '') for part in content]
  return ''.join(parts).strip()
