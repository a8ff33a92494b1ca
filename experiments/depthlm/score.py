"""From records with predictions to scores: one task, or each and their mean."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlm.methods.depthlm import parser
from vlm.metrics import bootstrap, depth, quantities


def score(
  rows: Sequence[Mapping[str, Any]], mode: str = 'strict'
) -> dict[str, Any]:
  """Scores of the distance task alone, or of every task as 'task/metric'.

  Args:
    rows: records with 'prediction' (text), 'task', 'value' (the truth) and
      'image'; those of the distance task also with 'depth' and 'z'.
    mode: parser, see `parser`.

  Returns:
    delta1 and abs_rel as [value, low, high], 95 % over images; the other
    scores, 'z_rmse' (RMSE along the axis), and failures by kind. With more
    than the distance task also 'mean_delta1' over tasks.
  """
  tasks = list(dict.fromkeys(row['task'] for row in rows))
  if tasks == ['distance']:
    return _distance(rows, mode)
  out, delta1 = {}, []
  for task in tasks:
    asked = [row for row in rows if row['task'] == task]
    found = _distance(asked, mode) if task == 'distance' else _one(asked, mode)
    delta1.append(found['delta1'][0])
    out |= {f'{task}/{name}': value for name, value in found.items()}
  return out | {'mean_delta1': float(np.mean(delta1))}


def _one(rows: Sequence[Mapping[str, Any]], mode: str) -> dict[str, Any]:
  """delta1, AbsRel with intervals over images, and the failures.

  The interval of a single photograph is over its pixels, and too narrow.
  """
  outputs = [row['prediction'] for row in rows]
  predicted = depth.as_array([parser.parse(text, mode) for text in outputs])
  truth = np.array([row['value'] for row in rows])
  images = np.array([row['image'] for row in rows])
  if len(set(images)) == 1:  # one photograph: over its pixels instead
    images = np.arange(len(rows))
  out = dict(depth.scores(predicted, truth))
  correct = depth.within(predicted, truth).astype(float)
  out['delta1'] = list(bootstrap.interval(correct, images))
  parsed = np.isfinite(predicted) & (predicted > 0)
  if parsed.any():
    error = np.abs(predicted - truth)[parsed] / truth[parsed]
    out['abs_rel'] = list(bootstrap.interval(error, images[parsed]))
  failed = parser.count_failures(outputs, mode)
  return out | {k.replace(' ', '_'): count for k, count in failed.items()}


def _distance(rows: Sequence[Mapping[str, Any]], mode: str) -> dict[str, Any]:
  """`_one`, and RMSE of the same answers as depths along the axis.

  Every other score is the same in both kinds (`quantities.by_kind`).
  """
  predicted = depth.as_array(
    [parser.parse(row['prediction'], mode) for row in rows]
  )
  distance, z = (np.array([row[k] for row in rows]) for k in ('depth', 'z'))
  along = quantities.by_kind(predicted, distance, z)['z']
  return _one(rows, mode) | {'z_rmse': along['rmse']}
