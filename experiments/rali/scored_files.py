"""Scores that something else gave to images: csv or jsonl files.

  image,score                     a csv file with a header
  {"image": "a.jpg", "score": 3.1}   a line of a jsonl file

Other columns are ignored. An image is found by its whole path, else by the end
of its path, else by its base name, where that is the only one.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from data.sources import jsonl
from experiments.rali.ask import Row, known


def read(path: epath.PathLike) -> dict[str, float]:
  """{image: score}.

  Raises:
    FileNotFoundError: no such file.
    ValueError: a file of another form, a score that is no number, or two
      different scores of one image; by its name.
  """
  path = jsonl.require_file(path)
  if path.suffix == '.csv':
    with path.open('r') as file:
      rows = list(csv.DictReader(file))
  elif path.suffix == '.jsonl':
    source = jsonl.JsonlSource(path)
    rows = [source[number] for number in range(len(source))]
  else:
    raise ValueError(
      f'--predictions={path}: expected a name ending in .csv or .jsonl'
    )
  scores: dict[str, float] = {}
  for number, row in enumerate(rows):
    image, score = _pair(row, f'{path}, row {number}')
    if scores.setdefault(image, score) != score:
      raise ValueError(f'{path}, row {number}: a second score of {image}')
  if not scores:
    raise ValueError(f'--predictions={path} holds no score')
  return scores


def _pair(row: Mapping[str, Any], where: str) -> tuple[str, float]:
  if row.get('image') is None or row.get('score') is None:
    raise ValueError(
      f"{where}: expected 'image' and 'score', got {sorted(map(str, row))}"
    )
  try:
    score = float(row['score'])
  except (TypeError, ValueError):
    score = math.nan
  if not math.isfinite(score):
    raise ValueError(f'{where}: {row["image"]} has the score {row["score"]!r}')
  return str(row['image']), score


class Lookup:
  """Finds the score of an image."""

  def __init__(self, scores: Mapping[str, float]):
    self._scores = scores
    self._by_name: dict[str, list[str]] = defaultdict(list)
    for image in scores:
      self._by_name[epath.Path(image).name].append(image)

  def find(self, image: epath.Path) -> float | None:
    """The score; None where there is none.

    Raises:
      ValueError: several could be meant.
    """
    if str(image) in self._scores:
      return self._scores[str(image)]
    named = self._by_name.get(image.name, [])
    parts = epath.Path(image).parts
    ends = [
      name
      for name in named
      for given in [epath.Path(name).parts]
      if parts[-len(given) :] == given or given[-len(parts) :] == parts
    ]
    found = ends or named
    if len(found) > 1:
      raise ValueError(
        f'{image} may be {found[0]} or {found[1]}; give longer paths in '
        '--predictions'
      )
    return self._scores[found[0]] if found else None


def records(
  rows: Sequence[Row], scores: Mapping[str, float]
) -> list[dict[str, Any]]:
  """Records as score.py wants them.

  Raises:
    ValueError: images without a score. They are not left out: over fewer images
      a correlation is another number.
  """
  lookup = Lookup(scores)
  found = [(row, lookup.find(epath.Path(row['image']))) for row in rows]
  missing = [row for row, score in found if score is None]
  if missing:
    raise ValueError(
      f'--predictions: {len(missing)} of {len(rows)} images have no score, '
      f'first {missing[0]["image"]} of {missing[0]["dataset"]}; score them, or '
      'name fewer --sets'
    )
  return [
    known(row)
    | {'prediction': None, 'score': score, 'failure': '', 'problem': ''}
    for row, score in found
  ]
