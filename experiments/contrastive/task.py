"""Pictures with one or several texts, as training pairs and for retrieval.

A row holds `image`, a path, encoded bytes or an array, and under
`config.data.texts` a text or a list of texts. Of a list, one text is drawn each
time the row is shown.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from data import records
from data.sources import open_source
from vlm.convert import folder as folders


class Task:
  """What launch/objectives/pairs.py asks of a contrastive experiment.

  Args:
    config: with `model.init_from`, `contrastive`, and `path`, `images`,
      `eval_path` and `texts` of `data`.
  """

  def __init__(self, config: Any):
    self._config = config

  def tokenizer_json(self) -> str:
    """Contents of the checkpoint's tokenizer.json."""
    path = folders.resolve(self._config.model.init_from) / 'tokenizer.json'
    if not path.exists():
      raise FileNotFoundError(f'no {path}; set --config.model.init_from')
    return path.read_text()

  def train_rows(self) -> tuple[list[Any], None]:
    """(sources, weights): the rows of `config.data.path`."""
    return [open_source(self._config.data.path)], None

  def eval_sets(self) -> dict[str, Sequence[Mapping[str, Any]]]:
    """The rows of `config.data.eval_path`, if there is one."""
    path = self._config.data.eval_path
    return {'eval': open_source(path)} if path else {}

  def pair(
    self, row: Mapping[str, Any], rng: np.random.Generator
  ) -> tuple[Any, str]:
    """A row's picture, and one of its texts.

    Raises:
      BadRecord: for a field that is missing, of another type, or empty.
    """
    picture, texts = self.texts(row)
    return picture, texts[rng.integers(len(texts))]

  def texts(self, row: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """A row's picture and its texts, at most `config.contrastive.texts`.

    Raises:
      BadRecord: see `pair`.
    """
    field, most = self._config.data.texts, self._config.contrastive.texts
    texts = records.require(row, field, (str, list))
    texts = [texts] if isinstance(texts, str) else texts[: most or None]
    if not texts:
      raise records.BadRecord('empty text', f'field {field!r} is an empty list')
    for number, text in enumerate(texts):
      if not isinstance(text, str) or not text.strip():
        raise records.BadRecord(
          'empty text', f'text {number} of field {field!r} is {text!r}'
        )
    return self._picture(row), texts

  def _picture(self, row: Mapping[str, Any]) -> Any:
    picture = records.require(row, 'image', (str, bytes, np.ndarray))
    if isinstance(picture, str):
      return epath.Path(self._config.data.images) / picture
    return picture
