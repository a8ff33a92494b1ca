"""Composed scenes: eight things on a ground, five captions, a box per thing.

A scene is drawn in two parts from (seed, number): what it holds, and how that
looks. Kinds of scenes prefer families, so that nouns occur together as they do
in photographs. Captions are true; they name two or three of the things, most
with their colour and some with their texture.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from data.worlds import nouns, silhouettes

CELL, SIDE = 32, 3  # pixels of a thing; things along a side
MARGIN = 4
SIZE = SIDE * CELL + 2 * MARGIN
THINGS = SIDE * SIDE - 1
CAPTIONS = 5
FINE = 4  # pixels drawn for one that is shown

KINDS = {
  'farm': ('farm animals', 'pets', 'buildings', 'people'),
  'street': ('road vehicles', 'people', 'buildings', 'clothes'),
  'harbour': ('ships and planes', 'people', 'buildings'),
  'kitchen': ('tableware', 'fruit', 'furniture'),
  'room': ('furniture', 'pets', 'clothes', 'people'),
  'market': ('fruit', 'clothes', 'tableware', 'people'),
}
GROUNDS = {
  'farm': (120, 160, 90),
  'street': (150, 150, 155),
  'harbour': (120, 165, 200),
  'kitchen': (215, 200, 180),
  'room': (185, 165, 150),
  'market': (200, 185, 140),
}
FITTING = 0.75  # share of things of a family that the kind prefers
COLOURED, TEXTURED = 0.6, 0.2  # shares of mentions
JOINTS = ('and', 'near', 'beside', 'with', 'behind')
# Every word of a caption that names nothing.
FILLERS = ('a', 'an', *JOINTS, 'there', 'this', 'is')
STARTS = ('', 'there is', 'this is')


class Thing(NamedTuple):
  """One thing of a scene; `box` is left, top, right, bottom in pixels."""

  noun: str
  colour: str
  texture: str
  box: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Scene:
  """What a scene holds, and what is said of it."""

  seed: int
  number: int
  kind: str
  things: tuple[Thing, ...]
  captions: tuple[str, ...]


def compose(seed: int, number: int, known_only: bool) -> Scene:
  """The scene of a number.

  Args:
    seed: of the world; scenes with and without held-out nouns of one seed and
      number are different scenes.
    number: of the scene.
    known_only: leave out the nouns that are held out.
  """
  rng = np.random.default_rng([seed, number, int(known_only)])
  allowed = nouns.KNOWN if known_only else nouns.NOUNS
  kind = str(rng.choice(list(KINDS)))
  weights = np.array([nouns.FAMILY[noun] in KINDS[kind] for noun in allowed])
  share = weights.mean()
  weights = np.where(weights, FITTING / share, (1 - FITTING) / (1 - share))
  chosen = rng.choice(
    len(allowed), THINGS, replace=False, p=weights / weights.sum()
  )
  cells = rng.permutation(SIDE * SIDE)[:THINGS]
  things = tuple(
    Thing(
      allowed[noun],
      str(rng.choice(list(nouns.COLOURS))),
      str(rng.choice(nouns.TEXTURES, p=(0.55, 0.15, 0.15, 0.15))),
      _box(cell, rng),
    )
    for noun, cell in zip(chosen, cells)
  )
  captions = tuple(_caption(things, rng) for _ in range(CAPTIONS))
  return Scene(seed, number, kind, things, captions)


def _box(cell: int, rng) -> tuple[int, int, int, int]:
  size = int(rng.integers(26, 35))
  row, column = divmod(int(cell), SIDE)
  middle = np.array([column, row]) * CELL + MARGIN + CELL // 2
  left, top = middle + rng.integers(-3, 4, 2) - size // 2
  return int(left), int(top), int(left) + size, int(top) + size


def _caption(things, rng) -> str:
  named = rng.permutation(len(things))[: rng.integers(2, 4)]
  words = [str(rng.choice(STARTS))]
  for place, index in enumerate(named):
    thing, said = things[index], []
    if rng.random() < TEXTURED and thing.texture != 'plain':
      said.append(thing.texture)
    if rng.random() < COLOURED:
      said.append(thing.colour)
    said.append(thing.noun)
    article = 'an' if said[0][0] in 'aeiou' else 'a'
    joint = [str(rng.choice(JOINTS))] if place else []
    words += [*joint, article, *said]
  return ' '.join([*filter(None, words), '.'])


def render(scene: Scene) -> np.ndarray:
  """The picture: uint8 [SIZE, SIZE, 3]."""
  rng = np.random.default_rng([scene.seed, scene.number, 2, len(scene.things)])
  ground = np.array(GROUNDS[scene.kind]) + rng.normal(0, 25, 3)
  slope = rng.normal(0, 25, (2, 3))
  line = np.linspace(-1, 1, SIZE)
  pixels = (
    ground
    + line[:, None, None] * slope[0]
    + line[None, :, None] * slope[1]
    + rng.normal(0, 6, (SIZE, SIZE, 1))
  )
  for thing in scene.things:
    _paint(pixels, thing, rng)
  pixels += rng.normal(0, 5, pixels.shape)
  return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _paint(pixels: np.ndarray, thing: Thing, rng) -> None:
  """Draws a thing into its box, in place."""
  left, top, right, bottom = thing.box
  size = right - left
  share, tone = _toned(nouns.PROGRAMS[thing.noun](), size, rng)
  paint = np.array(nouns.COLOURS[thing.colour]) + rng.normal(0, 12, 3)
  body = paint * (1 - 0.45 * _texture(thing.texture, size, rng))[..., None]
  dark, light = paint * 0.35, 0.4 * paint + 0.6 * 235
  tones = np.stack([body, np.broadcast_to(dark, body.shape),
                    np.broadcast_to(light, body.shape)])  # fmt: skip
  shown = np.einsum('kyx,kyxc->yxc', tone, tones)
  inside = pixels[top:bottom, left:right]
  inside *= (1 - share)[..., None]
  inside += shown


def _toned(parts, size: int, rng) -> tuple[np.ndarray, np.ndarray]:
  """(share [S, S] of each pixel that is covered, of each tone [3, S, S])."""
  turn, scale = rng.normal(0, 0.12), size * FINE / 2 * rng.uniform(0.82, 0.98)
  mirror = rng.choice([-1, 1])
  matrix = scale * np.array(
    [[mirror * np.cos(turn), np.sin(turn)],
     [-mirror * np.sin(turn), np.cos(turn)]]
  )  # fmt: skip
  matrix *= rng.uniform(0.9, 1.1, (2, 1))
  image = Image.new('L', (size * FINE, size * FINE))
  draw = ImageDraw.Draw(image)
  for tone, points in parts:
    placed = points @ matrix.T + size * FINE / 2
    draw.polygon([tuple(point) for point in placed], fill=tone)
  drawn = np.asarray(image).reshape(size, FINE, size, FINE)
  tones = np.stack(
    [
      (drawn == tone).mean(axis=(1, 3))
      for tone in (silhouettes.BODY, silhouettes.DARK, silhouettes.LIGHT)
    ]
  )
  return tones.sum(0), tones


def _texture(name: str, size: int, rng) -> np.ndarray:
  """How dark each pixel of a texture is, in [0, 1]: [S, S]."""
  if name == 'plain':
    return np.zeros((size, size))
  y, x = np.indices((size, size)) + rng.uniform(0, 8, 2)[:, None, None]
  if name == 'striped':
    return ((y + 0.2 * x) % 6 < 3).astype(float)
  if name == 'checkered':
    return ((y // 4 + x // 4) % 2).astype(float)
  return (np.hypot(y % 7 - 3.5, x % 7 - 3.5) < 2).astype(float)


def regions(pixels: np.ndarray, scene: Scene) -> np.ndarray:
  """Crops of the boxes, a pixel or two off: uint8 [THINGS, CELL, CELL, 3]."""
  rng = np.random.default_rng([scene.seed, scene.number, 3])
  image = Image.fromarray(pixels)
  crops = []
  for thing in scene.things:
    box = np.array(thing.box) + rng.uniform(-2, 2, 4)
    shown = image.resize((CELL, CELL), Image.Resampling.BILINEAR, box=_in(box))
    crops.append(np.asarray(shown))
  return np.stack(crops)


def _in(box: np.ndarray) -> tuple[float, ...]:
  return tuple(np.clip(box, 0, SIZE).tolist())


def specimen(noun: str) -> np.ndarray:
  """A noun alone on a light ground: uint8 [CELL, CELL, 3]."""
  rng = np.random.default_rng(0)
  pixels = np.full((CELL, CELL, 3), 220.0)
  _paint(pixels, Thing(noun, 'blue', 'plain', (0, 0, CELL, CELL)), rng)
  return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
