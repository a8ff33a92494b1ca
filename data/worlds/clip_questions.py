"""Questions about procedural clips, each with a one-word answer.

    exists   is there a red circle              yes, no
    colour   which colour is the circle         a colour
    motion   which way goes the red circle      right, left, down, up
    count    how many objects                   1, 2, 3, 4
    order    which came first, the red circle or the blue square    a colour
    needle   which colour is the needle         a colour

Answers of a kind are equally frequent, whatever the question says.
"""

import dataclasses

import numpy as np

from data.worlds.clips import COLOURS, DIRECTIONS, SHAPES, Clip, Thing

KINDS = ('exists', 'colour', 'motion', 'count', 'order', 'needle')
MOST_OBJECTS = 4
LEAST_WAY = 8.0  # pixels an object has to go before its way is asked for
# Of guessing among the answers a question leaves open.
CHANCE = {
  'exists': 1 / 2,
  'colour': 1 / len(COLOURS),
  'motion': 1 / len(DIRECTIONS),
  'count': 1 / MOST_OBJECTS,
  'order': 1 / 2,  # between the two it names
  'needle': 1 / len(COLOURS),
}

# Pieces that questions and answers are made of, a token each.
PIECES = (
  'is there a ',
  'which colour is the ',
  'which way goes the ',
  'how many objects',
  'which came first, the ',
  ' or the ',
  *(f'{colour} ' for colour in COLOURS),
  *SHAPES,
  'needle',
  'yes',
  'no',
  *COLOURS,
  *DIRECTIONS,
  *(str(count + 1) for count in range(MOST_OBJECTS)),
)


@dataclasses.dataclass(frozen=True)
class Question:
  """A question and its answer; `kind` is one of `KINDS`."""

  kind: str
  text: str
  answer: str


def ask(clip: Clip, kind: str, rng: np.random.Generator) -> Question | None:
  """A question of one kind; None where the clip leaves nothing to ask."""
  found = _ASK[kind](clip, rng)
  return None if found is None else Question(kind, *found)


def ask_all(clip: Clip, rng: np.random.Generator) -> list[Question]:
  """One question of every kind that the clip allows."""
  asked = [ask(clip, kind, rng) for kind in KINDS]
  return [question for question in asked if question is not None]


def ask_many(
  clip: Clip, kind: str, rounds: int, rng: np.random.Generator
) -> list[Question]:
  """Up to `rounds` questions of one kind, none of which answers another."""
  asked = {}
  for _ in range(rounds):
    question = ask(clip, kind, rng)
    if question is not None:
      # Which of two came first is one question, whichever is named first.
      asked.setdefault(tuple(sorted(question.text.split())), question)
  return list(asked.values())


def _name(thing: Thing) -> str:
  return f'{thing.colour} {thing.shape}'


def _one(things, rng):
  return things[rng.integers(len(things))] if things else None


def _exists(clip, rng):
  if rng.random() < 0.5:
    return f'is there a {_name(_one(clip.objects, rng))}', 'yes'
  shown = {(thing.colour, thing.shape) for thing in clip.objects}
  absent = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in shown]
  # Half of them share a colour or a shape with what is shown.
  near = [
    (c, s)
    for c, s in absent
    if any(c == thing.colour or s == thing.shape for thing in clip.objects)
  ]
  colour, shape = _one(near if rng.random() < 0.5 else absent, rng)
  return f'is there a {colour} {shape}', 'no'


def _colour(clip, rng):
  shapes = [thing.shape for thing in clip.objects]
  alone = [t for t in clip.objects if shapes.count(t.shape) == 1]
  thing = _one(alone, rng)
  return thing and (f'which colour is the {thing.shape}', thing.colour)


def _motion(clip, rng):
  moving = [
    thing
    for thing in clip.objects
    if thing.direction
    and np.abs(thing.velocity).max() * (thing.end - thing.begin - 1)
    >= LEAST_WAY
  ]
  thing = _one(moving, rng)
  return thing and (f'which way goes the {_name(thing)}', thing.direction)


def _count(clip, rng):
  del rng
  return 'how many objects', str(len(clip.objects))


def _order(clip, rng):
  pairs = [
    (first, second)
    for first in clip.objects
    for second in clip.objects
    if first.begin < second.begin and first.colour != second.colour
  ]
  pair = _one(pairs, rng)
  if pair is None:
    return None
  one, other = rng.permutation(2)
  text = f'which came first, the {_name(pair[one])} or the {_name(pair[other])}'
  return text, pair[0].colour


def _needle(clip, rng):
  del rng
  return clip.needle and ('which colour is the needle', clip.needle.colour)


_ASK = {
  'exists': _exists,
  'colour': _colour,
  'motion': _motion,
  'count': _count,
  'order': _order,
  'needle': _needle,
}
