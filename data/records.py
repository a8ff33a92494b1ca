"""What happens to a row that cannot be used: named, counted, never ignored.

A transform raises `BadRecord`. The row then travels through the workers as
that exception, keeps its place in the order, and is counted and dropped (or
raised) in the main process, so counts are exact for any number of workers.
"""

import dataclasses
from typing import Any

from absl import logging

REASONS = (
  'missing image',
  'corrupt image',
  'wrong type',
  'empty answer',
  'too long',
  'malformed json',
  'placeholder mismatch',
  'mismatched labels',
  'bad intrinsics',
  'pixel outside',
  'bad depth',
  'bad pose',
  'missing depth',
  'no usable label',
  'bad score',
  'empty text',
  'bad regions',
)
NAMED_PER_REASON = 3


class BadRecord(ValueError):
  """A row that cannot be used.

  Args:
    reason: one of `REASONS`; counts are kept per reason.
    detail: what was expected and what was found.
    where: file and row; filled in by the pipeline when left empty.
  """

  def __init__(self, reason: str, detail: str, where: str = ''):
    if reason not in REASONS:
      raise ValueError(f'reason {reason!r}, expected one of {REASONS}')
    super().__init__(reason, detail, where)
    self.reason, self.detail, self.where = reason, detail, where

  def at(self, where: str) -> 'BadRecord':
    """Returns the same finding with its place, unless it has one."""
    return BadRecord(self.reason, self.detail, self.where or where)

  def __str__(self) -> str:
    return f'{self.where or "a row"}: {self.reason}: {self.detail}'


@dataclasses.dataclass(frozen=True)
class BadRowPolicy:
  """When bad rows stop a run.

  Attributes:
    on_bad: 'raise' stops at the first bad row, 'skip' counts it.
    max_bad_share: largest share of bad rows among the rows seen.
    min_seen: the share is judged from this many rows on, and at the end; there
      a stream of nothing but bad rows fails whatever the share.
  """

  on_bad: str = 'raise'
  max_bad_share: float = 0.05
  min_seen: int = 100

  def __post_init__(self):
    if self.on_bad not in ('raise', 'skip'):
      raise ValueError(
        f"on_bad={self.on_bad!r}, expected 'raise' or 'skip'; "
        'set --config.data.on_bad'
      )
    if not 0 <= self.max_bad_share <= 1:
      raise ValueError(
        f'max_bad_share={self.max_bad_share}, expected a share in [0, 1]; '
        'set --config.data.max_bad_share'
      )


class BadRowCounts:
  """Counts rows seen and bad rows by reason, and applies the policy."""

  def __init__(self, policy: BadRowPolicy):
    self._policy = policy
    self.seen = 0
    self.bad: dict[str, int] = {}

  def good(self) -> None:
    """Counts one usable row."""
    self.seen += 1
    self._judge(self._policy.min_seen)

  def report(self, record: BadRecord) -> None:
    """Counts one bad row.

    Raises:
      BadRecord: under the policy 'raise'.
      RuntimeError: when the share of bad rows is above the limit.
    """
    self.seen += 1
    count = self.bad[record.reason] = self.bad.get(record.reason, 0) + 1
    if self._policy.on_bad == 'raise':
      record.add_note(
        'Repair the row, or set --config.data.on_bad=skip to count such rows '
        'and go on.'
      )
      raise record
    if count <= NAMED_PER_REASON:
      logging.warning('Skipped bad row %s', record)
      if count == NAMED_PER_REASON:
        logging.warning('Further rows with %r are only counted.', record.reason)
    self._judge(self._policy.min_seen)

  def finish(self) -> None:
    """Judges the share at the end of the data, however few rows there were."""
    self._judge(1)

  def _judge(self, min_seen: int) -> None:
    bad = sum(self.bad.values())
    limit = self._policy.max_bad_share
    # Nothing but bad rows would be skipped for ever, whatever the limit.
    if self.seen >= min_seen and (bad > limit * self.seen or bad == self.seen):
      raise RuntimeError(
        f'{bad} of {self.seen} rows are bad ({bad / self.seen:.1%}), allowed '
        f'{limit:.1%}; by reason: {self.bad}. Repair the data or raise '
        '--config.data.max_bad_share'
      )

  def get_state(self) -> dict[str, Any]:
    """Returns the counts as plain JSON values."""
    return {'seen': self.seen, 'bad': dict(self.bad)}

  def set_state(self, state: dict[str, Any]) -> None:
    """Takes the counts back."""
    self.seen, self.bad = state['seen'], dict(state['bad'])


def require(row: dict[str, Any], field: str, kind: type | tuple) -> Any:
  """Returns `row[field]`, which must be of type `kind`.

  Raises:
    BadRecord: 'wrong type' when the field is absent or of another type.
  """
  if field not in row:
    raise BadRecord(
      'wrong type', f'no field {field!r}; fields are {sorted(row)}'
    )
  if not isinstance(row[field], kind):
    kinds = kind if isinstance(kind, tuple) else (kind,)
    names = ' or '.join(k.__name__ for k in kinds)
    raise BadRecord(
      'wrong type',
      f'field {field!r} is {type(row[field]).__name__}, expected {names}',
    )
  return row[field]


def require_answer(text: Any) -> str:
  """Returns a non-empty answer, or raises 'wrong type' or 'empty answer'."""
  if not isinstance(text, str):
    raise BadRecord(
      'wrong type', f'the answer is {type(text).__name__}, expected str'
    )
  if not text.strip():
    raise BadRecord('empty answer', 'the answer has no visible character')
  return text
