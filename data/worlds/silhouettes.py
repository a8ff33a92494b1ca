"""Silhouettes of ten families of things, as lists of filled polygons.

A part is (tone, points): a polygon in a frame where x runs right, y runs down
and both are about -1 to 1. What a noun looks like is written by hand as the
settings of its family's program (nouns.py); no word vector has a say.
"""

import numpy as np

BODY, DARK, LIGHT = 1, 2, 3  # tones; 0 is outside
CORNERS = 14  # of a polygon that stands for an oval

Part = tuple[int, np.ndarray]


def oval(x, y, rx, ry, tone=BODY) -> Part:
  """An ellipse."""
  turn = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
  return tone, np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], 1)


def box(left, top, right, bottom, tone=BODY) -> Part:
  """An upright rectangle."""
  corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
  return tone, np.array(corners, float)


def polygon(*points, tone=BODY) -> Part:
  """Any polygon."""
  return tone, np.array(points, float)


def stick(x0, y0, x1, y1, width, tone=BODY) -> Part:
  """A bar of some width from one point to another."""
  along = np.array([x1 - x0, y1 - y0])
  side = width / 2 * np.array([-along[1], along[0]]) / np.hypot(*along)
  start, end = np.array([x0, y0]), np.array([x1, y1])
  corners = [start - side, end - side, end + side, start + side]
  return tone, np.array(corners)


def animal(length, height, leg, neck, head, ears, tail, snout) -> list[Part]:
  """Four legs; ears 'up', 'round', 'flop', 'long' or 'horn'."""
  low, front = 0.15 + height + leg, length * 0.8
  hx, hy = front + 0.1 + neck * 0.4, 0.1 - height * 0.4 - neck
  parts = [
    stick(x, 0.2, x, low, 0.14)
    for x in (-front, -front + 0.25, front - 0.25, front)
  ]
  parts += [
    oval(0, 0.15, length, height),
    stick(front * 0.8, 0.1, hx, hy, 0.28),
    oval(hx, hy, head, head * 0.85),
    oval(hx + head * 0.9, hy + head * 0.25, snout, snout * 0.7, DARK),
    oval(hx + head * 0.3, hy - head * 0.2, 0.06, 0.06, DARK),
  ]
  return parts + _ears(ears, hx, hy, head) + _tail(tail, -length)


def _ears(kind, x, y, head) -> list[Part]:
  if kind == 'flop':
    return [oval(x - head * 0.7, y + head * 0.2, 0.1, head * 0.8, DARK)]
  if kind == 'round':
    return [oval(x - head * 0.5, y - head * 0.8, 0.12, 0.12)]
  size = {'up': (0.16, 0.25), 'long': (0.09, 0.6), 'horn': (0.07, 0.4)}[kind]
  wide, tall = size
  tone = LIGHT if kind == 'horn' else BODY
  return [
    polygon((at - wide, y - head * 0.5), (at + wide, y - head * 0.5),
            (at - wide, y - head * 0.5 - tall), tone=tone)
    for at in (x - head * 0.4, x + head * 0.3)
  ]  # fmt: skip


def _tail(kind, x) -> list[Part]:
  return {
    'thin': [stick(x, 0.1, x - 0.25, -0.3, 0.08)],
    'bush': [oval(x - 0.15, -0.05, 0.26, 0.15)],
    'hair': [stick(x, 0, x - 0.15, 0.6, 0.16, DARK)],
    'puff': [oval(x, 0.05, 0.12, 0.12, LIGHT)],
    'curl': [stick(x, 0.1, x - 0.15, 0, 0.08)],
  }[kind]


def vehicle(length, height, cabin, wheels, wheel, sign=0.0, frame=False):
  """On wheels; cabin is (left, right, height) above the body."""
  left, right, top = cabin
  floor = 0.55
  roof = floor - height
  parts = []
  if frame:
    parts += [
      stick(-length * 0.6, floor, 0, roof, 0.1),
      stick(0, roof, length * 0.6, floor, 0.1),
      stick(length * 0.6, floor, length * 0.45, roof - 0.25, 0.08),
      stick(-0.1, roof, -0.1, roof - 0.15, 0.2, DARK),
    ]
  else:
    parts.append(box(-length, roof, length, floor))
  if top:
    parts += [
      box(left, roof - top, right, roof + 0.02),
      box(left + 0.1, roof - top + 0.08, right - 0.1, roof - 0.04, LIGHT),
    ]
  if sign:
    middle = (left + right) / 2
    high = roof - top
    parts.append(box(middle - 0.15, high - sign, middle + 0.15, high, LIGHT))
    parts.append(box(-length, floor - 0.2, length, floor - 0.1, DARK))
  ends = np.linspace(-length * 0.7, length * 0.7, wheels)
  for x in ends:
    parts.append(oval(x, floor + 0.05, wheel, wheel, DARK))
    parts.append(oval(x, floor + 0.05, wheel * 0.4, wheel * 0.4, LIGHT))
  return parts


def craft(length, height, hull, sail=0.0, deck=0.0, wing=0.0, rotor=0.0):
  """Of water (hull above 0) or air (wings or a rotor)."""
  parts = []
  if hull:
    low = 0.35 + height
    parts.append(
      polygon((-length, 0.35), (length, 0.35), (length - hull, low),
              (-length + hull, low))
    )  # fmt: skip
  else:
    parts += [
      oval(0, 0, length, height),
      polygon((-length, 0), (-length + 0.3, 0), (-length - 0.02, -0.5)),
      oval(length * 0.65, -height * 0.3, 0.14, height * 0.5, LIGHT),
    ]
  if deck:
    parts.append(box(-length * 0.6, 0.35 - deck, length * 0.5, 0.37, LIGHT))
    parts.append(box(-0.15, -deck, 0.1, 0.4 - deck, DARK))
  if sail:
    parts.append(stick(0, 0.36, 0, 0.3 - sail, 0.07, DARK))
    parts.append(polygon((0.06, 0.28 - sail), (0.06, 0.25), (0.7, 0.25)))
    parts.append(polygon((-0.06, 0.4 - sail), (-0.06, 0.25), (-0.5, 0.25)))
  if wing:
    parts.append(polygon((0.2, 0), (-0.15, 0), (-wing, 0.75), (-0.1, 0.7)))
    parts.append(polygon((0.2, 0), (-0.1, 0), (-wing, -0.65), (-0.2, -0.65)))
  if rotor:
    parts.append(stick(0, -height, 0, -height - 0.25, 0.08, DARK))
    parts.append(stick(-rotor, -height - 0.25, rotor, -height - 0.25, 0.09))
  return parts


def fruit(width, height, stem=0.2, leaf=False, point=0.0, twin=0.0, bend=0.0):
  """Round, pointed, bent, or two on a stem."""
  if bend:
    outer = [(-0.9, -0.35), (-0.5, 0.3), (0.1, 0.5), (0.7, 0.3), (0.95, -0.4)]
    inner = [(0.6, -0.05), (0.1, 0.5 - bend), (-0.4, -0.05)]
    return [polygon(*outer, *inner), oval(0.93, -0.4, 0.09, 0.09, DARK)]
  parts = []
  for x in (-twin, twin) if twin else (0,):
    parts.append(oval(x, 0.2, width, height))
    parts.append(oval(x - width * 0.4, 0, width * 0.2, height * 0.2, LIGHT))
    parts.append(stick(x, 0.25 - height, 0, 0.2 - height - stem, 0.07, DARK))
  if point:
    parts.append(oval(0, 0.2 - height, width * 0.5, point))
    parts.append(oval(0, 0.2 + height, width * 0.3, point * 0.4))
  if leaf:
    parts.append(oval(0.2, 0.1 - height - stem / 2, 0.2, 0.09, DARK))
  return parts


def seat(width, height, back, legs, thick, arms=0.0, pillow=False):
  """Furniture: a slab on legs; the back is a height above it."""
  top = 0.75 - height
  parts = []
  for x in (-width + 0.1, width - 0.1):
    parts.append(stick(x, top, x, 0.8, legs, DARK))
  if back:
    left = -width if arms or pillow else width - 0.35
    parts.append(box(left, top - back, width, top + 0.02))
  parts.append(box(-width, top - 0.02, width, top + thick))
  for x in (-width, width - arms) if arms else ():
    parts.append(box(x, top - back * 0.55, x + arms, top + thick, DARK))
  if pillow:
    parts.append(box(-width, top - 0.15, -width + 0.5, top, LIGHT))
  return parts


def garment(width, length, sleeve, flare=0.0, collar=False, split=0.0,
            buttons=0, brim=0.0) -> list[Part]:  # fmt: skip
  """Clothes; sleeve is (reach, drop) of an arm, 0 for none."""
  if brim:
    return [
      oval(0, 0.35, brim, 0.16),
      box(-width, 0.35 - length, width, 0.35),
      box(-width, 0.15, width, 0.3, DARK),
    ]
  top, low = -0.75, -0.75 + length
  wide = width + flare
  parts = [polygon((-width, top), (width, top), (wide, low), (-wide, low))]
  if split:
    parts = [
      polygon((-width, top), (0.04, top), (0, low), (-width, low)),
      polygon((-0.04, top), (width, top), (width, low), (0.1, low)),
      stick(0.03, low - split, 0.05, low, 0.1, LIGHT),
      box(-width, top, width, top + 0.12, DARK),
    ]
  reach, drop = sleeve
  for side in (-1, 1) if reach else ():
    edge = side * width
    end = edge + side * reach
    parts.append(stick(edge * 0.85, top + 0.12, end, top + drop, 0.28))
  if collar:
    parts.append(polygon((-0.2, top), (0.2, top), (0, top + 0.3), tone=LIGHT))
  for number in range(buttons):
    parts.append(oval(0, top + 0.45 + 0.25 * number, 0.06, 0.06, DARK))
  return parts


def person(tall, head, wide, skirt=0.0, hair=0.0, hat=0.0, arms=0.6):
  """Upright; hair and skirt are lengths."""
  top = 0.85 - tall
  neck = top + 2 * head
  hip = neck + (0.85 - neck) * 0.5
  parts = []
  if hair:
    parts.append(box(-head * 1.1, top + head * 0.4, head * 1.1,
                     neck + hair - 0.1, DARK))  # fmt: skip
  for side in (-1, 1):
    parts.append(stick(side * wide * 0.5, hip, side * wide * 0.5, 0.88, 0.14,
                       DARK))  # fmt: skip
    reach = side * (wide + 0.18)
    parts.append(stick(side * wide * 0.8, neck + 0.08, reach,
                       neck + arms * (0.85 - neck), 0.12))  # fmt: skip
  parts.append(box(-wide, neck, wide, hip + 0.05))
  if skirt:
    parts.append(
      polygon((-wide, hip - 0.05), (wide, hip - 0.05),
              (wide + skirt, 0.65), (-wide - skirt, 0.65))
    )  # fmt: skip
  parts.append(oval(0, top + head, head, head, LIGHT))
  cap = DARK if hair else BODY
  parts.append(oval(0, top + head * 0.45, head * 0.95, head * 0.5, cap))
  if hat:
    parts.append(stick(-hat, top + head * 0.5, hat, top + head * 0.5, 0.12))
  return parts


def pot(top, bottom, height, neck=0.0, handle=0.0, lid=False, foot=0.0):
  """Vessels of a table; top and bottom are half widths."""
  high, low = 0.7 - height, 0.7
  parts = []
  if handle:
    middle = (high + low) / 2
    parts.append(oval(top + handle * 0.5, middle, handle, handle))
    parts.append(oval(top + handle * 0.5, middle, handle * 0.55, handle * 0.55,
                      LIGHT))  # fmt: skip
  parts.append(
    polygon((-top, high), (top, high), (bottom, low), (-bottom, low))
  )
  parts.append(oval(0, high, top, 0.1, DARK))
  if neck:
    parts.append(box(-0.14, high - neck, 0.14, high + 0.02))
    parts.append(box(-0.18, high - neck - 0.1, 0.18, high - neck, DARK))
  if lid:
    parts.append(box(-top - 0.05, high - 0.18, top + 0.05, high, DARK))
    parts.append(box(-top * 0.7, high + 0.25, top * 0.7, low - 0.2, LIGHT))
  if foot:
    parts.append(box(-foot, low - 0.04, foot, low + 0.12, DARK))
  return parts


def building(width, height, roof, door, windows=2, spire=0.0, teeth=0):
  """Walls, a roof of some height, a door; teeth are battlements."""
  top = 0.8 - height
  parts = [box(-width, top, width, 0.8)]
  if roof:
    edge = width + 0.12
    parts.append(polygon((-edge, top), (edge, top), (0, top - roof), tone=DARK))
  if spire:
    parts.append(box(-width, top - spire * 0.5, -width + 0.35, top))
    parts.append(
      polygon((-width - 0.05, top - spire * 0.5),
              (-width + 0.4, top - spire * 0.5),
              (-width + 0.17, top - spire), tone=DARK)
    )  # fmt: skip
  for x in np.linspace(-width, width - 0.18, teeth) if teeth else ():
    parts.append(box(x, top - 0.2, x + 0.18, top + 0.02))
  for x in np.linspace(-width * 0.6, width * 0.6, windows) if windows else ():
    parts.append(box(x - 0.1, top + 0.15, x + 0.1, top + 0.35, LIGHT))
  parts.append(box(-door, 0.35, door, 0.8, DARK))
  return parts
