"""Opinions as five words (Q-Align, arXiv 2312.17090), and scores from them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LEVELS = ('excellent', 'good', 'fair', 'poor', 'bad')
WEIGHTS = (5, 4, 3, 2, 1)  # of the levels, in their order
_SLACK = 1e-8  # opinions on a border are of the lower level

_WORD = re.compile(rf'\b({"|".join(LEVELS)})\b', re.IGNORECASE)


def level_of(mos: float | int, low: float | int, high: float | int) -> str:
  """The word of an opinion: five equal parts of [low, high].

  Raises:
    ValueError: an opinion outside of the range.
  """
  if not low < high or not low - _SLACK <= mos <= high + _SLACK:
    raise ValueError(f'opinion {mos}, expected one in [{low}, {high}]')
  part = np.ceil(5 * (mos - low) / (high - low) - _SLACK)
  return LEVELS[5 - int(np.clip(part, 1, 5))]


def level_score(text: str) -> float | None:
  """5 for 'excellent' to 1 for 'bad': the first such word; None without one."""
  found = _WORD.search(text)
  return found and float(WEIGHTS[LEVELS.index(found.group(1).lower())])


def expected_score(logits: Float[Array, '*B 5']) -> Float[Array, '*B']:
  """Score of the logits of the five level tokens, excellent first, float32.

  Softmax over the five, then the mean of 5, 4, 3, 2, 1.
  """
  probs = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
  return probs @ jnp.array(WEIGHTS, jnp.float32)
