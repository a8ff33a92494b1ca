"""Six quantities that one model is asked for in words (spec 2.8).

  distance   one arrow    d = |P|                         metres
  axis       one arrow    P_z, along the principal axis   metres
  speed      one arrow, a time t in the question: d / t   metres per second
  time       one arrow, a speed v in the question: d / v  seconds
  two_point  two arrows   |P_a - P_b|                     metres
  pose       two images   |C_1 - C_2|, how far it moved   metres

All are answered by one positive number, so one parser and one score serve all.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from vlm.methods.depthlm.text import PromptFormat


@dataclasses.dataclass(frozen=True)
class Question:
  """What a task shows.

  Attributes:
    images: number of images.
    arrows: number of labelled points, each with its marker.
    given: name of the setting that a stated number is drawn from, or ''.
  """

  images: int = 1
  arrows: int = 1
  given: str = ''


TASKS = {
  'distance': Question(),
  'axis': Question(),
  'speed': Question(given='seconds'),
  'time': Question(given='speeds'),
  'two_point': Question(arrows=2),
  'pose': Question(images=2, arrows=0),
}
SINGLE_IMAGE = tuple(n for n, question in TASKS.items() if question.images == 1)


def quantity(
  task: str,
  points: Float[np.ndarray, 'N 3'],
  given: float | int | None = None,
) -> float:
  """What is asked for; > 0 unless the points say otherwise.

  Args:
    task: a key of `TASKS`.
    points: labelled points in the camera frame, metres; for 'pose' the two
      camera centres in the world.
    given: seconds for 'speed', metres per second for 'time'.
  """
  first = points[0]
  if task in ('two_point', 'pose'):
    return float(np.linalg.norm(first - points[1]))
  if task == 'axis':
    return float(first[2])
  distance = float(np.linalg.norm(first))
  return distance / given if TASKS[task].given else distance


_HOW_TO_REPLY = (
  ' Think briefly between <think> and </think>, then give only the number of '
  '{} between <answer> and </answer>.'
)
_TAG = '\n\n<answer> {value:.2f} </answer>'
_ARROW = 'A small red arrow is drawn on the picture. '

# {d}, {value} and {given} are those of `PromptFormat`. A sum is spelled out as
# in the paper's figure: d, then the division, then the result.
FULL = {
  'axis': PromptFormat(
    _ARROW + 'How many metres in front of the camera, measured along the '
    'direction it looks in, is the surface just right of its tip?'
    + _HOW_TO_REPLY.format('metres'),
    '<think> That spot is about {value:.2f} meters ahead. </think>' + _TAG,
  ),
  'speed': PromptFormat(
    _ARROW + 'At what speed, in metres per second, does one get from the '
    'camera straight to the surface just right of its tip in {given:.1f} '
    'seconds?' + _HOW_TO_REPLY.format('metres per second'),
    '<think> That spot is about {d:.2f} meters away. {d:.2f} / {given:.1f} = '
    '{value:.2f} meters per second. </think>' + _TAG,
  ),
  'time': PromptFormat(
    _ARROW + 'How many seconds does it take to get from the camera straight '
    'to the surface just right of its tip at {given:.1f} metres per second?'
    + _HOW_TO_REPLY.format('seconds'),
    '<think> That spot is about {d:.2f} meters away. {d:.2f} / {given:.1f} = '
    '{value:.2f} seconds. </think>' + _TAG,
  ),
  'two_point': PromptFormat(
    'Two small red arrows are drawn on the picture. How many metres lie '
    'between the surfaces just right of their tips?'
    + _HOW_TO_REPLY.format('metres'),
    '<think> The two spots are about {value:.2f} meters apart. </think>' + _TAG,
  ),
  'pose': PromptFormat(
    'The camera took the first picture, then moved and took the second. How '
    'many metres lie between the two places it stood at?'
    + _HOW_TO_REPLY.format('metres'),
    '<think> The camera moved by about {value:.2f} meters. </think>' + _TAG,
  ),
}
# For models of a few hundred thousand parameters; see text.MARKER_NUMBER.
NUMBER = {
  'axis': PromptFormat('how deep?', '{value:04.1f}'),
  'speed': PromptFormat('how fast? t {given:04.1f}', '{value:04.1f}'),
  'time': PromptFormat('how long? v {given:04.1f}', '{value:04.1f}'),
  'two_point': PromptFormat('how far apart?', '{value:04.1f}'),
  'pose': PromptFormat('how far moved?', '{value:04.1f}'),
}
STYLES = {'full': FULL, 'number': NUMBER}
