"""Reads the facts of published preprocessor files, and refuses the others."""

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

# What every tower here expects; a file that says otherwise is another model.
_COMMON = {
  'do_convert_rgb': True,
  'do_normalize': True,
  'do_rescale': True,
  'do_resize': True,
  'resample': 3,
}


def check_common(config: Config) -> None:
  """Checks that images become RGB, are resized bicubically and normalised.

  Raises:
    ValueError: naming the key that says otherwise.
  """
  for key, supported in _COMMON.items():
    check(key, config.get(key), supported)


def check(key: str, found: Any, supported: Any) -> None:
  """Checks one key of a preprocessor file; None means its default.

  Raises:
    ValueError: naming the key.
  """
  if found is not None and found != supported:
    raise ValueError(
      f'preprocessor_config.json: {key} is {found!r}, supported: {supported!r}'
    )


def square(size: Any, default: int) -> int:
  """The side of a square: 448, or {'height': 448, 'width': 448}.

  Raises:
    ValueError: for a size that is not square.
  """
  if size is None or isinstance(size, int):
    return size or default
  if size.get('height') != size.get('width') or not size.get('height'):
    raise ValueError(
      f'preprocessor_config.json: size is {dict(size)}, expected a square'
    )
  return size['height']


def check_normalisation(config: Config, tower: Any) -> None:
  """Checks that a tower normalises pixels as the preprocessor file says.

  Pixels reach the device as uint8 and the tower normalises them, so that a
  checkpoint with other constants would silently see other colours.

  Args:
    config: the preprocessor file.
    tower: configuration with `pixel_mean` and `pixel_std`.

  Raises:
    ValueError: naming the constant, what the file has and what the tower has.
  """
  for key, ours in (
    ('image_mean', tower.pixel_mean),
    ('image_std', tower.pixel_std),
  ):
    found = config.get(key)
    if found is not None and any(
      abs(a - b) > 1e-6 for a, b in zip(found, ours, strict=True)
    ):
      raise ValueError(
        f'preprocessor_config.json: {key} is {found}, the tower normalises '
        f'with {list(ours)}'
      )
