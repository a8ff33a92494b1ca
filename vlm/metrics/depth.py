"""Metric-depth scores, and the controls every table of them needs.

A prediction of NaN is a parse failure (use `as_array` on parsed answers). It
counts as wrong in delta1..3, whose denominator is every evaluated query; the
error means are over the parsed ones, and the failures are reported beside them.
"""

from collections.abc import Mapping, Sequence

import numpy as np


def as_array(predictions: Sequence[float | None]) -> np.ndarray:
  """Parsed answers -> float64 [N] with NaN where parsing failed."""
  return np.array([np.nan if p is None else p for p in predictions], np.float64)


def _checked(predicted, truth):
  predicted = np.asarray(predicted, np.float64)
  truth = np.asarray(truth, np.float64)
  if predicted.shape != truth.shape or truth.ndim != 1 or not truth.size:
    raise ValueError(
      'predictions and labels must be two equal, non-empty lists, got shapes '
      f'{predicted.shape} and {truth.shape}'
    )
  if not (np.isfinite(truth) & (truth > 0)).all():
    raise ValueError('labels must be finite and positive metres')
  # Neither is a distance; upstream counted two negatives as correct.
  unusable = ~np.isfinite(predicted) | (predicted <= 0)
  return np.where(unusable, np.nan, predicted), truth


def within(predicted, truth, power: int = 1) -> np.ndarray:
  """[N] bool: max(p / g, g / p) < 1.25 ** power, strict; failures are False."""
  predicted, truth = _checked(predicted, truth)
  ratio = np.maximum(predicted / truth, truth / predicted)
  return ratio < 1.25**power  # a comparison with NaN is False


def scores(predicted, truth, images=None) -> dict[str, float]:
  """Standard depth metrics of predictions [N] against labels [N], metres.

  delta1..3: share within 1.25 ** k. abs_rel: mean |p - g| / g. rmse: metres.
  log10: mean |log10 p - log10 g|. silog: 100 sqrt(mean e^2 - (mean e)^2) with
  e = ln p - ln g, per image and averaged over images (Eigen et al. 2014).

  Args:
    predicted: NaN where the answer did not parse.
    truth: positive labels.
    images: [N] image of each query, for silog; one image when left out.

  Returns:
    The scores, 'count' and 'parse_failures'. Error means are NaN when nothing
    parsed.
  """
  predicted, truth = _checked(predicted, truth)
  images = np.zeros(len(truth), int) if images is None else np.asarray(images)
  parsed = np.isfinite(predicted)
  out = {
    f'delta{k}': float(within(predicted, truth, k).mean()) for k in (1, 2, 3)
  }
  p, g = predicted[parsed], truth[parsed]
  nothing = not parsed.any()
  out |= {
    'abs_rel': np.nan if nothing else float(np.mean(np.abs(p - g) / g)),
    'rmse': np.nan if nothing else float(np.sqrt(np.mean((p - g) ** 2))),
    'log10': np.nan if nothing else float(np.mean(np.abs(np.log10(p / g)))),
    'silog': _silog(np.log(p / g), images[parsed]),
    'count': len(truth),
    'parse_failures': int((~parsed).sum()),
  }
  return out


def _silog(error, images) -> float:
  if not len(error):
    return float('nan')
  return float(np.mean(silog_by_image(error, images)[0]))


def silog_by_image(error, images) -> tuple[np.ndarray, np.ndarray]:
  """SILog of each image from e = ln p - ln g [N], and the images' names."""
  names, group = np.unique(images, return_inverse=True)
  count = np.bincount(group)
  mean = np.bincount(group, error) / count
  square = np.bincount(group, error**2) / count
  # The variance of equal errors may come out as -1e-17.
  return 100 * np.sqrt(np.maximum(square - mean**2, 0)), names


def constant_prior(train_depth) -> float:
  """The median label: the best constant answer for a scale-free score."""
  return float(np.median(train_depth))


def location_prior(train_pixels, train_depth, pixels, nearest: int = 50):
  """Median training label near each position: what no picture tells.

  Args:
    train_pixels: [M, 2] positions in the normalised frame.
    train_depth: [M] labels, metres.
    pixels: [N, 2] positions to answer for.
    nearest: number of nearest training queries.

  Returns:
    [N] metres.
  """
  train_pixels = np.asarray(train_pixels, np.float64)
  train_depth = np.asarray(train_depth, np.float64)
  nearest = min(nearest, len(train_depth))
  out = np.empty(len(pixels))
  for row, pixel in enumerate(np.asarray(pixels, np.float64)):
    distance = ((train_pixels - pixel) ** 2).sum(1)
    # Among ties the lower index wins, so the answer is reproducible.
    near = np.argsort(distance, kind='stable')[:nearest]
    out[row] = np.median(train_depth[near])
  return out


def hard_subset(location_answers, truth) -> np.ndarray:
  """[N] bool: labels at least 1.25x off the location prior's answer.

  The prior scores 0 there by definition, so what is left is vision.
  """
  return ~within(location_answers, truth)


def table_row(
  predicted, truth, location_answers, images=None
) -> Mapping[str, float]:
  """`scores`, with delta1 on the hard subset and that subset's share."""
  hard = hard_subset(location_answers, truth)
  correct = within(predicted, truth)
  return scores(predicted, truth, images) | {
    'delta1_hard': float(correct[hard].mean()) if hard.any() else float('nan'),
    'hard_share': float(hard.mean()),
  }
