"""Samples for people to read: prompts, completions and what they earned."""

import dataclasses
import json
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath

from vlm.rollout.groups import Groups


@dataclasses.dataclass(frozen=True)
class SampleTable:
  """Writes FOLDER/STEP.jsonl, a line per prompt, by process 0.

  A file per step: a run that repeats a step writes the same file again.

  Attributes:
    folder: of the files.
    rewards: names of the rewards.
    every: steps between two tables; 0 is never.
    updates: steps per batch of completions.
  """

  folder: epath.Path
  rewards: Sequence[str]
  every: int
  updates: int = 1

  def __call__(self, step: int, groups: Groups) -> None:
    """Writes the groups that step `step` + 1 begins to learn from."""
    if jax.process_index() or not self.every:
      return
    if step % self.every >= self.updates:
      return
    self.folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(self._row(step, groups, p)) for p in _places(groups)]
    path = self.folder / f'{step:08d}.jsonl'
    path.write_text(''.join(f'{line}\n' for line in lines))

  def _row(self, step: int, groups: Groups, place: int) -> dict:
    rewards = {
      name: _numbers(groups.rewards[place, :, number])
      for number, name in enumerate(self.rewards)
    }
    return {
      'step': step,
      'prompt': groups.prompts[place],
      'record': groups.records[place],
      'completions': list(groups.texts[place]),
      'lengths': groups.lengths[place].tolist(),
      'truncated': groups.truncated[place].tolist(),
      'rewards': rewards,
      'total': _numbers(groups.total[place]),
      'counted': groups.counted[place].tolist(),
      'advantages': _numbers(groups.advantages[place]),
    }


def _places(groups: Groups) -> range:
  return range(len(groups.lengths))


def _numbers(values: np.ndarray) -> list[float | None]:
  """JSON has no NaN."""
  return [float(v) if np.isfinite(v) else None for v in values]
