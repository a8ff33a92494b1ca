"""What Q-Insight asks (arXiv 2503.22679): a score, or the degradation.

The words are ours. Released weights were trained with others; to ask them, put
theirs into `--config.wording`.
"""

import dataclasses

TASKS = ('score', 'degradation')

# In the data sets and in answers, by their published names.
CLASSES = ('noise', 'compression', 'blur', 'darken')
SEVERITIES = ('slight', 'moderate', 'obvious', 'serious', 'catastrophic')
NONE = 'null'  # of an image without degradation, for both

_EXAMPLE = '{example}'


@dataclasses.dataclass(frozen=True)
class Wording:
  """Texts of the prompts; '' leaves the system message out.

  Attributes:
    system: says in which shape to answer; {example} becomes an answer of
      exactly the shape that the format reward wants.
    score: asks for a rating from 1 to 5.
    degradation: asks for class and severity.
  """

  system: str = (
    'You judge pictures. Reason first, then answer, each part between its own '
    'tags and every tag on a line of its own, in exactly this shape:\n'
    f'{_EXAMPLE}'
  )
  score: str = (
    'How good is the technical quality of this picture overall? Rate it with a '
    'number from 1.00 (very poor) to 5.00 (excellent) with two decimals. The '
    'answer is JSON with the key "rating".'
  )
  degradation: str = (
    'Is this picture degraded by one of these: '
    + ', '.join(f'"{name}"' for name in CLASSES)
    + '? If so, how severely: '
    + ', '.join(f'"{name}"' for name in SEVERITIES)
    + '? The answer is JSON with the keys "distortion_class" and "severity", '
    f'both "{NONE}" if it is not degraded.'
  )

  def question(self, task: str) -> str:
    """The user's words.

    Raises:
      ValueError: another task.
    """
    if task not in TASKS:
      raise ValueError(f'task={task!r}, expected one of {TASKS}')
    return getattr(self, task)

  def system_text(self, example: str) -> str:
    """The system message with its example; '' if there is none."""
    return self.system.replace(_EXAMPLE, example)
