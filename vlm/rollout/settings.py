"""What a person chooses about sampling, checked when it is chosen."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vlm.models import plan

POWERS = tuple(2**power for power in range(4, 18))


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are drawn and when a sample ends.

  Filters come in the order of transformers' processors: repetition penalty,
  temperature, top-k, top-p.

  Attributes:
    max_new_tokens: longest sample, its EOS included.
    eos_ids: a sample ends after one of these.
    temperature: divides the logits; 0 takes the most likely token.
    top_k: keep the k most likely tokens; 0 keeps all.
    top_p: keep the fewest likeliest tokens whose probability reaches it.
    repetition_penalty: divides positive and multiplies negative logits of
      tokens that stand in the prompt or were said before (arXiv 1909.05858,
      section 4.1); 1 is off. Padding does not count.
    stop: a sample ends with the token that completes one of these texts.
  """

  max_new_tokens: int
  eos_ids: tuple[int, ...]
  temperature: float | int = 1.0
  top_k: int = 0
  top_p: float | int = 1.0
  repetition_penalty: float | int = 1.0
  stop: tuple[str, ...] = ()

  def __post_init__(self):
    for name, wanted, fits in (
      ('max_new_tokens', 'at least 1', self.max_new_tokens >= 1),
      ('eos_ids', 'at least one id', len(self.eos_ids) > 0),
      ('temperature', 'at least 0', self.temperature >= 0),
      ('top_k', 'at least 0', self.top_k >= 0),
      ('top_p', 'in (0, 1]', 0 < self.top_p <= 1),
      ('repetition_penalty', 'above 0', self.repetition_penalty > 0),
      ('stop', 'texts that are not empty', '' not in self.stop),
    ):
      if not fits:
        raise ValueError(
          f'sampling.{name}={getattr(self, name)!r}, expected {wanted}'
        )

  def compiled(self) -> 'Sampling':
    """What a compile depends on; lengths and texts are the host's business."""
    return dataclasses.replace(self, max_new_tokens=1, stop=())


@dataclasses.dataclass(frozen=True)
class Buckets:
  """The static lengths that may occur; each pair of them is one compile.

  Attributes:
    prompt: lengths prompts are padded to.
    new: lengths of the caches of new tokens.
  """

  prompt: tuple[int, ...] = POWERS
  new: tuple[int, ...] = POWERS

  def length(self, max_new_tokens: int) -> int:
    """The cache length for `max_new_tokens`."""
    return plan.bucket(max_new_tokens, self.new, 'max_new_tokens (Buckets.new)')

  def fit(self, prompts: dict[str, Any]) -> dict[str, Any]:
    """Pads prompts on the left to the bucket that holds the longest.

    Columns that are padding in every row go first, where the arrays are still
    on the host; arrays on devices are only padded.

    Args:
      prompts: tokens and segment_ids [B, T], and positions, if any, [B, T] or
        [B, T, 3]; other keys pass through.

    Raises:
      ValueError: a row that is not padded on the left, or no bucket is large
        enough.
    """
    segments = prompts['segment_ids']
    length = segments.shape[1]
    if isinstance(segments, np.ndarray):
      _check_left(segments)
      length = max(1, int((segments != 0).sum(axis=1).max()))
    size = plan.bucket(length, self.prompt, 'prompt tokens (Buckets.prompt)')
    return prompts | {
      key: _resized(prompts[key], size)
      for key in ('tokens', 'segment_ids', 'positions')
      if prompts.get(key) is not None
    }


def _check_left(segments: np.ndarray) -> None:
  after = (segments[:, :-1] != 0) & (segments[:, 1:] == 0)
  broken = np.flatnonzero(after.any(axis=1))
  if broken.size:
    raise ValueError(
      f'segment_ids of row {broken[0]}: padding (0) stands after the prompt; '
      'prompts are padded on the left'
    )


def _resized(array: Any, size: int) -> Any:
  """Cuts or zero-fills axis 1 on its left."""
  missing = size - array.shape[1]
  if missing <= 0:
    return array[:, -missing:]
  widths = [(0, 0), (missing, 0)] + [(0, 0)] * (array.ndim - 2)
  if isinstance(array, np.ndarray):
    return np.pad(array, widths)
  return jnp.pad(array, widths)


def seeds_of(seeds: Sequence[int] | Any, rows: int, needed: bool) -> Any:
  """One seed per prompt as uint32 [B].

  Raises:
    ValueError: there are none although tokens are drawn, or not one per row.
  """
  if seeds is None:
    if needed:
      raise ValueError('temperature > 0 draws tokens: pass one seed per prompt')
    return np.zeros((rows,), np.uint32)
  if len(seeds) != rows:
    raise ValueError(f'{len(seeds)} seeds for {rows} prompts')
  return seeds if hasattr(seeds, 'dtype') else np.asarray(seeds, np.uint32)
