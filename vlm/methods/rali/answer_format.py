r"""The format reward: 1 for a completion of the asked shape, else 0.

  strict       every tag on a line of its own, at its beginning; blanks at the
               ends of these lines; the answer is one pair of braces that opens
               a line and holds no other; behind it white space
  official     Q-Insight's published check: the same, but wherever strict
               allows blanks it allows line breaks too
  lenient      a think span, white space, an answer span (VisualQuality-R1)
  answer_only  the answer part of `strict`, for arms that do not think

All of the completion must match. None of them reads the JSON: `{}` is well
formed. Of strict and official follow: a completion on one line, a code fence
in the answer or white space in front of `<think>` earn nothing; braces in the
reasoning do no harm.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

_BLANKS = r'[ \t]*'
_BRACES = r'\{[^{}]*\}'


def _answer(blank: str) -> str:
  return rf'<answer>{blank}\n{_BRACES}{blank}\n{blank}</answer>\s*'  #


def _both(blank: str) -> str:
  return rf'<think>{blank}\n.*?\n{blank}</think>{blank}\n' + _answer(blank)


_PATTERNS = {
  'strict': _both(_BLANKS),
  'official': _both(r'\s*'),
  'lenient': r'<think>.*?</think>\s*<answer>.*?</answer>',
  'answer_only': _answer(_BLANKS),
}
_COMPILED = {
  name: re.compile(pattern, re.DOTALL) for name, pattern in _PATTERNS.items()
}
FORMATS = tuple(_PATTERNS)


def format_reward(
  mode: str = 'strict',
) -> Callable[[str, Mapping[str, Any]], float]:
  """The reward of a mode, a function of a completion and its record.

  Raises:
    ValueError: another mode.
  """
  if mode not in FORMATS:
    raise ValueError(f'format={mode!r}, expected one of {FORMATS}')
  pattern = _COMPILED[mode]
  return lambda completion, record: float(bool(pattern.fullmatch(completion)))
