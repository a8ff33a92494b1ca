"""Scores of numbers asked for in words: by task, and in both depth kinds."""

from collections.abc import Sequence

import numpy as np

from vlm.metrics import depth


def by_task(
  predicted, truth, tasks: Sequence[str], images=None
) -> dict[str, dict[str, float]]:
  """`depth.scores` of each task, as the tasks come, and their mean.

  Args:
    predicted: [N] numbers, NaN where an answer did not parse.
    truth: [N] positive, in the task's unit.
    tasks: [N] name of the task of each.
    images: [N] image of each, for silog.

  Returns:
    {task: scores}, and under 'mean' the mean delta1 over tasks, each counting
    the same however many questions it has, and the count of all.
  """
  predicted, truth = np.asarray(predicted), np.asarray(truth)
  names = np.asarray(tasks)
  images = np.zeros(len(names), int) if images is None else np.asarray(images)
  out = {
    name: depth.scores(predicted[of], truth[of], images[of])
    for name in dict.fromkeys(tasks)
    for of in [names == name]
  }
  delta1 = [scores['delta1'] for scores in out.values()]
  return out | {'mean': {'delta1': float(np.mean(delta1)), 'count': len(names)}}


def by_kind(
  predicted, distance, z, images=None, answered: str = 'range'
) -> dict[str, dict[str, float]]:
  """Scores of the same answers as distances and as depths along the axis.

  Both sides are converted with the label's own ray, so delta and AbsRel agree
  between the kinds and RMSE does not (spec 6).

  Args:
    predicted: [N] metres, NaN where an answer did not parse.
    distance: [N] true distance to the camera centre, metres.
    z: [N] true depth along the axis, metres.
    images: [N] image of each, for silog.
    answered: 'range', or 'z' for a checkpoint that answers in depth.

  Returns:
    {'range': scores, 'z': scores}.

  Raises:
    ValueError: another kind.
  """
  if answered not in ('range', 'z'):
    raise ValueError(f"answered must be 'range' or 'z', got {answered!r}")
  predicted = np.asarray(predicted, np.float64)
  ray = np.asarray(distance, np.float64) / np.asarray(z, np.float64)
  as_range = predicted if answered == 'range' else predicted * ray
  return {
    'range': depth.scores(as_range, distance, images),
    'z': depth.scores(as_range / ray, z, images),
  }
