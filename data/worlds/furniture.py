"""A catalogue of furniture made of boxes, upright cylinders and spheres.

Each builder draws real sizes in metres and returns parts in the object's own
frame: x to its right, y to its back, z up, origin at the middle of its base.
A part is (kind, centre, half extents, material); materials 0, 1, 2 become
three textures of the object.
"""

from typing import NamedTuple

import numpy as np

from data.worlds.raycast import BOX, CYLINDER, SPHERE


class Part(NamedTuple):
  """One convex solid of an object."""

  kind: int
  centre: tuple[float, float, float]
  half: tuple[float, float, float]
  material: int = 0


def _block(width, depth, height, base=0.0, x=0.0, y=0.0, material=0) -> Part:
  centre = (x, y, base + height / 2)
  return Part(BOX, centre, (width / 2, depth / 2, height / 2), material)


def _tube(radius, height, base=0.0, x=0.0, y=0.0, material=0) -> Part:
  centre = (x, y, base + height / 2)
  return Part(CYLINDER, centre, (radius, radius, height / 2), material)


def _globe(radius, base=0.0, material=0) -> Part:
  return Part(SPHERE, (0, 0, base + radius), (radius,) * 3, material)


def _legs(width, depth, height, thick, material=1) -> list[Part]:
  x, y = (width - thick) / 2, (depth - thick) / 2
  return [
    _block(thick, thick, height, x=a * x, y=b * y, material=material)
    for a in (-1, 1)
    for b in (-1, 1)
  ]


def _table(u):
  width, depth, height = u(0.8, 1.8), u(0.6, 1.0), u(0.68, 0.78)
  top = _block(width, depth, 0.05, height - 0.05)
  return [top, *_legs(width, depth, height - 0.05, 0.06)]


def _round_table(u):
  radius, height = u(0.4, 0.7), u(0.65, 0.76)
  return [
    _tube(radius, 0.04, height - 0.04),
    _tube(0.05, height - 0.06, 0.02, material=1),
    _tube(0.5 * radius, 0.03, material=1),
  ]


def _chair(u):
  width, depth, seat = u(0.4, 0.5), u(0.4, 0.5), u(0.43, 0.48)
  back = u(0.35, 0.5)
  return [
    _block(width, depth, 0.05, seat - 0.05),
    _block(width, 0.04, back, seat, y=depth / 2 - 0.02),
    *_legs(width, depth, seat - 0.05, 0.04),
  ]


def _sofa(u):
  width, depth, arm = u(1.4, 2.3), u(0.8, 1.0), u(0.15, 0.25)
  seat, back = u(0.38, 0.45), u(0.75, 0.9)
  side = (width - arm) / 2
  return [
    _block(width, depth, seat),
    _block(width, 0.22, back - seat, seat, y=depth / 2 - 0.11),
    _block(arm, depth, 0.2, seat, x=-side),
    _block(arm, depth, 0.2, seat, x=side),
  ]


def _bed(u):
  width, depth, height = u(0.9, 1.8), u(1.95, 2.1), u(0.4, 0.6)
  pillow = 0.8 * width
  return [
    _block(width, depth, height - 0.2, material=1),
    _block(0.98 * width, depth - 0.06, 0.2, height - 0.2),
    _block(width, 0.06, u(0.8, 1.1), y=depth / 2 - 0.03, material=1),
    _block(pillow, 0.35, 0.1, height, y=depth / 2 - 0.3, material=2),
  ]


def _cabinet(u):
  width, depth, height = u(0.6, 1.6), u(0.4, 0.6), u(0.8, 2.1)
  knob = _block(0.03, 0.03, 0.15, height / 2, y=-depth / 2, material=1)
  return [_block(width, depth, height), knob]


def _shelf(u):
  width, depth, height = u(0.6, 1.2), u(0.25, 0.4), u(1.2, 2.1)
  side = width / 2 - 0.015
  boards = [
    _block(width, depth, 0.03, base)
    for base in np.linspace(0, height - 0.03, int(u(3, 6)))
  ]
  return [
    *boards,
    _block(0.03, depth, height, x=-side),
    _block(0.03, depth, height, x=side),
    _block(width, 0.02, height, y=depth / 2 - 0.01, material=1),
  ]


def _lamp(u):
  height, radius = u(1.3, 1.8), u(0.15, 0.28)
  return [
    _tube(0.14, 0.03, material=1),
    _tube(0.02, height - 0.3, 0.03, material=1),
    _tube(radius, 0.28, height - 0.28),
  ]


def _stool(u):
  radius, height = u(0.15, 0.22), u(0.42, 0.7)
  return [
    _tube(radius, 0.05, height - 0.05),
    *_legs(1.3 * radius, 1.3 * radius, height - 0.05, 0.04),
  ]


def _plant(u):
  pot, crown = u(0.14, 0.22), u(0.22, 0.45)
  stem = u(0.2, 0.6)
  return [
    _tube(pot, 0.3),
    _tube(0.03, stem, 0.3, material=1),
    _globe(crown, 0.25 + stem, material=2),
  ]


def _ball(u):
  return [_globe(u(0.1, 0.38))]


def _crate(u):
  return [_block(u(0.3, 1.0), u(0.3, 0.8), u(0.3, 1.0))]


def _bin(u):
  return [_tube(u(0.13, 0.2), u(0.28, 0.6))]


def _column(u):
  return [_tube(u(0.15, 0.3), u(1.6, 2.2))]


STANDING = {
  'table': _table,
  'round table': _round_table,
  'chair': _chair,
  'sofa': _sofa,
  'bed': _bed,
  'cabinet': _cabinet,
  'shelf': _shelf,
  'lamp': _lamp,
  'stool': _stool,
  'plant': _plant,
  'ball': _ball,
  'crate': _crate,
  'bin': _bin,
  'column': _column,
}
AGAINST_WALL = frozenset({'sofa', 'bed', 'cabinet', 'shelf'})

# Flat things on a wall: (width, height, height of the lower edge), metres.
HANGING = {
  'door': ((0.8, 1.0), (1.95, 2.1), (0.0, 0.0)),
  'window': ((0.8, 1.8), (0.9, 1.3), (0.8, 1.0)),
  'picture': ((0.3, 1.0), (0.3, 0.8), (1.1, 1.5)),
}


def build(name: str, rng: np.random.Generator) -> list[Part]:
  """Draws one object of category `name` from `STANDING`."""
  return STANDING[name](lambda low, high: low + (high - low) * rng.random())


def build_hanging(name: str, rng: np.random.Generator, ceiling: float):
  """Draws a flat wall object: (part in its own frame, base height in m).

  Its back, the face that touches the wall, is at y = 0; a door or window
  higher than the room is cut to fit.
  """
  width, height, base = (rng.uniform(*span) for span in HANGING[name])
  height = min(height, ceiling - base - 0.05)
  half = (width / 2, 0.025, height / 2)
  return Part(BOX, (0.0, -0.025, height / 2), half), base


def extent(parts: list[Part]) -> tuple[np.ndarray, np.ndarray]:
  """Lower and upper corner [3] of the parts' bounding box, own frame."""
  centre = np.array([p.centre for p in parts])
  half = np.array([p.half for p in parts])
  return (centre - half).min(0), (centre + half).max(0)
