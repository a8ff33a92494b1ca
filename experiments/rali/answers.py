"""What the model is trained to write by supervised fine-tuning.

  score         the rating and nothing else
  description   a description as reasoning, then the rating
  level         one of Q-Align's five words in a sentence

Rows whose degradation is known are answered with it in every case, under
'description' after reasoning as well. Of sets that
`config.sets.scored` does not name (if it names any), only the description is
trained on: their scores are on another scale (RACT).
"""

from collections.abc import Mapping
from typing import Any

from data.records import BadRecord, require
from data.sources.iqa_meta import ANSWER
from vlm.methods.rali.completion import (
  completion,
  degradation_answer,
  score_answer,
)
from vlm.methods.rali.levels import level_of

TARGETS = ('score', 'description', 'level')


def answer_of(row: Mapping[str, Any], config: Any) -> str:
  """The answer that a row teaches.

  Raises:
    BadRecord: a row without what the target needs.
    ValueError: another target.
  """
  target = config.iqa.target
  if target not in TARGETS:
    raise ValueError(
      f'--config.iqa.target={target!r}, expected one of {TARGETS}'
    )
  if row['task'] == 'degradation':
    answer = degradation_answer(row['distortion_class'], row['severity'])
    # A base has to know both tasks in the shape that rewards will ask for.
    thought = description_of(row) if target == 'description' else None
    return completion(thought, answer)
  if target == 'level':
    return ANSWER.format(level=level_of(row['gt_score_norm'], 1, 5))
  rating = score_answer(row['gt_score_norm'], config.iqa.decimals)
  if target == 'score':
    return completion(None, rating)
  thought = description_of(row)
  scored = tuple(config.sets.scored)
  if scored and row['dataset'] not in scored:
    return f'<think>\n{thought}\n</think>'
  return completion(thought, rating)


def description_of(row: Mapping[str, Any]) -> str:
  """A row's `description`, or its caption in words.

  Raises:
    BadRecord: it has neither, or an empty one.
  """
  if 'caption' in row and 'description' not in row:
    return spoken(row['caption'])
  text = require(row, 'description', str).strip()
  if not text:
    raise BadRecord('empty answer', 'the description has no visible character')
  return text


def spoken(caption: Any) -> str:
  """'blur slight, noise serious' of a world's caption; 'clean' of an empty."""
  return ', '.join(f'{kind} {word}' for kind, word in caption) or 'clean'
