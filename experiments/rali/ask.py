"""Asks for the quality of pictures, and reads ratings in what is said."""

from collections.abc import Hashable, Sequence
from typing import Any

from PIL import Image

from data import pack
from data.assistant import Assistant
from data.image import open_image
from data.records import BadRecord
from vlm.methods.rali import completion
from vlm.methods.rali.prompts import Wording
from vlm.methods.rali.readers import read_score

Row = dict[str, Any]

MAX_NEW_TOKENS = 1024  # as published


class Ratings:
  """Rows of image-quality sets; see `experiments.asking.ask.Subject`.

  Args:
    assistant: who is asked.
    wording: of system message and question.
    reader: of vlm/methods/rali/readers.py.
    think: the answer that the system message shows has reasoning.
    max_new_tokens: longest answer.
  """

  def __init__(
    self,
    assistant: Assistant,
    wording: Wording,
    reader: str = 'answer',
    think: bool = True,
    max_new_tokens: int = MAX_NEW_TOKENS,
  ):
    self._encoder, self._reader = assistant.encoder, reader
    self._messages = completion.messages(wording, 'score', think)
    self.max_new_tokens = max_new_tokens

  def shared(self, question: Row) -> Hashable:
    """The picture."""
    return str(question['image'])

  def open(self, question: Row) -> Image.Image:
    """The picture, upright RGB."""
    return open_image(question['image'])

  def show(self, question: Row, opened: Image.Image) -> pack.Sample:
    """The picture, then the words."""
    example = {'messages': self._messages, 'images': [opened]}
    return self._encoder.prompt(example)

  def blank(self, question: Row) -> pack.Sample:
    """The words alone."""
    *system, user = self._messages
    (text,) = (part for part in user['content'] if part['type'] == 'text')
    silent = [*system, user | {'content': [text]}]
    return self._encoder.prompt({'messages': silent, 'images': []})

  def record(
    self,
    question: Row,
    said: str | None,
    problem: str,
    grid: Any,
    drawn: list[str] | None = None,
  ) -> dict[str, Any]:
    """See score.py."""
    score, failure = None, ''
    if said is not None:
      score, failure = read_score(said, self._reader)
    found = known(question) | {
      'prediction': said,
      'score': score,
      'failure': failure,
      'problem': problem,
      'grid': grid,
    }
    if drawn is None:
      return found
    scores = [read_score(text, self._reader)[0] for text in drawn]
    return found | {'drawn': drawn, 'drawn_scores': scores}


def known(row: Row) -> dict[str, Any]:
  """What a record says of its row."""
  return {
    'id': row['id'],
    'dataset': row['dataset'],
    'image': str(row['image']),
    'reference': row['reference'],
    'mos': row['gt_score_norm'],
  }


def usable(rows: Any) -> tuple[list[Row], list[dict[str, str]]]:
  """The rows of a set that can be asked about, and what is wrong with others.

  Raises:
    ValueError: none can, or a set whose degradations are known but no scores.
  """
  good, bad = [], []
  for number in range(len(rows)):
    try:
      good.append(rows[number])
    except BadRecord as found:
      bad.append(
        {
          'id': f'{rows.name}[{number}]',
          'problem': f'{found.reason}: {found.detail}',
        }
      )
  if any(row['task'] != 'score' for row in good):
    raise ValueError(f'{rows.name} holds degradations, expected scores')
  if not good:
    first = bad[0]['problem'] if bad else 'it is empty'
    raise ValueError(f'{rows.name}: no usable row; {first}')
  return good, bad


def spread(rows: Sequence[Row], limit: int) -> list[Row]:
  """At most so many of a set, evenly spread; 0 for all."""
  total = len(rows)
  if not 0 < limit < total:
    return list(rows)
  return [rows[number * total // limit] for number in range(limit)]
