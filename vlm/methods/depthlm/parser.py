"""Ways to read answers, and why one could not be read.

'strict' is ours (`text.parse_metres`). 'official' behaves like the expression
parser upstream scores with (spec 6): over the whole output the last number
wins, fractions are evaluated, an exponent is dropped, numbers glued to a tag,
to '~' or to '+' are not seen, and an equation or a percentage fails. Its one
behaviour we do not follow is in the metric: there a negative answer is wrong.
"""

import re
from collections import Counter
from collections.abc import Iterable

from vlm.methods.depthlm import text

PARSERS = ('strict', 'official')
FAILURES = ('empty', 'no number', 'not positive')

_INTEGER = r'(?:\d{1,3}(?:,\d{3})+|\d+)'
_DECIMAL = rf'(?:{_INTEGER}(?:\.\d+)?|\.\d+)'
_OFFICIAL = re.compile(
  r'(?P<equals>=\s*)?(?<![\w.,~>+])(?P<sign>-?)'
  rf'(?:\\frac\{{(?P<top>{_DECIMAL})\}}\{{(?P<bottom>{_DECIMAL})\}}'
  rf'|(?P<number>{_DECIMAL})(?:[eE][-+]?\d+)?'
  rf'(?:\s*/\s*(?P<divisor>{_DECIMAL}))?)'
  r'(?![\d<])(?P<percent>\s*\\?%)?',
  re.ASCII,
)


def parse(output: str, mode: str = 'strict') -> float | None:
  """The number an output states; the official mode also gives negative ones.

  Raises:
    ValueError: an unknown mode.
  """
  if mode == 'strict':
    return text.parse_metres(output)
  if mode == 'official':
    return _official(output)
  raise ValueError(f'parser must be one of {PARSERS}, got {mode!r}')


def _official(output: str) -> float | None:
  found = list(_OFFICIAL.finditer(output))
  if not found or found[-1]['equals'] or found[-1]['percent']:
    return None
  last = found[-1]
  top = last['top'] or last['number']
  bottom = last['bottom'] or last['divisor'] or '1'
  top, bottom = (float(part.replace(',', '')) for part in (top, bottom))
  if bottom == 0:
    return None
  return (-1 if last['sign'] else 1) * top / bottom


def failure(output: str, mode: str = 'strict') -> str | None:
  """Why an output counts as wrong whatever the truth; None when it does not.

  One of `FAILURES`.
  """
  if not output.strip():
    return 'empty'
  number = parse(output, mode)
  if number is None and mode == 'strict':
    number = text.stated_number(output)
  if number is None:
    return 'no number'
  return None if number > 0 else 'not positive'


def count_failures(
  outputs: Iterable[str], mode: str = 'strict'
) -> dict[str, int]:
  """{failure: number of outputs}, every one of `FAILURES` named."""
  counts = Counter(failure(output, mode) for output in outputs)
  return {name: counts[name] for name in FAILURES}
