"""Prompts of several questions as one batch of few static shapes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data import pack
from data.assistant import BUCKET, LONGEST, Assistant
from data.examples import left_padded
from data.records import BadRecord

# tokens, tiles or patches, visual tokens of a prompt.
Size = tuple[int, int, int]


def check_length(sample: pack.Sample) -> None:
  """Raises BadRecord ('too long') for a prompt no model here was trained on."""
  tokens, _, visual = pack.sample_size(sample)
  if tokens > LONGEST:
    raise BadRecord(
      'too long',
      f'{tokens:,} tokens, {visual:,} of them visual; at most {LONGEST:,} fit: '
      'set fewer --frames',
    )


def largest(samples: Sequence[pack.Sample]) -> Size:
  """The size that holds each of several prompts."""
  sizes = np.array([pack.sample_size(sample) for sample in samples])
  return tuple(int(size) for size in sizes.max(axis=0))


def batch_of(
  assistant: Assistant, samples: Sequence[pack.Sample], size: Size
) -> dict[str, Any]:
  """Left-padded rows for `vlm.rollout`.

  Args:
    assistant: whose model is asked.
    samples: prompts; those without visual tokens may stand among others.
    size: what they are padded to, rounded up to few shapes.
  """
  tokens, units, visual = size
  rounded = lambda count: count + -count % BUCKET
  if not units:
    return left_padded(samples, pack.RowSpec(rounded(tokens)))
  processor = assistant.processor
  # Videos of equally many frames have equally many tiles already.
  tiled = processor.row(1, seq_len=1).units == 'tiles'
  spec = processor.row(
    units if tiled else rounded(units),
    seq_len=rounded(tokens),
    visual=rounded(visual),
    placeholders=assistant.chat.placeholder_ids,
  )
  return left_padded(samples, spec)
