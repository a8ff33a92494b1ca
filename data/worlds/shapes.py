"""Coloured shapes on coloured ground, each with several sentences about it."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

COLOURS = {
  'red': (210, 40, 40),
  'green': (40, 160, 60),
  'blue': (50, 70, 210),
  'yellow': (225, 205, 40),
  'white': (240, 240, 240),
  'black': (20, 20, 20),
}
SHAPES = ('disc', 'square', 'bar', 'ring')
SENTENCES = (
  'a {colour} {shape} on {ground} ground .',
  'the ground is {ground} . the {shape} is {colour} .',
  'this picture shows one {shape} . it is {colour} and all else is {ground} .',
)
WORDS = tuple(
  dict.fromkeys(
    word
    for sentence in SENTENCES
    for word in sentence.split()
    if '{' not in word
  )
) + (*COLOURS, *SHAPES)

# (colour, shape, ground), every one of them different.
KINDS = tuple(
  (colour, shape, ground)
  for colour, ground in itertools.permutations(COLOURS, 2)
  for shape in SHAPES
)


def shape_rows(number: int, size: int, seed: int) -> Sequence[dict[str, Any]]:
  """Rows {'image': uint8 [size, size, 3], 'texts': list of three sentences}.

  Kinds of pictures repeat after 120 rows; places and noise never do.
  """
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(KINDS))
  kinds = [KINDS[order[i % len(KINDS)]] for i in range(number)]
  return [_row(*kind, size, rng) for kind in kinds]


def _row(colour, shape, ground, size, rng) -> dict[str, Any]:
  pixels = np.empty((size, size, 3))
  pixels[:] = COLOURS[ground]
  pixels[_inside(shape, size, rng)] = COLOURS[colour]
  pixels += rng.normal(0, 8, pixels.shape)
  words = dict(colour=colour, shape=shape, ground=ground)
  return {
    'image': np.clip(np.rint(pixels), 0, 255).astype(np.uint8),
    'texts': [sentence.format(**words) for sentence in SENTENCES],
  }


def _inside(shape: str, size: int, rng) -> np.ndarray:
  """Bool [size, size]: the pixels of a shape at a random place."""
  radius = size * rng.uniform(0.2, 0.3)
  y, x = np.indices((size, size)) + 0.5
  middle = rng.uniform(radius, size - radius, 2)
  y, x = y - middle[0], x - middle[1]
  distance = np.hypot(y, x)
  return {
    'disc': distance < radius,
    'ring': (distance < radius) & (distance > 0.6 * radius),
    'square': np.maximum(abs(y), abs(x)) < 0.85 * radius,
    'bar': (abs(y) < 0.35 * radius) & (abs(x) < 1.3 * radius),
  }[shape]
