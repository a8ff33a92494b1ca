"""What a model is to write: reasoning, then an answer in JSON.

The shape is the one the strict format reward wants. Published prompts show it
on one line, which that reward refuses; runs where prompt and reward disagree
do not learn (spec 10).
"""

import json

from vlm.methods.rali.prompts import NONE, Wording

EXAMPLE_RATING = 3.0
EXAMPLE_THOUGHT = 'What the picture shows, and how well it shows it.'


def completion(thought: str | None, answer: str) -> str:
  """Reasoning and answer between their tags, every tag on its own line.

  Args:
    thought: None for a completion that only answers.
    answer: JSON.
  """
  answered = f'<answer>\n{answer}\n</answer>'
  if thought is None:
    return answered
  return f'<think>\n{thought}\n</think>\n{answered}'


def score_answer(score: float | int, decimals: int = 2) -> str:
  """'{"rating": 3.47}', a number from 1 to 5."""
  return f'{{"rating": {score:.{decimals}f}}}'


def degradation_answer(distortion_class: str, severity: str) -> str:
  """Class and severity, in the order in which they are read."""
  found = {'distortion_class': distortion_class, 'severity': severity}
  return json.dumps(found)


def specimen(task: str, think: bool = True) -> str:
  """The answer that a prompt shows; it earns the full format reward."""
  thought = EXAMPLE_THOUGHT if think else None
  if task == 'score':
    return completion(thought, score_answer(EXAMPLE_RATING))
  return completion(thought, degradation_answer(NONE, NONE))


def messages(
  wording: Wording, task: str, think: bool = True
) -> list[dict[str, object]]:
  """System and user turn about one image, which stands before the question."""
  text = {'type': 'text', 'text': wording.question(task)}
  asked = [{'role': 'user', 'content': [{'type': 'image'}, text]}]
  system = wording.system_text(specimen(task, think))
  if not system:
    return asked
  return [{'role': 'system', 'content': system}, *asked]
