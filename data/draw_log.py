"""What was drawn for every training sample, one JSON line a batch.

  {"batch": 12, "where": ["rows.jsonl[7]", ...], "replay": [{...}, ...]}

A row and its draw make the sample again (`vlm.methods.depthlm.sample.replay`).
After a resumption batches repeat from the last checkpoint on; as everything is
a function of the seed, their lines are equal.
"""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath


class DrawLog:
  """Appends the draws of batches to a file, for `pipeline.build(observe=)`.

  Args:
    path: of the file; a local one, as it is appended to.
  """

  def __init__(self, path: epath.PathLike):
    self._path = epath.Path(path)
    self._path.parent.mkdir(parents=True, exist_ok=True)

  def __call__(self, number: int, batch: Mapping[str, Any]) -> None:
    """Writes the line of batch `number`.

    Raises:
      ValueError: for a task whose examples say nothing of their draws.
    """
    if '_replay' not in batch:
      raise ValueError(
        'the task gives no _replay with its examples; unset '
        '--config.data.log_draws'
      )
    line = {
      'batch': number,
      'where': batch['_where'],
      'replay': batch['_replay'],
    }
    with self._path.open('a') as file:
      file.write(json.dumps(line) + '\n')
