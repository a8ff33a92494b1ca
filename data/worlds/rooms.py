"""Procedural furnished rooms with exact depth, instances and 3D boxes.

  frames = render_batch(seed=0, indices=range(8), settings=RoomSettings())
  frames[0].rgb        uint8 [H, W, 3]
  frames[0].z          float32 [H, W], depth along the optical axis, metres
  frames[0].range      float32 [H, W], distance to the camera centre, metres
  frames[0].instances  int32 [H, W], ids of frames[0].objects and SURFACES
  frames[0].objects    tuple of Object (id, name, centre, size, yaw), world
  frames[0].camera     Camera (fx, fy, cx, cy, width, height, pose)

  scene = make_scene(seed, index, settings)     # one room, no picture yet
  cameras = make_cameras(seed, index, settings) # settings.views poses
  frame = render(scene, camera)                 # any camera you like

Scene `index` of `seed` is a pure function of the two and of the settings: it
does not depend on the batch, the process or the other scenes. Geometry, poses,
focal lengths and labels use separate random streams, so changing the focal law
leaves the rooms and the poses as they were.

World frame: x right, y forward, z up, metres, origin on the floor at the middle
of the room. Pixel and camera conventions are those of `data.worlds.cameras`.
"""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from data.worlds import furniture, raycast, textures
from data.worlds.cameras import Camera, look_from

SURFACES = {
  1: 'floor',
  2: 'ceiling',
  3: 'wall',
  4: 'wall',
  5: 'wall',
  6: 'wall',
}
VERSION = 2  # grows when the same seed and index give other pixels
_FIRST_OBJECT = 7
_GEOMETRY, _PATH, _OPTICS, LABELS = range(4)  # random streams of a scene


@dataclasses.dataclass(frozen=True)
class RoomSettings:
  """What rooms look like and how they are seen.

  Attributes:
    width: image width, pixels.
    height: image height, pixels.
    focals: fx in pixels: (low, high) of the log-uniform law, or the choices
      when `focal_law` is 'list'.
    focal_law: 'log_uniform' or 'list'.
    focal_ratio: (low, high) of fy / fx, log-uniform.
    views: poses per scene, along a short walk; 1 is a photograph.
    walk: (low, high) length of the walk, metres.
    eye: (low, high) camera height, metres.
    yaw: largest turn to either side, degrees.
    pitch: (low, high), degrees, upwards positive.
    roll: largest tilt, degrees.
    room_width: (low, high), log-uniform, metres.
    room_length: (low, high), uniform, metres; the camera starts at one end.
    room_height: (low, high), uniform, metres.
    corridors: share of rooms whose width is at most 3.5 m.
    objects: (fewest, most) pieces of furniture tried.
    period: (low, high) of the texture period, metres.
  """

  width: int = 64
  height: int = 64
  focals: tuple[float, ...] = (45.0, 90.0)
  focal_law: str = 'log_uniform'
  focal_ratio: tuple[float, float] = (1.0, 1.0)
  views: int = 1
  walk: tuple[float, float] = (0.5, 2.0)
  eye: tuple[float, float] = (1.3, 1.7)
  yaw: float = 8.0
  pitch: tuple[float, float] = (-4.0, 2.0)
  roll: float = 1.0
  room_width: tuple[float, float] = (3.0, 12.0)
  room_length: tuple[float, float] = (5.0, 20.0)
  room_height: tuple[float, float] = (2.3, 3.8)
  corridors: float = 0.3
  objects: tuple[int, int] = (3, 8)
  period: tuple[float, float] = (0.2, 2.0)

  def __post_init__(self):
    if self.focal_law not in ('log_uniform', 'list'):
      raise ValueError(
        "RoomSettings.focal_law must be 'log_uniform' or 'list', got "
        f'{self.focal_law!r}'
      )
    if self.focal_law == 'log_uniform' and len(self.focals) != 2:
      raise ValueError(
        'RoomSettings.focals must be (low, high) for the log-uniform law, got '
        f"{self.focals}; use focal_law='list' for a list of choices"
      )


@dataclasses.dataclass(frozen=True)
class Object:
  """One piece of furniture and its tight box.

  Attributes:
    id: value in `Frame.instances`.
    name: category, a key of `furniture.STANDING` or `furniture.HANGING`.
    centre: [3] middle of the box, world metres.
    size: [3] width, depth, height in the object's frame, metres.
    yaw: radians, counter-clockwise seen from above.
  """

  id: int
  name: str
  centre: tuple[float, float, float]
  size: tuple[float, float, float]
  yaw: float


@dataclasses.dataclass(frozen=True)
class Scene:
  """A room: everything the ray caster needs and what the objects are."""

  size: tuple[float, float, float]  # width, length, height, metres
  objects: tuple[Object, ...]
  solids: raycast.Solids
  textures: textures.Textures
  light: raycast.Light

  def names(self) -> dict[int, str]:
    """Instance id -> name, the surfaces of the room included."""
    return SURFACES | {o.id: o.name for o in self.objects}


@dataclasses.dataclass(frozen=True)
class Frame:
  """One rendered view; arrays as in the module's docstring."""

  rgb: np.ndarray
  z: np.ndarray
  range: np.ndarray
  instances: np.ndarray
  objects: tuple[Object, ...]
  camera: Camera

  @property
  def intrinsics(self):
    """(fx, fy, cx, cy, W, H) of its camera."""
    return self.camera.intrinsics


def stream(seed: int, index: int, purpose: int) -> np.random.Generator:
  """The random stream of scene `index` of `seed` for one purpose."""
  sequence = np.random.SeedSequence(seed, spawn_key=(index, purpose))
  return np.random.Generator(np.random.Philox(sequence))


def _draw_room(rng, settings) -> tuple[float, float, float]:
  if rng.random() < settings.corridors:
    width = rng.uniform(1.8, 3.5)
  else:
    width = math.exp(rng.uniform(*np.log(settings.room_width)))
  length = rng.uniform(*settings.room_length)
  return width, length, rng.uniform(*settings.room_height)


def _draw_walk(seed, index, settings, size):
  """Start, end [3], yaw, pitch, roll of the camera's walk; radians."""
  rng = stream(seed, index, _PATH)
  width, length, height = size
  eye = min(rng.uniform(*settings.eye), height - 0.3)
  side = max(0.5 * width - 0.6, 0.0)
  start = np.array(
    [
      rng.uniform(-0.7, 0.7) * side,
      -0.5 * length + rng.uniform(0.2, 1.0),
      eye,
    ]
  )
  yaw = math.radians(rng.uniform(-settings.yaw, settings.yaw))
  reach = min(rng.uniform(*settings.walk), 0.3 * length)
  end = start + reach * np.array([math.sin(yaw), math.cos(yaw), 0])
  end[0] = np.clip(end[0], -side, side)
  pitch = math.radians(rng.uniform(*settings.pitch))
  roll = math.radians(rng.uniform(-settings.roll, settings.roll))
  return start, end, yaw, pitch, roll


def _distance_to_walk(point, start, end, views) -> float:
  """Horizontal distance of a point to the segment the camera walks."""
  along = (end - start)[:2] if views > 1 else np.zeros(2)
  offset = np.asarray(point) - start[:2]
  share = np.clip(offset @ along / max(along @ along, 1e-9), 0, 1)
  return float(np.linalg.norm(offset - share * along))


class _Builder:
  """Collects solids while furniture finds its place."""

  def __init__(self, size):
    self.size = size
    self.objects, self.rows = [], []
    self.circles, self.hung = [], []  # places taken: floor, walls
    self.materials = 6  # the first six textures are the room's faces

  def add(self, name, parts, position, yaw):
    identity = _FIRST_OBJECT + len(self.objects)
    cos, sin = math.cos(yaw), math.sin(yaw)
    low, high = furniture.extent(parts)
    for kind, (x, y, z), half, material in parts:
      centre = (
        position[0] + cos * x - sin * y,
        position[1] + sin * x + cos * y,
        position[2] + z,
      )
      row = (kind, centre, half, cos, sin, identity, self.materials + material)
      self.rows.append(row)
    self.materials += 3
    x, y, z = (low + high) / 2
    centre = (
      position[0] + cos * x - sin * y,
      position[1] + sin * x + cos * y,
      position[2] + z,
    )
    size = tuple(float(s) for s in high - low)
    self.objects.append(Object(identity, name, centre, size, yaw))

  def solids(self) -> raycast.Solids:
    width, length, height = self.size
    half = (width / 2, length / 2, height / 2)
    room = (raycast.ROOM, (0, 0, height / 2), half, 1.0, 0.0, 1, 0)
    columns = zip(*self.rows, room)
    kinds = (int, np.float32, np.float32, np.float32, np.float32, int, int)
    return raycast.Solids(*(np.array(c, k) for c, k in zip(columns, kinds)))


def _place_standing(builder, name, rng, walk, settings):
  """Tries a few places; gives up on an object that fits nowhere."""
  parts = furniture.build(name, rng)
  low, high = furniture.extent(parts)
  radius = 0.5 * math.hypot(*(high - low)[:2])
  width, length, height = builder.size
  if high[2] > height - 0.05:
    return
  for _ in range(6):
    yaw = rng.uniform(-math.pi, math.pi)
    x = rng.uniform(-0.5, 0.5) * max(width - 2 * radius, 0)
    y = rng.uniform(-0.5, 0.5) * max(length - 2 * radius, 0)
    if name in furniture.AGAINST_WALL:
      x, y, yaw = _against_wall(rng, high - low, width, length, x, y)
    elif 2 * radius > min(width, length):
      return
    clear = all(
      math.hypot(x - a, y - b) > radius + r + 0.05
      for a, b, r in builder.circles
    )
    gap = _distance_to_walk((x, y), *walk[:2], settings.views)
    if clear and gap > radius + 0.9:
      builder.circles.append((x, y, radius))
      builder.add(name, parts, (x, y, 0.0), yaw)
      return


def _against_wall(rng, size, width, length, x, y):
  """Back to one of the three walls the camera can see."""
  back = size[1] / 2 + 0.01
  wall = rng.integers(3)
  if wall == 0:
    return x, length / 2 - back, 0.0
  if wall == 1:
    return back - width / 2, y, math.pi / 2
  return width / 2 - back, y, -math.pi / 2


def _hang(builder, name, rng):
  """A flat thing on the far or a side wall."""
  part, base = furniture.build_hanging(name, rng, builder.size[2])
  width, length, _ = builder.size
  wall = rng.integers(3)
  span = (width, length, length)[wall] - 2 * part.half[0] - 0.1
  if span < 0:
    return
  shift = rng.uniform(-0.5, 0.5) * span
  low, high = shift - part.half[0], shift + part.half[0]
  if any(w == wall and low < b and a < high for w, a, b in builder.hung):
    return  # coplanar faces that overlap have no nearest one
  builder.hung.append((wall, low, high))
  place = (
    (shift, length / 2, 0.0),
    (-width / 2, shift, math.pi / 2),
    (width / 2, shift, -math.pi / 2),
  )[wall]
  builder.add(name, [part], (*place[:2], base), place[2])


def make_scene(seed: int, index: int, settings: RoomSettings) -> Scene:
  """Draws room `index` of `seed`: walls, furniture, textures, light."""
  rng = stream(seed, index, _GEOMETRY)
  size = _draw_room(rng, settings)
  builder = _Builder(size)
  walk = _draw_walk(seed, index, settings, size)
  low, high = settings.objects
  names = list(furniture.STANDING)
  for _ in range(rng.integers(low, high, endpoint=True)):
    _place_standing(
      builder, names[rng.integers(len(names))], rng, walk, settings
    )
  hanging = list(furniture.HANGING)
  for _ in range(rng.integers(1, 4)):
    _hang(builder, hanging[rng.integers(len(hanging))], rng)
  direction = rng.normal(size=3) + [0, 0, 1.5]
  ambient = rng.uniform(0.25, 0.5)
  light = raycast.Light(
    (direction / np.linalg.norm(direction)).astype(np.float32),
    np.float32(ambient),
    np.float32(1.0 - ambient),
  )
  table = textures.draw(rng, builder.materials, settings.period)
  return Scene(size, tuple(builder.objects), builder.solids(), table, light)


def make_cameras(
  seed: int, index: int, settings: RoomSettings
) -> tuple[Camera, ...]:
  """The `settings.views` cameras of scene `index`, in walking order."""
  size = _draw_room(stream(seed, index, _GEOMETRY), settings)
  start, end, yaw, pitch, roll = _draw_walk(seed, index, settings, size)
  rng = stream(seed, index, _OPTICS)
  if settings.focal_law == 'list':
    fx = float(settings.focals[rng.integers(len(settings.focals))])
  else:
    fx = math.exp(rng.uniform(*np.log(settings.focals)))
  fy = fx * math.exp(rng.uniform(*np.log(settings.focal_ratio)))
  lens = (fx, fy, settings.width / 2, settings.height / 2)
  shares = np.linspace(0, 1, settings.views)
  return tuple(
    Camera(
      *lens,
      settings.width,
      settings.height,
      look_from(start + share * (end - start), yaw, pitch, roll),
    )
    for share in shares
  )


def render(scene: Scene, camera: Camera) -> Frame:
  """One view of a scene; the camera must stand inside the room."""
  x, y, z = camera.world_from_camera[:3, 3]
  width, length, height = scene.size
  if not (abs(x) < width / 2 and abs(y) < length / 2 and 0 < z < height):
    raise ValueError(
      f'camera at ({x:.2f}, {y:.2f}, {z:.2f}) m is outside the room of '
      f'{width:.2f} x {length:.2f} x {height:.2f} m (x, y from its middle)'
    )
  views = raycast.cast(scene.solids, scene.textures, scene.light, camera)
  return Frame(*views, scene.objects, camera)


def render_batch(
  seed: int, indices: Iterable[int], settings: RoomSettings
) -> list[Frame]:
  """All views of the scenes `indices`, scene after scene."""
  return [
    render(scene, camera)
    for index in indices
    for scene in [make_scene(seed, index, settings)]
    for camera in make_cameras(seed, index, settings)
  ]
