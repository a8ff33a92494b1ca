"""Cosine transforms of 8 x 8 blocks, and what they say about a small picture.

With raw patches of 8 x 8 pixels a model of some hundred thousand parameters
does not find degradations in a minute of training; with these 81 numbers of a
patch it does (spec 9.4, point 5).
"""

import numpy as np
from numpy.lib import stride_tricks

BLOCK = 8
FEATURES = 81
QUANTILES = tuple(k / 10 for k in range(1, 10))
LUMA = np.array([0.299, 0.587, 0.114])
RANGE = 3.0  # of features in a picture of them
_FLOOR = 1e-3  # of a logarithm's argument, pixels being in [0, 1]


def _basis() -> np.ndarray:
  """The orthonormal DCT-II as a matrix [8, 8]."""
  k, n = np.arange(BLOCK)[:, None], np.arange(BLOCK)
  rows = np.sqrt(2 / BLOCK) * np.cos(np.pi * (2 * n + 1) * k / (2 * BLOCK))
  rows[0] /= np.sqrt(2)
  return rows


_DCT = _basis()


def blocks(plane: np.ndarray) -> np.ndarray:
  """[H, W, ...] to [H/8, W/8, 8, 8, ...].

  Raises:
    ValueError: sides that are no multiples of 8.
  """
  height, width, *rest = plane.shape
  if height % BLOCK or width % BLOCK:
    raise ValueError(f'{height} x {width} pixels, expected multiples of 8')
  cut = plane.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, *rest)
  return cut.swapaxes(1, 2)


def whole(cut: np.ndarray) -> np.ndarray:
  """The inverse of `blocks`."""
  rows, columns, _, _, *rest = cut.shape
  return cut.swapaxes(1, 2).reshape(rows * BLOCK, columns * BLOCK, *rest)


def dct(cut: np.ndarray) -> np.ndarray:
  """Coefficients of blocks [..., 8, 8]."""
  return _DCT @ cut @ _DCT.T


def inverse_dct(coefficients: np.ndarray) -> np.ndarray:
  """Blocks of coefficients [..., 8, 8]."""
  return _DCT.T @ coefficients @ _DCT


def patch_features(rgb: np.ndarray) -> np.ndarray:
  """What each patch of 8 x 8 pixels looks like.

  In this order: log magnitude of the 64 DCT coefficients of luma, row by row;
  mean and log deviation of each colour; log mean absolute difference along
  rows and columns of luma; nine quantiles (0.1 to 0.9) of the absolute
  Laplacian of luma, as logarithms. Differences reach one pixel beyond a patch,
  where the picture goes on.

  Args:
    rgb: uint8 [H, W, 3], sides are multiples of 8.

  Returns:
    float32 [H/8, W/8, 81], of about unit size.
  """
  colour = rgb.astype(np.float64) / 255
  luma = colour @ LUMA
  patches = blocks(luma)
  parts = [
    _log(np.abs(dct(patches))).reshape(*patches.shape[:2], -1),
    4 * (blocks(colour).mean((2, 3)) - 0.5),
    _log(blocks(colour).std((2, 3))),
    _log(_mean_differences(luma)),
    _log(_laplacian_quantiles(luma)),
  ]
  return np.concatenate(parts, axis=-1).astype(np.float32)


def _log(values: np.ndarray) -> np.ndarray:
  """Logarithms brought to about [-1.5, 1.5]."""
  return np.log(values + _FLOOR) / 2 + 1.75


def _mean_differences(luma: np.ndarray) -> np.ndarray:
  """[h, w, 2]: mean absolute step to the right and down."""
  padded = np.pad(luma, ((0, 1), (0, 1)), mode='edge')
  right = np.abs(padded[:-1, 1:] - padded[:-1, :-1])
  down = np.abs(padded[1:, :-1] - padded[:-1, :-1])
  return np.stack([blocks(d).mean((2, 3)) for d in (right, down)], axis=-1)


def _laplacian_quantiles(luma: np.ndarray) -> np.ndarray:
  """[h, w, 9]."""
  windows = stride_tricks.sliding_window_view(
    np.pad(luma, 1, mode='edge'), (3, 3)
  )
  kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
  sharp = np.abs(np.einsum('hwij,ij->hw', windows, kernel))
  flat = blocks(sharp).reshape(*blocks(sharp).shape[:2], -1)
  return np.moveaxis(np.quantile(flat, QUANTILES, axis=-1), 0, -1)


def feature_picture(rgb: np.ndarray, patch: int = 6) -> np.ndarray:
  """The features as a picture, `patch` x `patch` pixels for each of 8 x 8.

  A tower whose patches have that side then sees the 81 numbers of each, and
  zeros where 3 * patch * patch is more. Grey 0 to 255 stands for -`RANGE` to
  `RANGE`: a tower with pixel_mean 0.5 and pixel_std 1 / (2 `RANGE`) undoes it.

  Args:
    rgb: uint8 [H, W, 3], sides are multiples of 8.
    patch: side, at least 6.

  Returns:
    uint8 [H/8 * patch, W/8 * patch, 3].
  """
  found = patch_features(rgb)
  rows, columns, _ = found.shape
  room = 3 * patch * patch - FEATURES
  if room < 0:
    raise ValueError(f'patch={patch}: {FEATURES} numbers need at least 6')
  padded = np.pad(found, ((0, 0), (0, 0), (0, room)))
  grey = np.clip(np.round((padded / RANGE + 1) * 127.5), 0, 255)
  cut = grey.astype(np.uint8).reshape(rows, columns, patch, patch, 3)
  return cut.swapaxes(1, 2).reshape(rows * patch, columns * patch, 3)
