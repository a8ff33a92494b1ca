"""Questions, answers and the parser of answers."""

import dataclasses
import math
import re


@dataclasses.dataclass(frozen=True)
class PromptFormat:
  """Wording of a query and its answer, as Python format strings.

  Attributes:
    question: may use {x}, {y} (pixel in the final image), {focal} (its fx),
      {width} and {height}; {given}, what a speed or time question states; {x2}
      and {y2}, the second point of two.
    answer: may use {d}, the range in metres, with its number of decimals, as
      in {d:.2f}; {value}, the quantity asked for, which is d unless the task
      is another (`tasks`); {given}; and {rx}, {ry}, the ray's x / z and y / z.
      Rounding is that of the binary float, half away from nothing.
  """

  question: str
  answer: str

  def ask(
    self,
    x: int,
    y: int,
    focal: float | int,
    width: int,
    height: int,
    **more: float | int,
  ) -> str:
    return self.question.format(
      x=x, y=y, focal=focal, width=width, height=height, **more
    )

  def reply(self, metres: float | int, **more: float | int) -> str:
    facts = {'value': float(metres)} | more
    return self.answer.format(d=float(metres), **facts)


_THINK_THEN_ANSWER = (
  '<think> That spot is about {d:.2f} meters away. </think>\n\n'
  '<answer> {d:.2f} </answer>'
)
_HOW_TO_REPLY = (
  ' Think briefly between <think> and </think>, then give only the number of '
  'metres between <answer> and </answer>.'
)

MARKER = PromptFormat(
  'A small red arrow is drawn on the picture. How many metres lie between the '
  'camera and the surface just right of its tip?' + _HOW_TO_REPLY,
  _THINK_THEN_ANSWER,
)
COORDINATES = PromptFormat(
  'The picture is {width} pixels wide and {height} high. How many metres lie '
  'between the camera and the surface at x = {x}, y = {y}, counted from the '
  'upper left corner?' + _HOW_TO_REPLY,
  _THINK_THEN_ANSWER,
)
# For models of a few hundred thousand parameters: one decimal, said once, and
# every digit at its own place ('07.3').
MARKER_TAG = PromptFormat('how far?', '<answer> {d:.1f} </answer>')
MARKER_NUMBER = PromptFormat('how far?', '{d:04.1f}')
COORDINATES_NUMBER = PromptFormat('how far? {x:02d} {y:02d}', '{d:04.1f}')
MARKER_FOCAL_NUMBER = PromptFormat('how far? f {focal:04.1f}', '{d:04.1f}')

PROMPTS = {
  'marker': MARKER,
  'coordinates': COORDINATES,
  'marker_tag': MARKER_TAG,
  'marker_number': MARKER_NUMBER,
  'coordinates_number': COORDINATES_NUMBER,
  'marker_focal_number': MARKER_FOCAL_NUMBER,
}

# A sign belongs to a number only when no digit, point or letter precedes it
# ("3-4" is a span, not minus four). Thousands commas come in groups of three;
# "4,5" and "1.2.3" are no numbers at all.
_NUMBER = (
  r'(?<![\w.,])[-+]?'
  r'(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)'
  r'(?:[eE][-+]?\d+)?(?![.,]?\d)'
)
# Percentages and fractions are caught so that they fail, whole.
_ANY_NUMBER = re.compile(rf'(/?)\s*({_NUMBER})\s*(%?)', re.ASCII)
_TAGGED = re.compile(
  rf'<answer>\s*()({_NUMBER})\s*(%?)\s*(?:m|meters?|metres?)?\.?\s*</answer>',
  re.IGNORECASE | re.ASCII,
)


def parse_metres(text: str) -> float | None:
  """The distance a model's output states, or None when it states none.

  The last well-formed answer tag (one number, a unit allowed) decides, else
  the last number of the text. Zero, negative and non-finite numbers,
  percentages and fractions are failures: nothing is guessed.
  """
  metres = stated_number(text)
  return metres if metres is not None and metres > 0 else None


def stated_number(text: str) -> float | None:
  """The finite number that decides in `parse_metres`, of any sign."""
  found = _TAGGED.findall(text) or _ANY_NUMBER.findall(text)
  if not found:
    return None
  before, number, after = found[-1]
  value = float(number.replace(',', ''))
  return None if before or after or not math.isfinite(value) else value
