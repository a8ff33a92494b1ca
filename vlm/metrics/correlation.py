"""How well predicted quality agrees with opinion: correlations and errors.

Published PLCC columns mix protocols: some are of raw predictions, some of
predictions after a logistic fit to the very opinions they are compared with
(VQEG). Here every variant has its own name. Rank correlations are of raw
predictions always: a fit may turn an inverted scorer round.

A correlation with a constant, or of one image, is NaN; so is a fit with fewer
images than parameters, or one that does not converge.
"""

import warnings

import numpy as np
from scipy import optimize, special, stats

from vlm.metrics import bootstrap

FITS = (4, 5)


def _checked(predicted, truth) -> tuple[np.ndarray, np.ndarray]:
  predicted = np.asarray(predicted, np.float64)
  truth = np.asarray(truth, np.float64)
  if predicted.shape != truth.shape or truth.ndim != 1 or not truth.size:
    raise ValueError(
      'predictions and opinions must be two equal, non-empty lists, got shapes '
      f'{predicted.shape} and {truth.shape}'
    )
  for name, values in (('prediction', predicted), ('opinion', truth)):
    if not np.isfinite(values).all():
      first = int(np.argmin(np.isfinite(values)))
      raise ValueError(
        f'{name} {first} is {values[first]}, expected a finite number; give '
        'unread answers their constant first'
      )
  return predicted, truth


def _constant(values: np.ndarray) -> bool:
  return bool(values.min() == values.max())


def plcc(predicted, truth) -> float:
  """Pearson's linear correlation of [N] and [N]; NaN if one is constant."""
  predicted, truth = _checked(predicted, truth)
  return _pearson(predicted, truth)


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
  if _constant(x) or _constant(y):
    return float('nan')
  # Scaled first: the square of a very small spread would be zero.
  x, y = (v - v.mean() for v in (x, y))
  x, y = x / np.abs(x).max(), y / np.abs(y).max()
  return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))


def srcc(predicted, truth) -> float:
  """Spearman's: Pearson's of ranks, of which ties share the average."""
  predicted, truth = _checked(predicted, truth)
  return _pearson(stats.rankdata(predicted), stats.rankdata(truth))


def krcc(predicted, truth) -> float:
  """Kendall's tau-b, which allows for ties."""
  predicted, truth = _checked(predicted, truth)
  if _constant(predicted) or _constant(truth):
    return float('nan')
  return float(stats.kendalltau(predicted, truth).statistic)


def rmse(predicted, truth) -> float:
  """Root of the mean squared error, in units of the opinions."""
  predicted, truth = _checked(predicted, truth)
  return float(np.sqrt(np.mean((predicted - truth) ** 2)))


def mae(predicted, truth) -> float:
  """Mean absolute error, in units of the opinions."""
  predicted, truth = _checked(predicted, truth)
  return float(np.mean(np.abs(predicted - truth)))


def _logistic4(x, high, low, middle, slope):
  return (high - low) * special.expit((x - middle) / slope) + low


def _logistic5(x, height, steepness, middle, tilt, offset):
  step = 0.5 - special.expit(-steepness * (x - middle))
  return height * step + tilt * x + offset


def logistic_fit(predicted, truth, parameters: int = 4) -> np.ndarray:
  """Predictions mapped to opinions by a fitted logistic curve.

  4 parameters: (b1 - b2) / (1 + exp(-(x - b3) / b4)) + b2, from max y, min y,
  mean x and +-std x / 4 (DeQA-Score's protocol). 5 parameters:
  b1 (1/2 - 1 / (1 + exp(b2 (x - b3)))) + b4 x + b5 (Sheikh et al. 2006).

  Args:
    predicted: [N].
    truth: [N] opinions.
    parameters: 4 or 5.

  Returns:
    float64 [N] on the scale of the opinions; NaN where there is no fit (see
    the module's docstring).

  Raises:
    ValueError: other lists, or another number of parameters.
  """
  predicted, truth = _checked(predicted, truth)
  if parameters not in FITS:
    raise ValueError(f'parameters={parameters}, expected one of {FITS}')
  nothing = np.full(len(truth), np.nan)
  if len(truth) < parameters or _constant(predicted) or _constant(truth):
    return nothing
  # Both families contain every shift and scale of x, and a unit scale fits
  # alike whatever a scorer's range.
  x = (predicted - predicted.mean()) / predicted.std()
  high, low = truth.max(), truth.min()
  sign = np.sign(_pearson(x, truth)) or 1.0  # of a scorer that is inverted
  if parameters == 4:
    curve, start = _logistic4, [high, low, 0.0, 0.25 * sign]
  else:
    curve = _logistic5
    start = [sign * (high - low), 1.0, 0.0, 0.0, truth.mean()]
  try:
    with warnings.catch_warnings():
      # The covariance, which nobody reads, may be singular.
      warnings.simplefilter('ignore', optimize.OptimizeWarning)
      found, _ = optimize.curve_fit(curve, x, truth, p0=start, maxfev=10_000)
  except RuntimeError:
    return nothing
  return curve(x, *found)


def scores(predicted, truth) -> dict[str, float]:
  """Every score of predictions [N] against opinions [N].

  Returns:
    plcc, plcc_logistic4, plcc_logistic5, srcc, krcc, rmse, rmse_logistic4,
    rmse_logistic5, mae; rmse and mae mean something only where predictions are
    on the scale of the opinions.
  """
  predicted, truth = _checked(predicted, truth)
  out = {'plcc': plcc(predicted, truth)}
  fits = {f'logistic{k}': logistic_fit(predicted, truth, k) for k in FITS}
  for name, fitted in fits.items():
    # A flat fit explains nothing; a failed one is NaN already.
    known = np.isfinite(fitted).all()
    out[f'plcc_{name}'] = _pearson(fitted, truth) if known else float('nan')
  out |= {'srcc': srcc(predicted, truth), 'krcc': krcc(predicted, truth)}
  out['rmse'] = rmse(predicted, truth)
  for name, fitted in fits.items():
    out[f'rmse_{name}'] = float(np.sqrt(np.mean((fitted - truth) ** 2)))
  out['mae'] = mae(predicted, truth)
  return out


def intervals(
  predicted, truth, images=None, draws: int = 1000, seed: int = 0
) -> dict[str, bootstrap.Interval]:
  """95 % intervals of PLCC and SRCC when images are resampled.

  Args:
    predicted: [N].
    truth: [N].
    images: [N] what is drawn together, such as the reference of a distorted
      image; every image for itself if left out.
    draws: bootstrap samples.
    seed: of the resampling.
  """
  predicted, truth = _checked(predicted, truth)
  images = np.arange(len(truth)) if images is None else np.asarray(images)
  # Ranks of a resample are ranks within it, so SRCC starts from the values.
  return {
    name: bootstrap.statistic_interval(
      statistic, (predicted, truth), images, draws=draws, seed=seed
    )
    for name, statistic in (('plcc', plcc), ('srcc', srcc))
  }
