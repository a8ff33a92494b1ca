"""Where log rows go: metrics.jsonl and TensorBoard event files.

Only process 0 writes. A resumed run continues both without a doubled or a
missing row: rows after the step it resumes from are taken out.
"""

import json
import numbers
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

# An object store has no append: there the file is written anew, this often.
REMOTE_EVERY_S = 60.0


class ScalarLog:
  """Rows of scalars in a workdir, local or gs://."""

  def __init__(self, workdir: str | os.PathLike, *, step: int = 0):
    """Opens the log at a step; rows of later steps are dropped.

    Args:
      workdir: Folder; metrics.jsonl and tensorboard/ appear in it.
      step: Finished steps of the state that the run starts from.
    """
    self._active = jax.process_index() == 0
    if not self._active:
      return
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    self._path = workdir / 'metrics.jsonl'
    self._remote = '://' in str(workdir)
    self._lines = _lines_until(self._path, step)
    self._replace()
    self._file = None if self._remote else self._path.open('a')
    self._board = _summary_writer()(
      str(workdir / 'tensorboard'),
      purge_step=step + 1,
      # Two starts within one second would otherwise share a file.
      filename_suffix=f'.{time.time_ns()}',
    )

  def write(self, row: Mapping[str, Any]) -> None:
    """Adds a row; it must have 'step'. Numbers also go to TensorBoard."""
    if not self._active:
      return
    line = json.dumps(dict(row)) + '\n'
    if self._remote:
      self._lines.append(line)
      if time.monotonic() - self._replaced > REMOTE_EVERY_S:
        self._replace()
    else:
      self._file.write(line)
      self._file.flush()
    for name, value in row.items():
      if name not in ('step', 'steps') and isinstance(value, numbers.Real):
        self._board.add_scalar(name, value, row['step'])

  def flush(self) -> None:
    """Makes every row so far durable; called before a checkpoint."""
    if not self._active:
      return
    self._board.flush()
    if self._remote:
      self._replace()

  def close(self) -> None:
    """Flushes and closes the files."""
    if not self._active:
      return
    self.flush()
    self._board.close()
    if self._file:
      self._file.close()
    self._active = False

  def _replace(self) -> None:
    partial = self._path.with_name('metrics.jsonl.partial')
    partial.write_text(''.join(self._lines))
    partial.replace(self._path)
    self._replaced = time.monotonic()


def _lines_until(path: epath.Path, step: int) -> list[str]:
  """Whole rows up to `step`; a row torn by a kill is always a later one."""
  lines = []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      if json.loads(line)['step'] <= step:
        lines.append(line + '\n')
    except ValueError:
      break
  return lines


def _summary_writer() -> type:
  """tensorboardX's writer, without torch.

  It imports torch wherever that is installed, only to recognise tensors: 2 s
  and 300 MB at every start for nothing.
  """
  absent = 'torch' not in sys.modules
  if absent:
    sys.modules['torch'] = None
  try:
    from tensorboardX import SummaryWriter
  finally:
    if absent:
      del sys.modules['torch']
  return SummaryWriter
