"""Prompts of several questions as one batch of few static shapes.

Every process of a job prepares its share of the rows, and all must pad to one
shape; so they tell each other the shapes of their prompts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data import pack
from data.assistant import Assistant
from data.examples import left_padded
from data.records import BadRecord

Shape = dict[str, Any]


def shape_of(sample: pack.Sample) -> Shape:
  """What the static shape of a batch depends on, as JSON."""
  plan = sample.get('plan', {})
  return {
    'tokens': len(sample['tokens']),
    'pixels': list(sample['pixels'].shape[:1]) if plan else [],
    'tiled': bool(plan) and sample['pixels'].ndim > 2,
    'visual': len(plan.get('grid', ())),
    'frames': list(plan['frames'].shape) if 'frames' in plan else [],
  }


def like(shape: Shape) -> pack.Sample:
  """A prompt of a shape, without content: its arrays are one zero each."""
  zeros = lambda *size: np.broadcast_to(np.int32(0), size)
  sample = {'tokens': zeros(shape['tokens'])}
  if shape['pixels']:
    side = (1, 1) if shape['tiled'] else ()
    sample['pixels'] = zeros(*shape['pixels'], *side, 1)
    sample['plan'] = {'grid': zeros(shape['visual'], 3)}
  if shape['frames']:
    sample['plan']['frames'] = zeros(*shape['frames'])
  return sample


def check_length(assistant: Assistant, sample: pack.Sample) -> None:
  """Raises BadRecord ('too long') for a prompt that fits no model here."""
  try:
    assistant.row([sample])
  except ValueError as error:
    raise BadRecord('too long', str(error)) from error


def batch_of(
  assistant: Assistant, samples: Sequence[pack.Sample], shapes: Sequence[Shape]
) -> dict[str, Any]:
  """Left-padded rows for `vlm.rollout`.

  Args:
    assistant: whose model is asked.
    samples: this process's prompts; those without visual tokens may stand among
      others.
    shapes: of the prompts of all processes.
  """
  return left_padded(samples, assistant.row([like(shape) for shape in shapes]))
