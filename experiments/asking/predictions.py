"""Predictions on disk: appended as they come, continued after a kill.

  settings.json       what the predictions depend on, written first
  predictions.jsonl   one record a line, in the order of the questions

Batches are the same in every run with the same settings, and a run continues at
the first batch of which not every line is there; so a run that was killed
leaves the same file as one that was not.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

# An object store has no append: there the file is written anew, this often.
REMOTE_EVERY_S = 60.0


class Predictions:
  """The predictions of a run, and how far it has come.

  Args:
    folder: local or gs://; made if it is not there.
    settings: plain JSON values by flag.
    total: questions there are.
    batch: questions of a batch.

  Raises:
    ValueError: the folder holds predictions under other settings, named.
  """

  def __init__(
    self,
    folder: epath.PathLike,
    settings: Mapping[str, Any],
    total: int,
    batch: int,
  ):
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    self.path = folder / 'predictions.jsonl'
    _agree(folder / 'settings.json', json.loads(json.dumps(dict(settings))))
    lines = _whole_lines(self.path)[:total]
    done = len(lines) if len(lines) == total else len(lines) // batch * batch
    self._lines = lines[:done]
    self._remote = '://' in str(folder)
    self._replace()
    self._file = None if self._remote else self.path.open('a')

  @property
  def done(self) -> int:
    """Questions answered, in whole batches."""
    return len(self._lines)

  def append(self, records: Sequence[Mapping[str, Any]]) -> None:
    """Adds the records of a batch."""
    lines = [json.dumps(dict(record)) + '\n' for record in records]
    self._lines += lines
    if self._file is not None:
      self._file.write(''.join(lines))
      self._file.flush()
    elif time.monotonic() - self._replaced > REMOTE_EVERY_S:
      self._replace()

  def close(self) -> None:
    """Makes every record durable."""
    if self._file is not None:
      self._file.close()
    else:
      self._replace()

  def read(self) -> list[dict[str, Any]]:
    """All records so far."""
    return [json.loads(line) for line in self._lines]

  def _replace(self) -> None:
    partial = self.path.with_name('predictions.jsonl.partial')
    partial.write_text(''.join(self._lines))
    partial.replace(self.path)
    self._replaced = time.monotonic()


def _whole_lines(path: epath.Path) -> list[str]:
  """Lines up to the first that a kill has torn."""
  lines = []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      json.loads(line)
    except ValueError:
      break
    lines.append(line + '\n')
  return lines


def _agree(path: epath.Path, settings: dict[str, Any]) -> None:
  """Writes the settings, or checks that those written are the same."""
  if not path.exists():
    path.write_text(json.dumps(settings, indent=1))
    return
  before = json.loads(path.read_text())
  other = [
    f'{name}: {before.get(name)!r} there, {settings.get(name)!r} now'
    for name in sorted({*before, *settings})
    if before.get(name) != settings.get(name)
  ]
  if other:
    raise ValueError(
      f'{path.parent} holds predictions under other settings:\n  '
      + '\n  '.join(other)
      + '\nContinue with the same flags, or set another --output'
    )


def reason(record: Mapping[str, Any]) -> str:
  """Why a question could not be asked, without the file's name."""
  return record['problem'].split(':')[0]
