"""Tokenizer and template of the miniature: some fifty words.

Completions have the very shape of the full-size prompt, so prompts, rewards and
readers are the same code.
"""

import re

from data.chat import Chat, char_tokenizer
from data.sources.iqa_meta import ANSWER
from data.worlds.degradations import KINDS
from data.worlds.photos import CLEAN
from vlm.methods.rali.levels import LEVELS
from vlm.methods.rali.prompts import NONE, SEVERITIES

SCORE, DEGRADATION = 'rate?', 'name?'
_SPECIALS = ('<pad>', '<end>', '<sep>', '<image>', '<video>')
# What a rating stands behind, with and without reasoning before it.
RATING = ('\n<answer>\n{"rating": ', '<answer>\n{"rating": ')
# What any answer stands behind.
OPENINGS = (
  *RATING,
  '\n<answer>\n{"distortion_class": "',
  '<answer>\n{"distortion_class": "',
)
SHAPE = (
  '<think>\n',
  '\n</think>',
  *OPENINGS,
  '", "severity": "',
  '"}\n</answer>',
  '}\n</answer>',
)
_WORDS = (*KINDS, *SEVERITIES, CLEAN, NONE, *ANSWER.split('{level}'), *LEVELS)
_TEMPLATE = (
  '{% for m in messages %}'
  "{% if m.role == 'assistant' %}{% generation %}"
  '{{ m.content if m.content is string else m.content[0].text }}<end>'
  '{% endgeneration %}{% else %}{% for part in m.content %}'
  "{{ '<image>' if part.type == 'image' else part.text }}"
  '{% endfor %}<sep>{% endif %}{% endfor %}'
)


_UNITS = (SCORE, DEGRADATION, *SHAPE, *_WORDS, ', ', ' ', *'.0123456789')
_READABLE = re.compile(f'(?:{"|".join(map(re.escape, _UNITS))})*')


def readable(text: str) -> bool:
  """Whether the words make it up: a comma that ends a text is none of them."""
  return _READABLE.fullmatch(text) is not None


def chat() -> Chat:
  """The miniature's tokenizer and template."""
  tokenizer = char_tokenizer(_UNITS, _SPECIALS)
  return Chat(
    tokenizer.to_str(),
    _TEMPLATE,
    {'image': '<image>', 'video': '<video>'},
    {'eos_token': '<end>'},
  )
