"""What a long measurement has found so far: killed, it goes on from there.

    journal = Journal(epath.Path(config.workdir) / 'measured.jsonl', total=76)
    share = journal.value(['FlashVID', 0.1], lambda: measure(...))

The file lies beside the checkpoints of one config and one seed, so a value is
that of the same trained model.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

NAME = 'measured.jsonl'


class Journal:
  """Values by key, each a line of a file.

  Args:
    path: of the file; its folder is made.
    total: values there will be, for who watches.
  """

  def __init__(self, path: epath.PathLike, total: int):
    self._path, self._total = epath.Path(path), total
    self._found = {tuple(row['key']): row['value'] for row in _rows(self._path)}
    self._path.parent.mkdir(parents=True, exist_ok=True)

  def value(self, key: Sequence[Any], make: Callable[[], Any]) -> Any:
    """What was kept for `key`, strings and numbers, or else what `make` gives.

    A value that was just made is what JSON makes of it, as one that is read.
    """
    key = tuple(key)
    if key not in self._found:
      self._found[key] = json.loads(json.dumps(make()))
      self._write()
    return self._found[key]

  def _write(self) -> None:
    """Whole or not at all: object stores cannot append."""
    rows = [
      {'key': key, 'value': value, 'of': self._total}
      for key, value in self._found.items()
    ]
    scratch = self._path.with_suffix('.partial')
    scratch.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    scratch.replace(self._path)


def progress(path: epath.PathLike) -> str:
  """'12 of 76' where a measurement is under way or done, else ''."""
  rows = _rows(epath.Path(path))
  return f'{len(rows)} of {rows[-1]["of"]}' if rows else ''


def _rows(path: epath.Path) -> list[dict[str, Any]]:
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]
