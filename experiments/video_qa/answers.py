"""From what a model says to the option it means.

The published rule takes the first letter in range, wherever it stands, so that
'Cannot tell' means C and 'A man runs' means A. Here a letter counts where it
stands alone; a model that replies as it is told to is read alike by both.
"""

import re
from collections.abc import Sequence

from data.sources.video_qa import LETTERS

# Ways to lead up to a letter, which would otherwise hide it.
_LEAD = re.compile(
  r'\b(?:(?:the|my)\s+)?(?:(?:best|correct|right|final)\s+)?'
  r'(?:answer|option|choice)\b(?:\s+is\b)?\s*:?\s*',
  re.IGNORECASE,
)


def parse(text: str, options: Sequence[str]) -> int | None:
  """The number of the option that an answer names.

  In this order: a letter that the answer begins with and that ends there or is
  followed by punctuation ('B', 'b.', '(C) a cat', '**D**'); an option word by
  word; a capital letter behind 'the answer is' and the like; a letter in
  parentheses; the first capital letter that stands alone, unless it is an A in
  front of a word in small letters.

  Args:
    text: what the model said.
    options: without letters.

  Returns:
    Its number, None where no option is named.
  """
  letters = LETTERS[: len(options)]
  either = f'[{letters}{letters.lower()}]'
  bare = _LEAD.sub(' ', text).strip()
  first = rf'[\s\W_]*({either})(?:[\W_]*$|\s*[.):,\]*])'
  found = _lettered(re.match(first, bare), letters)
  if found is None:
    found = _worded(bare, options)
  if found is not None:
    return found
  alone = rf'(?<![\w\'’])([{letters}])(?![\w\'’])'
  led = re.search(rf'(?i:{_LEAD.pattern})[\W_]*{alone}', text)
  inside = re.search(rf'\(\s*({either})\s*\)', bare)
  anywhere = re.search(rf'(?!A\s+[a-z]){alone}', bare)
  return _lettered(led or inside or anywhere, letters)


def _lettered(match: re.Match | None, letters: str) -> int | None:
  return None if match is None else letters.index(match.group(1).upper())


def _worded(said: str, options: Sequence[str]) -> int | None:
  plain = [_plain(option) for option in options]
  said = _plain(said)
  return plain.index(said) if plain.count(said) == 1 else None


def _plain(text: str) -> str:
  return re.sub(r'\W+', ' ', text).strip().casefold()
