"""Photographs with what a teacher said of them, from its folder.

Beside the run's checkpoint lies descriptions-FAMILY.json, as launch.describe
writes it: records with `id` and `descriptions`. Runs that learn from them name
the folder in `config.described`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath


def path_of(folder: str, family: str) -> epath.Path:
  """The file of a family's descriptions in a run's folder."""
  return epath.Path(folder) / f'descriptions-{family}.json'


def joined(rows: Sequence[Mapping[str, Any]], folder: str) -> 'Described':
  """A family's rows with the descriptions of a run.

  Args:
    rows: with `id`.
    folder: of the run that described them.

  Raises:
    FileNotFoundError: the run described none.
    ValueError: it had nothing to say of any of them.
  """
  family = rows[0]['dataset']
  path = path_of(folder, family)
  if not path.exists():
    raise FileNotFoundError(
      f'no {path}: name the family in the --config.measure.describe of that run'
    )
  records = json.loads(path.read_text())
  said = {record['id']: record['descriptions'] for record in records}
  places = [n for n in range(len(rows)) if rows[n]['id'] in said]
  if not places:
    raise ValueError(f'{path} describes no photograph of family {family!r}')
  return Described(rows, said, places)


class Described(Sequence):
  """Rows that have a description, under `description` and `descriptions`.

  Args:
    rows: all of them.
    said: {id: texts}.
    places: of the rows that have any.
  """

  def __init__(
    self,
    rows: Sequence[Mapping[str, Any]],
    said: Mapping[str, list[str]],
    places: Sequence[int],
  ):
    self._rows, self._said, self._places = rows, said, places
    self.name = f'{rows.name}, described'

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, index: int) -> dict[str, Any]:
    row = self._rows[self._places[index]]
    texts = self._said[row['id']]
    return row | {'description': texts[0], 'descriptions': texts}
