"""Procedural clips: coloured shapes that move over a drifting background.

A clip is one to three scenes with hard cuts between them. Every scene has its
own smooth background, which pans; every object lives in one scene, moves along
a line and changes its size. A needle, small and with a white rim, may flash up
for a frame or two. Time runs in frames of the clip as it was drawn, and any
times can be rendered, so that one clip can be seen at several frame rates.

The screen is `size` pixels wide and high, x to the right and y down. Speeds are
on the screen: a camera that pans moves the background alone.
"""

import dataclasses
import itertools

import numpy as np

COLOURS = {
  'red': (225, 45, 40),
  'green': (45, 175, 60),
  'blue': (45, 85, 230),
  'yellow': (240, 215, 50),
  'purple': (165, 60, 200),
  'cyan': (60, 210, 220),
}
SHAPES = ('circle', 'square', 'triangle', 'cross')
DIRECTIONS = {'right': (1, 0), 'left': (-1, 0), 'down': (0, 1), 'up': (0, -1)}
NEEDLE_RADIUS = 4.0
BACKGROUND, NEEDLE = -1, -2  # owners of pixels, where no object is
_SPACING = 16  # pixels between the nodes of a background
_APART = 1.6  # of the sum of two radii: how close two objects may come
_TRIES = 20


@dataclasses.dataclass(frozen=True)
class ClipSettings:
  """What is drawn. Pairs are ranges, ends included.

  Attributes:
    size: pixels of a side.
    frames: length of a clip, in frames.
    scenes: with hard cuts between them.
    objects: in the whole clip, of distinct colour and shape.
    radius: of an object at first, pixels.
    growth: last size over first.
    speed: of an object on the screen, pixels per frame.
    pan: of the camera, pixels per frame.
    needle: share of clips with one.
    needle_frames: how long it is seen; whole frames where both are whole.
  """

  size: int = 64
  frames: tuple[int, int] = (4, 8)
  scenes: tuple[int, int] = (1, 3)
  objects: tuple[int, int] = (1, 4)
  radius: tuple[float, float] = (6.0, 9.0)
  growth: tuple[float, float] = (0.7, 1.4)
  speed: tuple[float, float] = (0.0, 5.0)
  pan: tuple[float, float] = (0.0, 3.0)
  needle: float = 0.5
  needle_frames: tuple[float, float] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Thing:
  """An object, or the needle.

  Attributes:
    colour: key of `COLOURS`.
    shape: of `SHAPES`, or 'needle'.
    begin, end: when it is seen, begin <= t < end.
    start: (x, y) of its centre at `begin`, pixels.
    velocity: (x, y), pixels per frame.
    radius: at `begin`, pixels.
    growth: pixels per frame.
    direction: key of `DIRECTIONS`, the axis it keeps to; '' if it stands.
  """

  colour: str
  shape: str
  begin: float
  end: float
  start: tuple[float, float]
  velocity: tuple[float, float] = (0.0, 0.0)
  radius: float = NEEDLE_RADIUS
  growth: float = 0.0
  direction: str = ''

  def seen(self, times: np.ndarray) -> np.ndarray:
    """Whether it is on the screen at `times` [F]; bool [F]."""
    return (self.begin <= times) & (times < self.end)

  def centres(self, times: np.ndarray) -> np.ndarray:
    """Its centre at `times` [F]; float [F, 2], (x, y) in pixels."""
    since = np.asarray(times)[:, None] - self.begin
    return np.array(self.start) + since * np.array(self.velocity)

  def radii(self, times: np.ndarray) -> np.ndarray:
    """Its radius at `times` [F]; float [F] pixels."""
    return self.radius + (np.asarray(times) - self.begin) * self.growth


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
  """A background between two cuts.

  Attributes:
    begin: when it starts.
    nodes: float [n, n, 3], colours of a lattice of `_SPACING` pixels.
    origin: (x, y) of the screen's corner on the lattice at `begin`, pixels.
    pan: (x, y), pixels per frame.
  """

  begin: float
  nodes: np.ndarray
  origin: np.ndarray
  pan: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
  """A clip before it is rendered.

  Attributes:
    size: pixels of a side.
    frames: its length.
    scenes: in order of time.
    objects: distinct in (colour, shape).
    needle: or None.
  """

  size: int
  frames: int
  scenes: tuple[Scene, ...]
  objects: tuple[Thing, ...]
  needle: Thing | None

  def times(self, count: int | None = None) -> np.ndarray:
    """float [count]: as many moments, spread evenly; every frame by default."""
    count = count or self.frames
    return np.arange(count) * (self.frames / count)

  def render(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels at `times` [F], and what each of them shows.

    Returns:
      uint8 [F, size, size, 3]; int8 [F, size, size], number of the object that
      covers at least half of a pixel, `NEEDLE` or `BACKGROUND`.
    """
    times = np.asarray(times, float)
    pixels = self._background(times)
    owner = np.full(pixels.shape[:3], BACKGROUND, np.int8)
    for number, thing in enumerate(self.objects):
      _paint(pixels, owner, thing, times, number)
    if self.needle is not None:
      rim = dataclasses.replace(self.needle, radius=NEEDLE_RADIUS + 1.5)
      _paint(pixels, owner, rim, times, NEEDLE, (255, 255, 255))
      _paint(pixels, owner, self.needle, times, NEEDLE)
    return (pixels + 0.5).astype(np.uint8), owner

  def _background(self, times: np.ndarray) -> np.ndarray:
    """float32 [F, size, size, 3]: each scene's lattice, interpolated."""
    begins = [scene.begin for scene in self.scenes]
    which = np.searchsorted(begins, times, side='right') - 1
    pixels = np.empty((len(times), self.size, self.size, 3), np.float32)
    for number, scene in enumerate(self.scenes):
      rows = np.flatnonzero(which == number)
      since = times[rows, None] - scene.begin
      x, y = (scene.origin + since * scene.pan).T / _SPACING
      count = len(scene.nodes)
      across = _hats(x, self.size, count)
      down = _hats(y, self.size, count)
      half = np.einsum('fyj,jic->fyic', down, scene.nodes)
      pixels[rows] = np.einsum('fxi,fyic->fyxc', across, half, optimize=True)
    return pixels


def _hats(origin: np.ndarray, size: int, count: int) -> np.ndarray:
  """float32 [F, size, count]: weight of each node in each pixel of a row."""
  place = origin[:, None] + np.arange(size) / _SPACING
  nodes = np.arange(count)
  hats = np.maximum(0, 1 - np.abs(place[..., None] - nodes))
  return hats.astype(np.float32)


def coverage(
  shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray
) -> np.ndarray:
  """Share of a pixel that a shape covers, with edges one pixel wide.

  All shapes of a radius have about the area of its circle.

  Args:
    shape: of `SHAPES`, or 'needle', a diamond.
    x, y: of the pixel's centre from the shape's, pixels.
    radius: pixels.
  """
  if shape == 'circle':
    distance = np.hypot(x, y) - radius
  elif shape == 'square':
    distance = np.maximum(np.abs(x), np.abs(y)) - 0.886 * radius
  elif shape == 'triangle':  # equilateral, one corner up
    slant = 0.866 * np.abs(x) - 0.5 * y
    distance = np.maximum(slant, y) - 0.778 * radius
  elif shape == 'cross':
    long, short = 1.12 * radius, 0.42 * radius
    distance = np.minimum(
      np.maximum(np.abs(x) - long, np.abs(y) - short),
      np.maximum(np.abs(x) - short, np.abs(y) - long),
    )
  else:
    distance = (np.abs(x) + np.abs(y)) * 0.7071 - 0.886 * radius
  return np.clip(0.5 - distance, 0, 1)


def _paint(pixels, owner, thing: Thing, times, number: int, colour=None):
  """Paints a thing into the frames that show it, in place."""
  size = pixels.shape[1]
  frames = np.flatnonzero(thing.seen(times))
  if not len(frames):
    return
  centres, radii = thing.centres(times[frames]), thing.radii(times[frames])
  half = int(np.ceil(1.6 * radii.max() + 1))
  corners = np.floor(centres).astype(int) - half
  grid = np.arange(2 * half + 1)
  x = (corners[:, :1] + grid + 0.5 - centres[:, :1])[:, None, :]
  y = (corners[:, 1:] + grid + 0.5 - centres[:, 1:])[:, :, None]
  cover = coverage(thing.shape, x, y, radii[:, None, None])
  paint = np.float32(COLOURS[thing.colour] if colour is None else colour)
  for frame, (left, top), mask in zip(frames, corners, cover):
    rows = slice(max(top, 0), min(top + len(grid), size))
    columns = slice(max(left, 0), min(left + len(grid), size))
    mask = mask[rows.start - top : rows.stop - top][
      :, columns.start - left : columns.stop - left
    ].astype(np.float32)
    under = pixels[frame, rows, columns]
    under += mask[..., None] * (paint - under)
    owner[frame, rows, columns][mask >= 0.5] = number


def draw(rng: np.random.Generator, settings: ClipSettings) -> Clip:
  """Draws a clip; how many objects it has says nothing about its cuts."""
  frames = int(rng.integers(*settings.frames, endpoint=True))
  most = min(settings.scenes[1], frames)
  count = int(rng.integers(min(settings.scenes[0], most), most, endpoint=True))
  cuts = np.sort(rng.choice(np.arange(1, frames), count - 1, replace=False))
  begins = [0, *cuts.tolist(), frames]
  scenes = tuple(
    _draw_scene(rng, settings, begin, end)
    for begin, end in itertools.pairwise(begins)
  )
  wanted = int(rng.integers(*settings.objects, endpoint=True))
  kinds = rng.choice(len(COLOURS) * len(SHAPES), wanted, replace=False)
  objects = []
  for kind in kinds:
    scene = int(rng.integers(count))
    life = begins[scene], begins[scene + 1]
    objects.append(_draw_object(rng, settings, kind, life, objects))
  needle = None
  if rng.random() < settings.needle:
    needle = _draw_needle(rng, settings, frames)
  return Clip(settings.size, frames, scenes, tuple(objects), needle)


def _draw_scene(rng, settings: ClipSettings, begin: int, end: int) -> Scene:
  angle = rng.uniform(0, 2 * np.pi)
  pan = rng.uniform(*settings.pan) * np.array([np.cos(angle), np.sin(angle)])
  moved = pan * (end - begin)
  reach = settings.size + settings.pan[1] * (end - begin)
  count = int(np.ceil(reach / _SPACING)) + 2
  # A grey with a slight tint: objects are what is colourful.
  grey = rng.uniform(60, 160, (count, count, 1))
  tint = rng.uniform(-22, 22, (count, count, 3))
  origin = np.maximum(-moved, 0)
  return Scene(begin, (grey + tint).astype(np.float32), origin, pan)


def _draw_object(rng, settings: ClipSettings, kind, life, others) -> Thing:
  """An object that stays on the screen, apart from others where it can."""
  colour = list(COLOURS)[kind // len(SHAPES)]
  shape = SHAPES[kind % len(SHAPES)]
  begin, end = life
  steps = max(end - begin - 1, 1)
  times = np.arange(begin, end)
  for _ in range(_TRIES):
    radius = rng.uniform(*settings.radius)
    growth = radius * (rng.uniform(*settings.growth) - 1) / steps
    direction = list(DIRECTIONS)[rng.integers(len(DIRECTIONS))]
    axis = np.array(DIRECTIONS[direction])
    lean = rng.uniform(-0.25, 0.25) * axis[::-1]
    largest = radius + max(growth * steps, 0)
    room = settings.size - 2 * largest
    low, high = settings.speed
    # Slower where the way is too long for the screen.
    speed = min(rng.uniform(low, high), room / steps)
    velocity = speed * (axis + lean)
    moved = velocity * steps
    first = largest + np.maximum(-moved, 0)
    last = settings.size - largest - np.maximum(moved, 0)
    start = rng.uniform(first, np.maximum(first, last))
    thing = Thing(
      colour,
      shape,
      begin,
      end,
      tuple(start.tolist()),
      tuple(velocity.tolist()),
      float(radius),
      float(growth),
      direction if speed else '',
    )
    if all(_apart(thing, other, times) for other in others):
      break
  return thing


def _apart(first: Thing, second: Thing, times: np.ndarray) -> bool:
  both = times[first.seen(times) & second.seen(times)]
  way = first.centres(both) - second.centres(both)
  reach = first.radii(both) + second.radii(both)
  return bool(np.all(np.hypot(*way.T) > _APART * reach / 2))


def _draw_needle(rng, settings: ClipSettings, frames: int) -> Thing:
  low, high = settings.needle_frames
  if isinstance(low, int) and isinstance(high, int):
    lasts = int(rng.integers(low, high, endpoint=True))
    begin = int(rng.integers(0, max(frames - lasts, 0), endpoint=True))
  else:
    lasts = rng.uniform(low, high)
    begin = rng.uniform(0, frames - lasts)
  margin = NEEDLE_RADIUS + 2
  place = rng.uniform(margin, settings.size - margin, 2)
  colour = list(COLOURS)[rng.integers(len(COLOURS))]
  return Thing(colour, 'needle', begin, begin + lasts, tuple(place.tolist()))
