"""How a question is put: the shape of each benchmark's prompt, in our words.

The shapes (what stands in which order, how options are labelled) are those of
the published evaluation, spec section 5; the instructions are worded here. To
ask in other words, pass `--prompt` a JSON file with the fields of `Prompt`.
"""

import dataclasses
import json
from collections.abc import Mapping

from etils import epath

from data.sources.video_qa import LETTERS, Question


@dataclasses.dataclass(frozen=True)
class Prompt:
  """Lines of a prompt; empty ones are left out.

  Attributes:
    before: the line in front of the question.
    question: holds {question}.
    heading: the line between question and options.
    option: one line per option; holds {letter} and {text}.
    after: the lines behind the options.
  """

  before: str = ''
  question: str = '{question}'
  heading: str = ''
  option: str = '{letter}. {text}'
  after: str = ''

  def write(self, question: Question) -> str:
    """What the user says."""
    options = [
      self.option.replace('{letter}', letter).replace('{text}', text)
      for letter, text in zip(LETTERS, question.options)
    ]
    asked = self.question.replace('{question}', question.question)
    lines = [self.before, asked, self.heading, *options, self.after]
    return '\n'.join(line for line in lines if line)


LETTER_ONLY = 'Reply with nothing but the letter of the right option.'
BEST_ONLY = 'Reply with nothing but the best option.'
_CHOOSE = 'Choose the option that answers the question about the video'

# benchmark -> variant -> prompt; the first variant is the usual one.
PROMPTS: Mapping[str, Mapping[str, Prompt]] = {
  'videomme': {
    # The published text speaks of subtitles although none are shown.
    'default': Prompt(
      before=f'{_CHOOSE} and its subtitles. {LETTER_ONLY}',
      after='The letter of the right option:',
    ),
    'no_subtitles': Prompt(
      before=f'{_CHOOSE}. {LETTER_ONLY}',
      after='The letter of the right option:',
    ),
    'llava_video': Prompt(
      before=f'{_CHOOSE} and its subtitles. {LETTER_ONLY}',
      after='The best answer is:',
    ),
    'qwen3_vl': Prompt(heading='Options:', after=LETTER_ONLY),
  },
  'egoschema': {'default': Prompt(after=LETTER_ONLY)},
  'longvideobench': {'default': Prompt(after=LETTER_ONLY)},
  'mvbench': {
    'default': Prompt(
      question='Question:{question}',
      heading='Option:',
      option='({letter}) {text}',
      after=BEST_ONLY,
    )
  },
  'mlvu': {
    'default': Prompt(
      option='({letter}) {text}', after=f'{BEST_ONLY}\n\nBest option: ('
    )
  },
}


def choose(benchmark: str, name: str) -> Prompt:
  """A variant, or the prompt of a JSON file.

  Raises:
    ValueError: naming the flag, for what is neither.
  """
  variants = PROMPTS[benchmark]
  if not name:
    return next(iter(variants.values()))
  if name in variants:
    return variants[name]
  if not name.endswith('.json') or not epath.Path(name).exists():
    raise ValueError(
      f'--prompt={name}: expected one of {sorted(variants)} for {benchmark}, '
      'or a .json file that exists'
    )
  fields = json.loads(epath.Path(name).read_text())
  known = {field.name for field in dataclasses.fields(Prompt)}
  if not isinstance(fields, dict) or not known.issuperset(fields):
    raise ValueError(f'--prompt={name}: expected an object of {sorted(known)}')
  return Prompt(**fields)
