"""From the records of an evaluation to its scores.

A record is what is known of one query, one line of predictions.jsonl:

  id, dataset, image      of the query; `image` is what the bootstrap draws
  task, value             what is asked for, and the truth
  depth, z                of the point, metres
  pixel, source_pixel     in the picture shown, and in the row's
  size                    width and height of the picture shown
  focal                   fx of the row's camera, pixels
  prediction, number      what was said, and what was read in it (null: nothing)
  failure                 why that is wrong whatever is true; null if it is not
  problem                 why the picture could not be shown; '' if it was
  grid                    frames and visual tokens of each

A query whose picture could not be shown counts as wrong, like an answer that
could not be read; both are counted beside the scores.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.asking.predictions import reason
from vlm.metrics import bootstrap, depth, quantities

Record = Mapping[str, Any]

# Metres of true distance. The last is open.
RANGES = (0, 2, 5, 10, 20, 50)
CONSTANT = 2.0  # metres; the control of the paper's table


def score(records: Sequence[Record], answered: str = 'range') -> dict[str, Any]:
  """Scores all records of one task.

  Args:
    records: see above.
    answered: 'range', or 'z' for a checkpoint that answers in depth along the
      axis; converted with the pixel's own ray.

  Returns:
    `counts`; `all`, `by_dataset` and `by_range`, each with the scores of
    `summary`; `mean_of_datasets`, the plain mean of their delta1, as published
    tables print it; and for distances `by_kind`, the same answers as distances
    and as depths, and `controls`, delta1 of constant answers. NaN is null.
  """
  column = lambda name: np.array([r[name] for r in records])
  is_distance = records[0]['task'] == 'distance'
  if answered == 'z' and not is_distance:
    raise ValueError(f'answers in z are for distances, not {column("task")[0]}')
  predicted = predictions_of(records)
  truth = column('z' if answered == 'z' else 'value')
  part = lambda keep: summary(
    predicted[keep], truth[keep], column('image')[keep]
  )
  datasets = column('dataset')
  names = dict.fromkeys(datasets.tolist())
  out = {
    'counts': counts(records),
    'all': part(np.ones(len(truth), bool)),
    'by_dataset': {name: part(datasets == name) for name in names},
    'by_range': {
      name: part(keep) for name, keep in _ranges(column('depth')) if keep.any()
    },
  }
  means = [scores['delta1'] for scores in out['by_dataset'].values()]
  out['mean_of_datasets'] = {'delta1': float(np.mean(means))}
  if is_distance:
    out['by_kind'] = quantities.by_kind(
      predicted, column('depth'), column('z'), column('image'), answered
    )
    out['controls'] = _controls(truth)
  return _plain(out)


def predictions_of(records: Sequence[Record]) -> np.ndarray:
  """Numbers that were read, [N]; NaN for those that are wrong anyway."""
  return depth.as_array(
    [None if r['problem'] or r['failure'] else r['number'] for r in records]
  )


def counts(records: Sequence[Record]) -> dict[str, Any]:
  """Queries, pictures, and what went wrong, by name."""
  by = lambda values: dict(sorted(Counter(values).items()))
  return {
    'queries': len(records),
    'images': len({r['image'] for r in records}),
    'failures': by(r['failure'] for r in records if r['failure']),
    'problems': by(reason(r) for r in records if r['problem']),
  }


def summary(predicted, truth, images) -> dict[str, Any]:
  """`depth.scores`, 95 % intervals over images, and the median ratio.

  The ratio of answer and truth shows a scale that is off, and far distances
  that are compressed, which no other score tells apart from noise.
  """
  out = dict(depth.scores(predicted, truth, images))
  parsed = np.isfinite(predicted)
  ratio = predicted[parsed] / truth[parsed]
  out['median_ratio'] = float(np.median(ratio)) if ratio.size else np.nan
  out['images'] = len(set(images.tolist()))
  out['intervals'] = _intervals(predicted, truth, images)
  return out


def _intervals(predicted, truth, images) -> dict[str, list[float]]:
  each = {
    f'delta{k}': (depth.within(predicted, truth, k).astype(float), images)
    for k in (1, 2, 3)
  }
  parsed = np.isfinite(predicted)
  if parsed.any():
    p, g, shown = predicted[parsed], truth[parsed], images[parsed]
    each['abs_rel'] = np.abs(p - g) / g, shown
    each['rmse'] = (p - g) ** 2, shown
    each['log10'] = np.abs(np.log10(p / g)), shown
    each['silog'] = depth.silog_by_image(np.log(p / g), shown)
  bounds = {
    name: list(bootstrap.interval(*found)[1:]) for name, found in each.items()
  }
  if 'rmse' in bounds:
    bounds['rmse'] = np.sqrt(bounds['rmse']).tolist()
  return bounds


def _ranges(metres: np.ndarray):
  for low, high in zip(RANGES, (*RANGES[1:], np.inf)):
    name = f'{low}-{high} m' if np.isfinite(high) else f'over {low} m'
    yield name, (metres >= low) & (metres < high)


def _controls(truth: np.ndarray) -> dict[str, float]:
  """delta1 of answers that look at no picture; the median is an oracle's."""
  share = lambda metres: float(
    depth.within(np.full(len(truth), metres), truth).mean()
  )
  return {
    f'constant {CONSTANT} m': share(CONSTANT),
    'median of these labels': share(depth.constant_prior(truth)),
  }


def _plain(value: Any) -> Any:
  """NaN to None: JSON has none."""
  if isinstance(value, dict):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, list):
    return [_plain(item) for item in value]
  return None if isinstance(value, float) and np.isnan(value) else value
