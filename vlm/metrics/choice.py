"""Credit for answers to multiple-choice questions."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

Invalid = Literal['wrong', 'chance']


def credit(
  choices: Sequence[int | None],
  answers: Sequence[int],
  options: Sequence[int],
  shown: Sequence[bool],
  invalid: Invalid = 'wrong',
) -> Float[np.ndarray, 'N']:
  """What each answer counts.

  Args:
    choices: [N] the option chosen; None where the words name none.
    answers: [N] the right option.
    options: [N] how many there were.
    shown: [N] whether the question could be asked with its video; one that
      could not counts nothing, whatever was said.
    invalid: an answer that names no option is 'wrong', or counts what a random
      choice would on average, 1 / options.

  Returns:
    float64 [N], 1 for right.
  """
  right = np.array([c == a for c, a in zip(choices, answers, strict=True)])
  found = right.astype(np.float64)
  if invalid == 'chance':
    unnamed = np.array([choice is None for choice in choices])
    found = np.where(unnamed, 1 / np.asarray(options), found)
  return np.where(np.asarray(shown, bool), found, 0.0)


def by_group(
  values: Float[np.ndarray, 'N'], groups: Sequence[str]
) -> Mapping[str, tuple[float, int]]:
  """Mean and number of the values of each group, as the groups come."""
  inside = {name: np.asarray(groups) == name for name in dict.fromkeys(groups)}
  return {
    name: (float(values[chosen].mean()), int(chosen.sum()))
    for name, chosen in inside.items()
  }
