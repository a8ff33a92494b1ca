"""Seventy nouns in ten families, sixteen colours, four textures.

Families and looks are written by hand. Of each family some nouns are known and
two or three are held out: a knowledge base never sees a region of theirs.
"""

import functools
from collections.abc import Callable

from data.worlds.silhouettes import (
  Part,
  animal,
  building,
  craft,
  fruit,
  garment,
  person,
  pot,
  seat,
  vehicle,
)


def _pet(length, height, leg, neck, head, ears, tail, snout):
  return functools.partial(
    animal, length, height, leg, neck, head, ears, tail, snout
  )


def _of(program: Callable, **settings) -> Callable[[], list[Part]]:
  return functools.partial(program, **settings)


FAMILIES: dict[str, dict[str, Callable[[], list[Part]]]] = {
  'pets': {
    'dog': _pet(0.6, 0.28, 0.3, 0.2, 0.27, 'flop', 'thin', 0.16),
    'cat': _pet(0.5, 0.24, 0.22, 0.2, 0.26, 'up', 'thin', 0.08),
    'rabbit': _pet(0.42, 0.32, 0.12, 0.12, 0.24, 'long', 'puff', 0.08),
    'fox': _pet(0.55, 0.2, 0.22, 0.15, 0.22, 'up', 'bush', 0.2),
    'hamster': _pet(0.42, 0.34, 0.04, 0.05, 0.28, 'round', 'puff', 0.1),
    'puppy': _pet(0.42, 0.28, 0.2, 0.16, 0.32, 'flop', 'thin', 0.14),
    'kitten': _pet(0.36, 0.22, 0.16, 0.16, 0.32, 'up', 'thin', 0.07),
  },
  'farm animals': {
    'horse': _pet(0.62, 0.28, 0.42, 0.45, 0.22, 'up', 'hair', 0.18),
    'cow': _pet(0.68, 0.36, 0.25, 0.15, 0.25, 'horn', 'thin', 0.22),
    'sheep': _pet(0.6, 0.42, 0.2, 0.12, 0.2, 'flop', 'puff', 0.14),
    'pig': _pet(0.65, 0.38, 0.12, 0.05, 0.28, 'up', 'curl', 0.16),
    'donkey': _pet(0.55, 0.28, 0.34, 0.35, 0.24, 'long', 'thin', 0.2),
    'pony': _pet(0.55, 0.3, 0.28, 0.35, 0.24, 'up', 'hair', 0.16),
    'goat': _pet(0.5, 0.28, 0.26, 0.25, 0.2, 'horn', 'puff', 0.14),
  },
  'road vehicles': {
    'car': _of(vehicle, length=0.85, height=0.35, cabin=(-0.45, 0.45, 0.35),
               wheels=2, wheel=0.22),
    'truck': _of(vehicle, length=0.9, height=0.7, cabin=(0.4, 0.9, 0.25),
                 wheels=3, wheel=0.22),
    'bus': _of(vehicle, length=0.95, height=0.55, cabin=(-0.95, 0.95, 0.4),
               wheels=2, wheel=0.2),
    'motorcycle': _of(vehicle, length=0.8, height=0.5, cabin=(-0.3, 0.3, 0.2),
                      wheels=2, wheel=0.3, frame=True),
    'tractor': _of(vehicle, length=0.65, height=0.45, cabin=(-0.6, 0.05, 0.5),
                   wheels=2, wheel=0.36),
    'van': _of(vehicle, length=0.85, height=0.5, cabin=(-0.85, 0.6, 0.4),
               wheels=2, wheel=0.22),
    'taxi': _of(vehicle, length=0.85, height=0.35, cabin=(-0.45, 0.45, 0.35),
                wheels=2, wheel=0.22, sign=0.15),
    'bicycle': _of(vehicle, length=0.8, height=0.5, cabin=(0, 0, 0), wheels=2,
                   wheel=0.36, frame=True),
  },
  'ships and planes': {
    'boat': _of(craft, length=0.8, height=0.3, hull=0.25, deck=0.2),
    'ship': _of(craft, length=0.95, height=0.45, hull=0.2, deck=0.45),
    'ferry': _of(craft, length=0.95, height=0.3, hull=0.1, deck=0.55),
    'helicopter': _of(craft, length=0.6, height=0.32, hull=0, rotor=0.95),
    'plane': _of(craft, length=0.9, height=0.2, hull=0, wing=0.5),
    'yacht': _of(craft, length=0.75, height=0.25, hull=0.3, sail=1.1,
                deck=0.15),
    'canoe': _of(craft, length=0.9, height=0.22, hull=0.35),
    'airplane': _of(craft, length=0.95, height=0.26, hull=0, wing=0.6),
  },
  'fruit': {
    'apple': _of(fruit, width=0.55, height=0.5, leaf=True),
    'pear': _of(fruit, width=0.48, height=0.45, point=0.4),
    'plum': _of(fruit, width=0.42, height=0.5, stem=0.1),
    'lemon': _of(fruit, width=0.45, height=0.5, point=0.15, stem=0.05),
    'banana': _of(fruit, width=0, height=0, bend=0.25),
    'peach': _of(fruit, width=0.55, height=0.55, leaf=True, stem=0.1),
    'cherry': _of(fruit, width=0.3, height=0.3, stem=0.6, twin=0.35),
  },
  'furniture': {
    'chair': _of(seat, width=0.4, height=0.5, back=0.9, legs=0.12, thick=0.12),
    'sofa': _of(seat, width=0.9, height=0.4, back=0.5, legs=0.12, thick=0.3,
                arms=0.22),
    'table': _of(seat, width=0.85, height=0.75, back=0, legs=0.14, thick=0.14),
    'bed': _of(seat, width=0.95, height=0.4, back=0.35, legs=0.1, thick=0.25,
               pillow=True),
    'bench': _of(seat, width=0.9, height=0.4, back=0.3, legs=0.1, thick=0.1,
                 arms=0.06),
    'couch': _of(seat, width=0.9, height=0.35, back=0.6, legs=0.1, thick=0.28,
                 arms=0.3),
    'stool': _of(seat, width=0.35, height=0.65, back=0, legs=0.12, thick=0.15),
  },
  'clothes': {
    'shirt': _of(garment, width=0.4, length=1.1, sleeve=(0.3, 0.35),
                 collar=True),
    'jacket': _of(garment, width=0.45, length=1.15, sleeve=(0.3, 0.95),
                  collar=True, buttons=3),
    'dress': _of(garment, width=0.3, length=1.55, sleeve=(0.2, 0.3),
                 flare=0.35),
    'trousers': _of(garment, width=0.35, length=1.5, sleeve=(0, 0), split=1.1),
    'hat': _of(garment, width=0.45, length=0.65, sleeve=(0, 0), brim=0.9),
    'coat': _of(garment, width=0.45, length=1.5, sleeve=(0.3, 1.05),
                flare=0.12, collar=True, buttons=4),
    'sweater': _of(garment, width=0.48, length=1.05, sleeve=(0.32, 0.9)),
  },
  'people': {
    'man': _of(person, tall=1.75, head=0.2, wide=0.3),
    'woman': _of(person, tall=1.65, head=0.2, wide=0.24, skirt=0.18, hair=0.3),
    'boy': _of(person, tall=1.2, head=0.23, wide=0.24),
    'girl': _of(person, tall=1.2, head=0.23, wide=0.2, skirt=0.18, hair=0.25),
    'baby': _of(person, tall=0.85, head=0.26, wide=0.26, arms=0.3),
    'lady': _of(person, tall=1.7, head=0.2, wide=0.24, skirt=0.3, hair=0.2,
                hat=0.4),
    'child': _of(person, tall=1.05, head=0.24, wide=0.22, arms=0.4),
  },
  'tableware': {
    'cup': _of(pot, top=0.42, bottom=0.3, height=0.6, handle=0.22),
    'bottle': _of(pot, top=0.3, bottom=0.32, height=0.85, neck=0.45),
    'bowl': _of(pot, top=0.8, bottom=0.35, height=0.5, foot=0.3),
    'vase': _of(pot, top=0.3, bottom=0.45, height=1.0, neck=0.2, foot=0.35),
    'mug': _of(pot, top=0.45, bottom=0.43, height=0.85, handle=0.3),
    'jar': _of(pot, top=0.42, bottom=0.42, height=0.95, lid=True),
  },
  'buildings': {
    'house': _of(building, width=0.7, height=0.8, roof=0.5, door=0.13),
    'church': _of(building, width=0.6, height=0.75, roof=0.35, door=0.15,
                  spire=0.85, windows=1),
    'barn': _of(building, width=0.8, height=0.85, roof=0.35, door=0.35,
                windows=0),
    'castle': _of(building, width=0.8, height=0.95, roof=0, door=0.2, teeth=5,
                  windows=3),
    'cottage': _of(building, width=0.6, height=0.55, roof=0.55, door=0.12,
                   windows=2),
    'tower': _of(building, width=0.3, height=1.4, roof=0, door=0.12, teeth=3,
                 windows=1),
  },
}  # fmt: skip

HELD_OUT = (
  'puppy', 'kitten', 'pony', 'goat', 'van', 'taxi', 'bicycle', 'yacht', 'canoe',
  'airplane', 'peach', 'cherry', 'couch', 'stool', 'coat', 'sweater', 'lady',
  'child', 'mug', 'jar', 'cottage', 'tower',
)  # fmt: skip

COLOURS = {
  'red': (205, 35, 35), 'green': (45, 160, 60), 'blue': (45, 80, 215),
  'yellow': (235, 215, 45), 'white': (242, 242, 238), 'black': (28, 28, 30),
  'brown': (125, 75, 35), 'pink': (245, 150, 185), 'purple': (125, 45, 165),
  'gray': (130, 132, 135), 'orange': (240, 130, 25),
  'turquoise': (55, 205, 195), 'beige': (225, 205, 165), 'navy': (20, 30, 95),
  'maroon': (100, 15, 35), 'olive': (120, 125, 40),
}  # fmt: skip

TEXTURES = ('plain', 'striped', 'spotted', 'checkered')

FAMILY = {noun: name for name, nouns in FAMILIES.items() for noun in nouns}
PROGRAMS = {
  noun: program
  for nouns in FAMILIES.values()
  for noun, program in nouns.items()
}
KNOWN = tuple(noun for noun in PROGRAMS if noun not in HELD_OUT)
NOUNS = KNOWN + HELD_OUT
# What a knowledge base of this world holds, in the order of its rows.
KNOWLEDGE = KNOWN + tuple(COLOURS)
